"""Intel MPI, which is made from MPICH, and its own Hydra."""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from horovod_flowers.mpi.hydra import Hydra
from horovod_flowers.mpi.mpich import Mpich
from horovod_flowers.mpi.process_manager import ProcessManager, Start

_LIBFABRIC = "libfabric.so.1"


@dataclass(frozen=True)
class IntelMpi(Mpich):
    """Intel MPI."""

    name = "Intel MPI"
    module = "the module of Intel MPI (or source setvars.sh)"
    yield_variables: ClassVar[Mapping[str, str]] = {"I_MPI_THREAD_YIELD": "3"}
    unbound_variables: ClassVar[Mapping[str, str]] = {"I_MPI_PIN": "0"}
    setting_prefixes: ClassVar[tuple[str, ...]] = (
        *("I_MPI_FABRICS", "I_MPI_ADJUST_", "I_MPI_COLL_", "I_MPI_OFI_", "I_MPI_SHM", "I_MPI_PIN", "I_MPI_THREAD_"),
        *("I_MPI_TUNING", "I_MPI_EXTRA_FILESYSTEM", "I_MPI_ASYNC_", "FI_", "MPIR_CVAR_", "UCX_"),
    )
    not_settings: ClassVar[tuple[str, ...]] = (*Mpich.not_settings, "I_MPI_PIN_INFO", "I_MPI_PIN_MAPPING")
    interface_advice = "with FI_TCP_IFACE=NAME"

    @property
    def srun_advice(self) -> str:
        """2021.18 speaks PMI-2 by itself (seen), older ones by Slurm's library."""
        return "srun --mpi=pmi2 (before 2021 with I_MPI_PMI_LIBRARY set to the path of Slurm's libpmi2.so)"

    @property
    def unbound_advice(self) -> str:
        """It pins ranks itself."""
        return "I_MPI_PIN=0 in the environment, srun --cpu-bind=none"

    def pins(self, environment: Mapping[str, str]) -> bool:
        """Its launcher does, where it is not told otherwise, before the rank's program starts."""
        off = ("0", "no", "off", "false", "disable")
        return "I_MPI_PIN_MAPPING" in environment and environment.get("I_MPI_PIN", "").strip().lower() not in off

    def yields(self, environment: Mapping[str, str]) -> bool:
        """0 spins, 1 pauses on the core; 2 and 3 give it up."""
        return environment.get("I_MPI_THREAD_YIELD", "").strip() in ("2", "3")

    def lacking(self, file: Path | None, environment: Mapping[str, str], several_nodes: bool) -> str | None:
        """Libfabric, its way between nodes, which it looks for as it starts; on one node it does without."""
        needed = several_nodes or environment.get("I_MPI_FABRICS", "").strip() == "ofi"
        if not needed or _finds_libfabric(file, environment):
            return None
        return (
            f"{self.summary} needs libfabric, and libfabric.so.1 is not found: load {self.module}, which brings one, "
            "load the module of libfabric, or put its folder on LD_LIBRARY_PATH"
        )

    def typed_start(self, ranks: int, oversubscribe: bool = False) -> list[str]:
        """Without its pinning."""
        return ["mpirun", "-np", str(ranks), "-genv", "I_MPI_PIN", "0"]


def _finds_libfabric(file: Path | None, environment: Mapping[str, str]) -> bool:
    """In the folders beside it or on LD_LIBRARY_PATH; mpi4py may have loaded it already."""
    roots = [file.resolve().parent.parent] if file is not None else []
    roots += [Path(environment["I_MPI_ROOT"])] if environment.get("I_MPI_ROOT") else []
    for root in roots:
        for inner in ("opt/mpi/libfabric/lib", "libfabric/lib", "libfabric", "lib/libfabric", "lib"):
            if (root / inner / _LIBFABRIC).is_file():
                return True
    try:
        ctypes.CDLL(_LIBFABRIC)
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class IntelHydra(Hydra):
    """Intel MPI's, which knows no -bind-to: ranks are pinned by I_MPI_PIN."""

    name = "Intel MPI"
    processes: ClassVar[tuple[str, ...]] = (
        "mpirun",
        "mpiexec",
        "mpiexec.hydra",
        "hydra_bstrap_proxy",
        "hydra_pmi_proxy",
    )
    horovodrun_refusal: ClassVar[str | None] = None

    def start_words(self, start: Start) -> list[str]:
        """Hosts where they are not Slurm's, without counts: with one it would reach this machine, too, by ssh."""
        words = ["-np", str(start.ranks)]
        if start.here or start.scheduler == "slurm":
            return words
        counts = [count for _, count in start.filled]
        if all(count == counts[0] for count in counts[:-1]) and counts[-1] <= counts[0]:
            return [*words, "-ppn", str(counts[0]), "-hosts", ",".join(node for node, _ in start.filled)]
        each = [node for node, count in start.filled for _ in range(count)]
        return [*words, "-ppn", "1", "-hosts", ",".join(each)]

    def signal_of(self, status: int) -> int | None:
        """As a shell has it."""
        return ProcessManager.signal_of(self, status)

    def variables(self) -> Mapping[str, str]:
        """Its pinning is left to the ranks."""
        return IntelMpi.unbound_variables
