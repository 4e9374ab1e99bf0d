"""What each MPI is like: one class for each library, and one for each program that starts its ranks.

library.py          what the rest of the package asks of an MPI library, and one that is not known
process_manager.py  the same of a program that starts ranks, and one that is not known
open_mpi.py         Open MPI 4 and 5, and their mpirun
mpich.py            MPICH, and Cray MPICH, MVAPICH and ParaStation MPI, which are made from it
hydra.py            mpiexec and mpirun of MPICH and MVAPICH
intel_mpi.py        Intel MPI, and its own Hydra
pals.py             mpiexec of HPE's PALS, which starts ranks on Cray systems with PBS
identify.py         which library Python finds, and of which kind a program is: both are asked
"""
