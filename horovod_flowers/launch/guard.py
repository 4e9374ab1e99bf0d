"""Ends a job whose launcher has gone without ending it: killed (kill -9), crashed, or taken away with its terminal.

    python -m horovod_flowers.launch.guard

One stands beside each job (`job.run_job`), in a session of its own. It reads the job's process id from its standard
input, and a folder to be removed where there is one; then the end of that input comes when the launcher is gone: the
launcher kills its guard where the job has ended before.
"""

import os
import shutil
import signal
import sys

from horovod_flowers.launch.process_tree import ProcessTree

SECONDS_FOR_PARENTS_DEATH = 3.0
"""For what the kernel sends the launcher's child when the launcher dies (`job.run_job`): a second SIGTERM makes mpirun
forget how to end."""


def main() -> None:
    """Wait, and end what is left."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # what a whole job is sent ends its launcher, and is then answered here
    told = sys.stdin.buffer.readline()
    if not told.strip():
        return  # the launcher has gone before it had started anything
    job = ProcessTree(int(told))
    folder = sys.stdin.buffer.read()
    job.wait(SECONDS_FOR_PARENTS_DEATH)
    job.end()
    if folder:
        shutil.rmtree(os.fsdecode(folder), ignore_errors=True)


if __name__ == "__main__":
    main()
