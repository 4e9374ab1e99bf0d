"""How Open MPI 4 is told to use TCP between nodes: one setting of its transport, measured (docs/batch-jobs.md).

By default two ranks that send each other more than 192 KiB at a time often take turns: the whole of one message passes
before the other's begins, so that such an exchange takes twice the time of a message, and an allreduce, whose ranks
exchange in pairs, 1.7 to 2.1 times that of its bytes. Without the transport's put (btl_tcp_flags) messages are sent in
pieces, both ways at a time. Nothing but TCP reads the setting: not InfiniBand, not shared memory.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from horovod_flowers.mpi.open_mpi import OpenMpiRun
from horovod_flowers.runtime.errors import UserError

NAME, VALUE = "btl_tcp_flags", "send"
SWITCH = "FLOWERS_TCP_SETTINGS"
"""auto, or nothing: where it is known to be right; 0 leaves Open MPI as it is; 1 sets it in any case."""
MOST_MBIT = 10_000
"""Of an interface. On faster ones the cores limit TCP, and pieces that are copied cost a little more."""
_INFINIBAND, _INTERFACES = Path("/sys/class/infiniband"), Path("/sys/class/net")


def tcp_words(mpirun: OpenMpiRun, nodes: int, environment: Mapping[str, str], options: Sequence[str] = ()) -> list[str]:
    """Words for an mpirun that starts ranks on so many nodes: the setting where it is right, or asked for; else none.

    `options`: the user's own words, which come first. Raises UserError where the switch is none.
    """
    wanted = environment.get(SWITCH, "").strip().lower() or "auto"
    if wanted not in ("auto", "0", "1"):
        raise UserError(f"{SWITCH} is {environment[SWITCH]!r}: give auto, 0 (never) or 1 (always)")
    if wanted == "0" or nodes < 2 or f"OMPI_MCA_{NAME}" in environment or NAME in options:
        return []
    words = ["--mca", NAME, VALUE]
    if wanted == "1":
        return words
    return words if not is_fast() and mpirun.is_4 else []


def is_fast(infiniband: Path = _INFINIBAND, interfaces: Path = _INTERFACES) -> bool:
    """Whether this node has what is faster than TCP, or a network on which TCP is limited by the cores."""
    if infiniband.is_dir() and any(infiniband.iterdir()):
        return True
    return any(speed > MOST_MBIT for speed in map(_speed_mbit, interfaces.glob("*/speed")))


def _speed_mbit(file: Path) -> int:
    """Of an interface; 0 where it does not tell, as a virtual one."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
