"""What the ranks of a job tell their launcher by files: that they run, and the status with which they end.

A launcher that does not understand its options, or was told to start nothing, may end with status 0 all the same:
MPICH's mpiexec takes Open MPI's -H for a request for help. A job whose ranks never ran must not pass for one that went
well, nor one whose ranks stopped early or failed: Hydra 4.0.2 now and then ends with 0 though every rank ended with 75.

What is put before a rank's command is a shell that writes an empty file and then becomes that command: the same
process. A command of this package writes its status into the file, unless that is 0 (runtime/exit.py).
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from horovod_flowers.runtime.exit import EXIT_STOPPED, REPORT_VARIABLE

SCRIPT = f'export {REPORT_VARIABLE}="$0/$(uname -n)-$$"; (: > "${REPORT_VARIABLE}") 2>/dev/null; exec "$@"'
"""Writes in a shell of its own, since one that cannot write ends. Process ids alone would be the same on two nodes."""
SECONDS_TO_SHOW = 3.0
"""For a file to be seen that another node has written."""


@contextlib.contextmanager
def folder_for_reports(here: bool) -> Iterator[Path | None]:
    """A folder for as long as the job runs, where its ranks can write; None where there is no room for one.

    Among temporary files where all ranks are `here`, on this machine; else in the working folder, where ranks begin,
    too, in the hope that the other nodes see it.
    """
    made = None
    for place in [None] if here else [Path.cwd(), None]:
        with contextlib.suppress(OSError):
            made = Path(tempfile.mkdtemp(prefix=".horovod_flowers-ranks-", dir=place))
            break
    try:
        yield made
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def reporting(words: Sequence[str], folder: Path | None) -> list[str]:
    """The command of a rank, which reports first. One that is not there stays as it is: its launcher says so better."""
    if folder is None or shutil.which(words[0]) is None:
        return list(words)
    return ["sh", "-c", SCRIPT, str(folder), *words]


def reported(folder: Path | None, ranks: int, here: bool) -> int:
    """How many have, waiting for all of them: what other nodes have written may take a moment to be seen."""
    if folder is None:
        return 0
    deadline = time.monotonic() + (0.0 if here else SECONDS_TO_SHOW)
    while (seen := len(os.listdir(folder))) < ranks and time.monotonic() < deadline:
        time.sleep(0.1)
    return seen


def status_of(folder: Path | None) -> int:
    """With which the ranks have ended, by what they say; 0 where none says anything else.

    Of several that differ the largest, but that of a rank that stopped early last: it says that nothing is wrong.
    """
    if folder is None:
        return 0
    told = [path.read_text() for path in folder.iterdir()]
    return max(
        (int(text) for text in told if text.isdecimal()), key=lambda status: (status != EXIT_STOPPED, status), default=0
    )
