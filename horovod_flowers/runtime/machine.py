"""What this process and its machine are: command line, time of day, CPU."""

import contextlib
import datetime
import os
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


def cpu_quota() -> float | None:
    """The tightest limit on this process' CPU time, in cores."""
    found = []
    for folder in control_groups():
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            found.append(int(quota) / int(period))
    return min(found) if found else None


def control_groups() -> list[Path]:
    """This process' control group (version 2) and those above it: each may set a limit."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    root = Path("/sys/fs/cgroup")
    groups = [root / line.partition("::")[2].lstrip("/") for line in lines if line.startswith("0::")]
    return [folder for group in groups for folder in (group, *group.parents) if folder.is_relative_to(root)]


def machine_id() -> str:
    """The same for all processes under one Linux kernel, however many nodes or containers it is divided into."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def process_start(pid: int) -> tuple[int | None, str]:
    """Fields 22 (starttime, in clock ticks) and 3 (state) of /proc/PID/stat (man 5 proc)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name in brackets may hold anything, brackets too.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[19]), fields[0]
    return None, ""


def process_numbers() -> str:
    """The same for processes that know each other by their numbers: boot id, and namespace of process numbers."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = "unknown"
    return f"{machine_id()} {namespace}"


STANDS_FOR_VARIABLE = "FLOWERS_JOB_PROCESS"


def own_process() -> tuple[int, int | None, str]:
    """Number, start and kind of numbers by which others know this process, or the job that dies with it.

    The processes of an emulated job have numbers of their own, which say nothing outside: the job's first one outside
    stands for each.
    """
    with contextlib.suppress(KeyError, ValueError):
        pid, start, numbers = os.environ[STANDS_FOR_VARIABLE].split(" ", 2)
        return int(pid), int(start), numbers
    return os.getpid(), process_start(os.getpid())[0], process_numbers()


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
