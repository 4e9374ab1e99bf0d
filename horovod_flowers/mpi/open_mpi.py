"""Open MPI 4 and 5, and their mpirun."""

import contextlib
import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from horovod_flowers.mpi.library import MpiLibrary
from horovod_flowers.mpi.process_manager import ProcessManager, Start

OF_AN_MPIRUN = frozenset(("PMIX_RANK", "PMIX_NAMESPACE", "OMPI_MCA_orte_hnp_uri"))
"""By which a process finds its mpirun, or Slurm's PMIx; without them it may end itself, in words of its own."""
_COMPONENTS = ("isolated", "s1", "s2", "cray", "flux")
_PARAMETER = "OMPI_MCA_"
_YIELDS = f"{_PARAMETER}mpi_yield_when_idle"


@dataclass(frozen=True)
class OpenMpi(MpiLibrary):
    """Open MPI, and what is made from it (HPC-X, Spectrum MPI)."""

    name = "Open MPI"
    abi = "Open MPI"
    soname = "libmpi.so.40"
    module = "the module of Open MPI"
    yield_variables: ClassVar[Mapping[str, str]] = {_YIELDS: "1"}
    setting_prefixes: ClassVar[tuple[str, ...]] = tuple(
        f"{_PARAMETER}{name}" for name in ("btl", "coll", "pml", "mtl", "mpi_yield_when_idle", "opal_event_include")
    )
    srun_types: ClassVar[Sequence[str]] = ("pmix",)
    interface_advice = "with OMPI_MCA_btl_tcp_if_include=NAME"

    @property
    def unbound_advice(self) -> str:
        """Its mpirun binds to a core where nothing is said."""
        return f"mpirun --bind-to none, {super().unbound_advice}"

    def is_alone(self, file: Path | None, environment: Mapping[str, str]) -> bool:
        """By PMIx it finds those of mpirun and of srun --mpi=pmix; an Open MPI 4 that was built for it also those that
        Slurm's PMI, Cray's or Flux connects.
        """
        if environment.keys() & OF_AN_MPIRUN:
            return False
        if self.version.startswith("4."):
            ways = _ways_to_others(file)
            return "isolated" in ways and not ways & {"s1", "s2", "cray", "flux"}
        return True

    def yields(self, environment: Mapping[str, str]) -> bool:
        """By its parameter."""
        return environment.get(_YIELDS, "").strip().lower() in ("1", "true", "t", "yes", "enabled")

    def settings(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Parameters of transports and collective calls, by their names; mpirun hands on what it was given by --mca."""
        found = super().settings(environment)
        return {name.removeprefix(_PARAMETER): value for name, value in found.items()}

    @property
    def summary(self) -> str:
        """As the library itself begins, and as records of older versions have it."""
        return f"{self.name} v{self.version}"

    def typed_start(self, ranks: int, oversubscribe: bool = False) -> list[str]:
        """Without binding, which is to one core where nothing is said."""
        words = ["mpirun", "-np", str(ranks), "--bind-to", "none"]
        return [*words, "--oversubscribe"] if oversubscribe else words


def _ways_to_others(file: Path | None) -> set[str]:
    """The components 'pmix' of an Open MPI 4, in files of their own or parts of its library; 'isolated' is in each."""
    if file is None:
        return set()
    found = {part.stem.removeprefix("mca_pmix_") for part in (file.parent / "openmpi").glob("mca_pmix_*.so")}
    with contextlib.suppress(OSError):
        library = ctypes.CDLL(str(file))
        found |= {name for name in _COMPONENTS if hasattr(library, f"mca_pmix_{name}_component")}
    return found


@dataclass(frozen=True)
class OpenMpiRun(ProcessManager):
    """mpirun of Open MPI, which reads Slurm's allocation itself."""

    name = "Open MPI"
    abi = "Open MPI"
    processes: ClassVar[tuple[str, ...]] = ("mpirun", "mpiexec", "orterun", "orted")
    rank_variable = "OMPI_COMM_WORLD_RANK"

    @property
    def is_4(self) -> bool:
        """Whether it is the version whose settings were measured, and whose parameters others build on."""
        return self.version.startswith("4.")

    def start_words(self, start: Start) -> list[str]:
        """Hosts where they are not Slurm's; variables, which it does not take to other nodes by itself."""
        words = ["-np", str(start.ranks), "--bind-to", "none", "--map-by", "slot"]
        if start.oversubscribe:
            words.append("--oversubscribe")
        if not start.here and start.scheduler != "slurm":
            words += ["-H", start.hosts]
        if not start.here:
            words += [word for name in start.forwarded for word in ("-x", name)]
        return words

    def variables(self) -> Mapping[str, str]:
        """It asks a node that is silent, and gives it up within a minute instead of eight: before ranks there stall."""
        return {
            "OMPI_MCA_oob_tcp_keepalive_time": "20",
            "OMPI_MCA_oob_tcp_keepalive_intvl": "5",
            "OMPI_MCA_oob_tcp_keepalive_probes": "4",
        }


@dataclass(frozen=True)
class OpenMpi5Run(OpenMpiRun):
    """mpirun of Open MPI 5, which is another program (PRRTE) with the same words for what is asked of it here."""

    processes: ClassVar[tuple[str, ...]] = ("mpirun", "mpiexec", "prterun", "prted", "prte")
    horovodrun_refusal: ClassVar[str | None] = "horovodrun 0.28.1 knows the options of Open MPI 4 and older"

    def variables(self) -> Mapping[str, str]:
        """As for Open MPI 4, by PRRTE's names."""
        return {
            "PRTE_MCA_oob_tcp_keepalive_time": "20",
            "PRTE_MCA_oob_tcp_keepalive_intvl": "5",
            "PRTE_MCA_oob_tcp_keepalive_probes": "4",
        }
