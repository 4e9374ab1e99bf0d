"""The ranks among themselves, outside of a step: start-up, communicator, cores, stopping, stalls.

startup.py            MPI, cores and threads, TensorFlow, Horovod, in the order that each needs
mpi_start.py          MPI loaded, asked what it is, checked against launcher and Horovod, and started
mpi_binding.py        MPI's calls bound to its own functions, where TensorFlow has others of the same names
horovod_build.py      what Horovod was built for, and its import
communicator.py       this process among the ranks, and the collective calls outside of a step; what carries them:
                      mpi.py, gloo.py (elastic), single_process.py
affinity.py           which cores each rank of a node gets
tensorflow_import.py  TensorFlow imported in half the time
tensorflow_notices.py what TensorFlow says of itself from every rank, left out
onednn.py             in which format oneDNN computes, told before that import
same_weights.py       ranks that should hold the same weights and do not
stop_request.py       ending early without losing anything (SIGUSR1, SIGTERM)
stall_watch.py        ends a job in which nothing moves, and names the rank; stall_status.py: what the ranks say
"""
