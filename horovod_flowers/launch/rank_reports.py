"""Whether the ranks of a job have run at all: each says so by a file, before its command begins.

A launcher that does not understand its options, or was told to start nothing, may end with status 0 all the same:
MPICH's mpiexec takes Open MPI's -H for a request for help. A job whose ranks never ran must not pass for one that went
well.

What is put before a rank's command is a shell that writes the file and then becomes that command: the same process.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

SCRIPT = '(: > "$0/$(uname -n)-$$") 2>/dev/null; exec "$@"'
"""In a shell of its own, since one that cannot write ends. Process ids alone would be the same on two nodes."""
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
