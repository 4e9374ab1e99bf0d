"""What this process and its machine are: command line, time of day, CPU."""

import contextlib
import datetime
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


def own_command() -> list[str]:
    """How this process was started, for records: bytes of a word that are no UTF-8 become \\udcNN."""
    return [word.encode("utf-8", "backslashreplace").decode("utf-8") for word in sys.orig_argv]


def core_of(cpu: int, cpus: Path = Path("/sys/devices/system/cpu")) -> tuple[int, ...]:
    """Socket and core of a logical CPU, as Linux tells them; a CPU of unknown place counts as a core of its own.

    Linux writes -1 for what it does not know: for the socket of some aarch64 machines, and for the core of some others.
    """
    topology = cpus / f"cpu{cpu}/topology"
    try:
        socket, core = int((topology / "physical_package_id").read_text()), int((topology / "core_id").read_text())
    except (OSError, ValueError):
        return UNKNOWN_SOCKET, cpu
    return (socket, core) if core >= 0 else (UNKNOWN_SOCKET, cpu)


UNKNOWN_SOCKET = -1


def physical_cores(cpus: Path = Path("/sys/devices/system/cpu")) -> int:
    """How many cores this node has online, hyperthreads of one core counted once, whatever this process may use."""
    online = 0
    with contextlib.suppress(OSError, ValueError):
        numbers = _numbers_in((cpus / "online").read_text())
        online = len({core_of(cpu, cpus) for cpu in numbers})
    return online or os.cpu_count() or 1


def _numbers_in(spans: str) -> list[int]:
    """0, 1, 2, 3 and 8 for 0-3,8."""
    ends = [span.partition("-") for span in spans.strip().split(",") if span]
    return [number for first, _, last in ends for number in range(int(first), int(last or first) + 1)]


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


def process_start(pid: int | str) -> tuple[int | None, str]:
    """Fields 22 (starttime, in clock ticks) and 3 (state) of /proc/PID/stat (man 5 proc)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name in brackets may hold anything, brackets too.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[19]), fields[0]
    return None, ""


def seconds_since_start() -> float | None:
    """How long ago Linux started this process, in steps of its clock ticks (mostly 10 ms); None where it does not
    tell."""
    started, _ = process_start("self")  # in a job with numbers of its own, /proc may show those outside
    if started is None:
        return None
    # starttime is counted from boot, as CLOCK_BOOTTIME is, times that the machine was suspended included.
    seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    return max(0.0, seconds)


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
    return flags_in(_cpuinfo())


def flags_in(cpuinfo: str) -> frozenset[str]:
    """The same from the text of /proc/cpuinfo: x86 calls them flags, aarch64 Features."""
    for name, value in _lines(cpuinfo):
        if name in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def is_aarch64(flags: Iterable[str]) -> bool:
    """Whether these are the flags of an aarch64 CPU: each has asimd, and no other architecture does."""
    return "asimd" in flags


def utc_now() -> str:
    """The time of day, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class CpuClock:
    """How fast Linux lets the CPUs of this node run, and how fast they do; None for what it does not tell."""

    governor: str | None
    """Of cpufreq; several, in the order of their names, with a stroke between."""
    max_mhz: float | None
    """The highest clock that it may give a CPU."""
    mhz: float | None
    """Of the fastest CPU now: others may be idle."""


def cpu_clock(cpus: Path = Path("/sys/devices/system/cpu"), cpuinfo: str | None = None) -> CpuClock:
    """The same, from cpufreq (Documentation/admin-guide/pm/cpufreq.rst) and /proc/cpuinfo. Virtual machines and
    containers mostly have no cpufreq."""
    folders = sorted(cpus.glob("cpu[0-9]*/cpufreq"))
    governors = {text for folder in folders if (text := _text(folder / "scaling_governor"))}
    limits, now = (
        [int(text) / 1000 for folder in folders if (text := _text(folder / name)).isdigit() and int(text) > 0]
        for name in ("scaling_max_freq", "scaling_cur_freq")
    )
    lines = _lines(_cpuinfo() if cpuinfo is None else cpuinfo)
    with contextlib.suppress(ValueError):
        now = [float(value) for name, value in lines if name == "cpu MHz" and float(value) > 0] or now
    return CpuClock("/".join(sorted(governors)) or None, max(limits, default=None), max(now, default=None))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def cpu_model() -> str | None:
    """As Linux names this node's CPU; None where it does not."""
    return model_in(_cpuinfo())


def model_in(cpuinfo: str) -> str | None:
    """The same from the text of /proc/cpuinfo.

    aarch64 has numbers in place of a name: implementer, part, variant and revision of the core (Arm's MIDR_EL1). A
    number without a name here is given as such, so that two unlike processors are never taken for the same one.
    """
    first: dict[str, str] = {}
    for name, value in _lines(cpuinfo):
        first.setdefault(name, value)
    if "CPU part" in first:
        implementer, part = first.get("CPU implementer", "0x0"), first["CPU part"]
        name = CORES.get((implementer.lower(), part.lower()), f"aarch64 core {implementer} {part}")
        with contextlib.suppress(KeyError, ValueError):
            name += f" r{int(first['CPU variant'], 16)}p{int(first['CPU revision'])}"
        return name
    return first.get("model name")


CORES = {
    ("0x41", "0xd08"): "Arm Cortex-A72",
    ("0x41", "0xd0c"): "Arm Neoverse-N1",
    ("0x41", "0xd40"): "Arm Neoverse-V1",
    ("0x41", "0xd49"): "Arm Neoverse-N2",
    ("0x41", "0xd4f"): "Arm Neoverse-V2",
    ("0x41", "0xd84"): "Arm Neoverse-V3",
    ("0x41", "0xd8e"): "Arm Neoverse-N3",
    ("0x43", "0x0af"): "Cavium ThunderX2-99xx",
    ("0x46", "0x001"): "Fujitsu A64FX",
    ("0x48", "0xd01"): "HiSilicon TaiShan-v110",
    ("0xc0", "0xac3"): "Ampere-1",
    ("0xc0", "0xac4"): "Ampere-1a",
}
"""Names of server cores by implementer and part, as lscpu has them (util-linux, sys-utils/lscpu-arm.c)."""


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _lines(cpuinfo: str) -> Iterator[tuple[str, str]]:
    for line in cpuinfo.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()
