"""Notices that TensorFlow prints while it is imported are left out; all else that is printed stays, in its order."""

import signal
import sys
from pathlib import Path

import pytest

from tests.conftest import run_command

PRINTED = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795791377.930610    1981 port.cc:153] oneDNN custom operations are on. You may see slightly different
a line of somebody else: Grüße
W0000 00:00:1795791377.930610    1981 port.cc:153] a warning
E0000 00:00:1795791377.930610    1981 cuda_dnn.cc:8579] an error
"""
KEPT = PRINTED[PRINTED.index("a line") :]
PROGRAM = f"""
import os
from horovod_flowers.ranks.tensorflow_notices import without_notices
with without_notices():
    os.write(2, {PRINTED.encode()!r})
    os.write(2, b"to the last word")
    END
print("I0000 00:00:1795791377.930610    1981 port.cc:153] later", file=__import__("sys").stderr)
"""


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("pass", 0, "to the last wordI0000 00:00:1795791377.930610    1981 port.cc:153] later\n"),
        ("os.abort()", -signal.SIGABRT, "to the last word"),
        ("raise SystemExit(3)", 3, "to the last word"),
    ],
)
def test_notices_are_left_out_and_nothing_else_is_lost(tmp_path: Path, end: str, status: int, said: str) -> None:
    """Though the process crashes."""
    ended = run_command([sys.executable, "-c", PROGRAM.replace("END", end)], tmp_path)
    assert (ended.status, ended.stderr) == (status, KEPT + said)


def test_without_a_sed_all_is_printed(tmp_path: Path) -> None:
    program = PROGRAM.replace("END", "pass").replace("import os", "import os; os.environ['PATH'] = '/nowhere'", 1)
    ended = run_command([sys.executable, "-c", program], tmp_path)
    assert ended.stderr.startswith(PRINTED)
