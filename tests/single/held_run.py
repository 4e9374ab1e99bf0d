"""A process that holds a run, for tests of those who meet it there."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import clean_environment

PROGRAM = """
import sys, time
from pathlib import Path
from horovod_flowers.runlog.run_hold import RunHold

hold = RunHold("horovod_flowers.train", beat_seconds=0.05)
hold.take(Path(sys.argv[1]), "wait")
print("held", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def another_process(run: Path) -> Iterator["subprocess.Popen[str]"]:
    """That holds the run, until it is killed."""
    words = [sys.executable, "-c", PROGRAM, str(run)]
    environment = clean_environment()
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()
