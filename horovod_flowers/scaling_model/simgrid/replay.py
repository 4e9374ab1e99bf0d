"""Finds SimGrid's smpirun, lets it replay a trace, and reads the simulated time."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from horovod_flowers.launch.process_tree import ProcessTree
from horovod_flowers.runtime.errors import UserError

SECONDS_ALLOWED = 600.0
# What a message takes is what the formulas say: no factors of SimGrid's own calibration (bw-factor, lat-factor), no
# acknowledgements on the way back (crosstraffic), no window of TCP, no sending ahead of the receiver.
_SETTINGS = (
    "smpi/bw-factor:0:1.0", "smpi/lat-factor:0:1.0", "network/crosstraffic:no", "network/TCP-gamma:0",
    "smpi/send-is-detached-thresh:0", "smpi/async-small-thresh:0", "smpi/host-speed:1Gf",
    # Replayed ranks have no variables of their own, of which each would else get a copy, mapped anew.
    "smpi/privatization:no", "contexts/guard-size:0",
)  # fmt: skip
# Twelve digits of the simulated time, of which the message itself has six.
_LOGGING = ("smpi_replay.fmt:%.12r%e%m%n", "smpi_config.thres:critical", "xbt_cfg.thres:critical")
_TIME = re.compile(r"^(\S+) Simulation time", re.MULTILINE)


def find_smpirun() -> Path:
    """SimGrid's smpirun, on PATH. Raises UserError."""
    found = shutil.which("smpirun")
    if found is None:
        raise UserError(
            "the engine simgrid needs SimGrid's smpirun, which is not on PATH: install it with tools/simgrid.sh, or "
            "take --engine formula (docs/scale.md)"
        )
    return Path(found)


def replayed_seconds(
    platform: Path,
    traces: Path,
    hostfile: Path,
    actors: int,
    seconds_allowed: float = SECONDS_ALLOWED,
    settings: Sequence[str] = (),
) -> float:
    """Replay the traces that `traces` lists, and return the time at which the last actor had done.

    settings: of SimGrid's, beside those that make it agree with the formulas.
    Raises UserError where SimGrid is missing, fails or takes too long; it is ended with all that it started.
    """
    smpirun = find_smpirun()
    command = [
        str(smpirun), "-np", str(actors), "-platform", str(platform), "-hostfile", str(hostfile),
        "-replay", str(traces), *(f"--cfg={each}" for each in (*_SETTINGS, *settings)),
        *(f"--log={each}" for each in _LOGGING),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=traces.parent, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds_allowed)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"SimGrid has not finished {actors} actors in {seconds_allowed:g} s: simulate fewer ranks"
        ) from None
    finally:
        if process.poll() is None:
            ProcessTree(process.pid).kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    times = [float(found) for found in _TIME.findall(output)]
    if process.returncode != 0 or not times:
        raise UserError(f"SimGrid's smpirun failed (exit status {process.returncode}): {_last_words(output)}")
    return max(times)


def _last_words(output: str) -> str:
    """The last lines that say something, in one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " / ".join(lines[-3:])[:400] or "it said nothing"
