"""What the rest of the package asks of a program that starts ranks, and one that is not known.

mpirun and mpiexec are names that every MPI gives to a program of its own, with options of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from horovod_flowers.mpi.library import Abi, MpiLibrary
from horovod_flowers.runtime.errors import UserError


@dataclass(frozen=True)
class Start:
    """What is to be started, where."""

    ranks: int
    nodes: tuple[tuple[str, int], ...]
    """Name of each node and the ranks that fit on it, in the order in which they are filled."""
    scheduler: str | None = None
    """'slurm' or 'pbs', whose allocation the nodes are; None where a person named them, or for this machine."""
    here: bool = True
    """Whether this machine is all of them, so that none has to be named."""
    oversubscribe: bool = False
    """Whether ranks may share cores."""
    forwarded: tuple[str, ...] = ()
    """Names of the variables that ranks on other nodes need."""
    own_options: bool = False
    """Whether the user has options of their own for the program."""

    @property
    def hosts(self) -> str:
        """The nodes as most programs take them: n1:2,n2:2."""
        return ",".join(f"{node}:{count}" for node, count in self.nodes)

    @property
    def filled(self) -> list[tuple[str, int]]:
        """The nodes that the ranks take, and how many each; what does not fit goes to the last ones in turn."""
        taken, left = list[tuple[str, int]](), self.ranks
        for node, count in self.nodes:
            if left > 0:
                taken.append((node, min(count, left)))
                left -= count
        while left > 0:  # oversubscribed
            for place, (node, count) in enumerate(taken):
                taken[place] = (node, count + 1)
                left -= 1
                if left == 0:
                    break
        return taken


@dataclass(frozen=True)
class ProcessManager(ABC):
    """A program that starts ranks. A further one is a class beside these, named in `identify.MANAGERS`."""

    program: str
    """Name or path, as it is called."""
    version: str = ""
    """As the program tells it."""

    name: ClassVar[str]
    """As people call it."""
    abi: ClassVar[Abi | None] = None
    """Of the libraries whose ranks it connects; None where it connects those of any, or it is not known."""
    processes: ClassVar[tuple[str, ...]] = ()
    """Names of the processes that it leaves beside the ranks of a node, its own among them."""
    rank_variable: ClassVar[str | None] = None
    """By which one of its ranks is known; None where that is not known."""
    abrupt_status: ClassVar[int | None] = None
    """Its exit status where it tells of a rank that was ended by some signal, or left without MPI_Finalize, and no
    more than that; None where it tells the signal."""
    horovodrun_refusal: ClassVar[str | None] = None
    """Why horovodrun cannot start ranks with it: a clause that goes on behind its name; None where it can."""

    @abstractmethod
    def start_words(self, start: Start) -> list[str]:
        """Options that start ranks, without the program itself, and bind none of them to cores. Raises UserError."""

    def variables(self) -> Mapping[str, str]:
        """What the program and its ranks are to find in the environment, unless it is set there."""
        return {}

    def starts(self, library: MpiLibrary) -> bool:
        """Whether ranks of that library find each other under it; yes where that is not known."""
        return self.abi is None or library.abi is None or self.abi == library.abi

    def signal_of(self, status: int) -> int | None:
        """The signal that has ended a rank, by the program's exit status; None where it was none."""
        return status - 128 if 128 < status < 128 + 65 else None

    @property
    def summary(self) -> str:
        """Name and version, for sentences."""
        return f"{self.name} {self.version}".strip()


@dataclass(frozen=True)
class OtherManager(ProcessManager):
    """A program that is not known: started as the MPI standard recommends for mpiexec."""

    told: str = ""
    """The first line of what it says of itself."""

    name = "a launcher that is not known here"

    def start_words(self, start: Start) -> list[str]:
        """-n alone; raises UserError where nodes would have to be named, and the user names none."""
        if not start.here and start.scheduler is None and not start.own_options:
            raise UserError(
                f"{self.program} is {self.name} ({self.told or 'it does not say what it is'}), so how it is told of "
                "hosts is not known either: leave out hosts (FLOWERS_HOSTS) in an allocation, or give its own words in "
                "FLOWERS_LAUNCHER_OPTIONS"
            )
        return ["-n", str(start.ranks)]
