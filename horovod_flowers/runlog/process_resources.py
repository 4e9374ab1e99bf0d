"""What this process has taken of its machine, measured at its end."""

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from horovod_flowers.runtime.machine import seconds_since_start


@dataclass(frozen=True)
class ProcessResources:
    """Of one rank."""

    peak_memory_bytes: int
    """Largest resident memory."""
    wall_seconds: float | None
    """Since its start; None where that is unknown."""
    gpu_peak_bytes: int | None
    """The most that TensorFlow had allocated on its GPUs; None without one."""


def process_resources() -> ProcessResources:
    """Of this process, up to now."""
    return ProcessResources(peak_memory_bytes(), seconds_since_start(), _gpu_peak_bytes())


def peak_memory_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Largest resident memory of this process since its program began (VmHWM, man 5 proc_pid_status).

    getrusage's ru_maxrss is asked only where Linux does not tell that: it also counts what the process held before
    exec, a copy of a large launcher, say.
    """
    try:
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux gives KiB


def _gpu_peak_bytes() -> int | None:
    """Not run on real hardware."""
    if "tensorflow" not in sys.modules:
        return None
    import tensorflow as tf

    peaks = []
    for gpu in tf.config.list_logical_devices("GPU"):
        try:
            peaks.append(int(tf.config.experimental.get_memory_info(gpu.name.removeprefix("/device:"))["peak"]))
        except (ValueError, KeyError):  # an allocator that does not count
            return None
    return sum(peaks) if peaks else None


def wall_seconds_of(ranks: list[ProcessResources]) -> list[float] | None:
    """Of all ranks; None where that of one is unknown."""
    known = [rank.wall_seconds for rank in ranks if rank.wall_seconds is not None]
    return known if len(known) == len(ranks) else None


def gpu_peak_bytes_of(ranks: list[ProcessResources]) -> list[int] | None:
    """Of all ranks; None where one had no GPU."""
    known = [rank.gpu_peak_bytes for rank in ranks if rank.gpu_peak_bytes is not None]
    return known if len(known) == len(ranks) else None
