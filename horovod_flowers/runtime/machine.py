"""What this process and its machine are: command line, time of day, CPU."""

import datetime
import sys
from pathlib import Path


def own_command() -> list[str]:
    """How this process was started, for records: bytes of a word that are no UTF-8 become \\udcNN."""
    return [word.encode("utf-8", "backslashreplace").decode("utf-8") for word in sys.orig_argv]


def core_of(cpu: int) -> tuple[int, ...]:
    """Socket and core of a logical CPU, as Linux tells them; a CPU of unknown place counts as a core of its own."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return int((topology / "physical_package_id").read_text()), int((topology / "core_id").read_text())
    except (OSError, ValueError):
        return -1, cpu


def machine_id() -> str:
    """The same for all processes under one Linux kernel, however many nodes or containers it is divided into."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def cpu_flags() -> frozenset[str]:
    """What this CPU can do, in Linux' words; empty where Linux does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), frozenset())


def utc_now() -> str:
    """The time of day, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def cpu_model() -> str | None:
    """As Linux names this node's CPU; None where it does not."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return None
