"""Intel MPI, which is made from MPICH, and its own Hydra."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from horovod_flowers.mpi.hydra import Hydra
from horovod_flowers.mpi.mpich import Mpich
from horovod_flowers.mpi.process_manager import Start


@dataclass(frozen=True)
class IntelMpi(Mpich):
    """Intel MPI."""

    name = "Intel MPI"
    module = "the module of Intel MPI (or source setvars.sh)"
    yield_variables: ClassVar[Mapping[str, str]] = {"I_MPI_THREAD_YIELD": "3"}
    unbound_variables: ClassVar[Mapping[str, str]] = {"I_MPI_PIN": "0"}
    interface_advice = "with FI_TCP_IFACE=NAME"

    @property
    def srun_advice(self) -> str:
        """It finds Slurm's PMI where it is told."""
        return "srun --mpi=pmi2 with I_MPI_PMI_LIBRARY set to the path of Slurm's libpmi2.so"

    def srun_variables(self, srun: str) -> Mapping[str, str]:
        """Slurm's library of PMI-2, too, where it is found: among the system's, or beside srun."""
        prefix = Path(os.path.realpath(srun)).parent.parent
        folders = [Path("/usr/lib64"), *sorted(Path("/usr/lib").glob("*-linux-gnu")), Path("/usr/lib")]
        folders += [prefix / "lib64", prefix / "lib", prefix / "lib64" / "slurm", prefix / "lib" / "slurm"]
        files = (folder / name for folder in folders for name in ("libpmi2.so", "libpmi2.so.0"))
        found = next((str(file) for file in files if file.exists()), None)
        return {**self.unbound_variables, **({} if found is None else {"I_MPI_PMI_LIBRARY": found})}

    def typed_start(self, ranks: int, oversubscribe: bool = False) -> list[str]:
        """Without its pinning."""
        return ["mpirun", "-np", str(ranks), "-genv", "I_MPI_PIN", "0"]


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
        """Hosts where they are not Slurm's."""
        words = ["-np", str(start.ranks)]
        if not start.here and start.scheduler != "slurm":
            words += ["-hosts", start.hosts]
        return words

    def variables(self) -> Mapping[str, str]:
        """Its pinning is left to the ranks."""
        return IntelMpi.unbound_variables
