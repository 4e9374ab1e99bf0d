"""What the rest of the package asks of an MPI library, and one that is not known."""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

Abi: TypeAlias = Literal["Open MPI", "MPICH"]
"""Of which libraries one can take another's place, for a program that was built for it."""


@dataclass(frozen=True)
class MpiLibrary(ABC):
    """An MPI library. A further one is a class beside these, named in `identify.LIBRARIES`."""

    version: str
    """As the library tells it, such as '4.1.8'; empty where it is not told."""

    name: ClassVar[str]
    """As people call it."""
    abi: ClassVar[Abi | None] = None
    """None where it is not known."""
    soname: ClassVar[str | None] = None
    """Of its shared library, for which Horovod and mpi4py look."""
    module: ClassVar[str]
    """What to load at a site, in a sentence: 'the module of Open MPI'."""

    yield_variables: ClassVar[Mapping[str, str]] = {}
    """Set before MPI starts, they let a waiting rank give up its core. None where it does so by itself, or cannot."""
    unbound_variables: ClassVar[Mapping[str, str]] = {}
    """Set before MPI starts, they keep the library from pinning ranks to cores. None where it pins nothing."""

    srun_types: ClassVar[Sequence[str]] = ()
    """Values of srun's --mpi through which its ranks find each other, the most usual first; none where unknown."""
    setting_prefixes: ClassVar[tuple[str, ...]] = ()
    """How the names of variables begin that decide how ranks talk."""
    not_settings: ClassVar[tuple[str, ...]] = ()
    """Those that begin so, and are what the launcher tells its ranks, or where files lie."""
    start_note: ClassVar[str] = ""
    """What the preflight says where `start_variables` were set."""
    interface_advice: ClassVar[str]
    """How a network interface is chosen: a clause that goes on behind 'choose a faster one'."""

    @property
    def summary(self) -> str:
        """Name and version in one line, for records, tables and sentences."""
        return f"{self.name} {self.version}".strip()

    @property
    def srun_advice(self) -> str:
        """How srun starts its ranks, in a sentence."""
        return f"srun --mpi={self.srun_types[0]}" if self.srun_types else "srun with the --mpi that it was built for"

    @property
    def unbound_advice(self) -> str:
        """How a launcher is kept from binding its ranks to cores, in a sentence."""
        return "srun --cpu-bind=none"

    def lacking(self, file: Path | None, environment: Mapping[str, str], several_nodes: bool) -> str | None:
        """What it needs to start and is not there, as a sentence; None where nothing is known to be missing.

        file: of the library that this process has loaded. It ends the process itself where it cannot start.
        several_nodes: whether the ranks are on more than one.
        """
        return None

    def is_alone(self, file: Path | None, environment: Mapping[str, str]) -> bool:
        """Whether it would find no other rank, as far as can be seen before it starts; it may end the process then.

        file: of the library that this process has loaded.
        """
        return False

    def start_variables(self, told: str, environment: Mapping[str, str]) -> Mapping[str, str]:
        """Set before MPI starts, unless they are set, what ranks need to find each other under the launcher there.

        told: what the library says of itself.
        """
        return {}

    def pins(self, environment: Mapping[str, str]) -> bool:
        """Whether the library, or its launcher, has pinned a rank with these variables to cores by itself."""
        return False

    def yields(self, environment: Mapping[str, str]) -> bool:
        """Whether a rank with these variables gives up its core while it waits; no where that is not known."""
        return False

    def settings(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Variables of the library that decide how ranks talk, for records; what is not there is its default."""
        found = [name for name in sorted(environment) if name.startswith(self.setting_prefixes)]
        return {name: environment[name] for name in found if name not in self.not_settings}

    def typed_start(self, ranks: int, oversubscribe: bool = False) -> list[str]:
        """Words that start so many ranks on this machine, as a person types them; the command follows.

        No rank is bound to cores by them.
        """
        return ["mpiexec", "-n", str(ranks)]


@dataclass(frozen=True)
class OtherMpi(MpiLibrary):
    """A library of which nothing is known but the first line of its own words."""

    told: str = ""

    name = "an MPI that is not known here"
    module = "the module of this environment's MPI"
    interface_advice = "as its documents say"

    @property
    def summary(self) -> str:
        """That line."""
        return self.told or self.name
