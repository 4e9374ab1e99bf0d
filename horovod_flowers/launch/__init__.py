"""How ranks are started, and what the launcher tells each of them.

launchers.py        mpirun, mpiexec, horovodrun, srun: the one place that spells their commands
slots.py            where ranks may be placed: named nodes, a scheduler's allocation, this machine
ranks_job.py        a command on ranks: the job, and whether its end is what it seems to be
rank_reports.py     whether its ranks have run at all, and how they say that they ended
open_mpi_tcp.py     a setting of Open MPI for TCP between nodes, where it is right
job_environment.py  rank and world size, from the launcher's environment variables
launchers_above.py  the launcher among this process' parents, where it sets no variables that are known
job.py              a launcher with all that it starts, run from outside and ended for certain
signals.py          signals that are answered one after the other meanwhile
process_tree.py     all that a launcher has started here, found and ended
guard.py            ends a job whose launcher is gone
"""
