# shellcheck shell=bash
# What differs from site to site: copy to slurm/site.sh and change. Every line may be left out; the values here are
# defaults or examples. Sourced by the job scripts on the nodes and by submit.sh on the login node.

# Read by sbatch and salloc: 'source slurm/site.sh' before a plain 'sbatch slurm/scale.sbatch'; submit.sh does so itself.
#export SBATCH_PARTITION=compute SALLOC_PARTITION=compute
#export SBATCH_ACCOUNT=my-project SALLOC_ACCOUNT=my-project
#export SBATCH_QOS=normal
#export SBATCH_CONSTRAINT=cascadelake       # the same kind of node for every point

# Modules, and the environment in which horovod_flowers is installed (default: .venv of the project, as ./flowers makes it).
#module load gcc openmpi/4.1                 # or mpich, cray-mpich, intel-oneapi-mpi: the MPI that Horovod was built with
#source "$HOME/envs/horovod-flowers/bin/activate"
#source "$HOME/horovod_flowers/.venv-system/bin/activate"   # as ./flowers --mpi system makes it, its MPI's module loaded

# How ranks are started: mpirun, mpiexec (PALS), horovodrun (needs ssh between nodes), srun or ibrun (TACC). Default:
# mpirun, or where there is none mpiexec or srun. Default of srun's --mpi: pmix for Open MPI, pmi2 for MPICH and Intel
# MPI, cray_shasta for Cray MPICH; empty leaves it to the site.
#export FLOWERS_LAUNCHER=mpirun
#export FLOWERS_SRUN_MPI=
#export FLOWERS_LAUNCHER_OPTIONS='--mca pml ucx'   # words to add for that launcher: here of Open MPI's mpirun

# Ranks per node, for submit.sh (sbatch itself: --ntasks-per-node), and for PBS where $PBS_NODEFILE names each node once.
#export FLOWERS_TASKS_PER_NODE=2

# The network, where MPI does not find the fast one by itself (one line for your MPI); for NCCL too.
#export OMPI_MCA_btl_tcp_if_include=ib0      # Open MPI
#export UCX_NET_DEVICES=ib0                  # MPICH with UCX
#export FI_TCP_IFACE=ib0                     # Intel MPI, MPICH with libfabric
#export NCCL_SOCKET_IFNAME=ib0

# What the preflight requires of it, in GB/s and milliseconds.
#export FLOWERS_LEAST_BANDWIDTH=0.1 FLOWERS_MOST_LATENCY_MS=20

# How often a job that was stopped by its time limit or pre-empted may be requeued.
#export MAX_RESTARTS=10
