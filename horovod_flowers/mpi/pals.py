"""mpiexec of HPE's PALS, which starts ranks on Cray systems with PBS (Polaris, Aurora). Not run on a real system."""

from dataclasses import dataclass
from typing import ClassVar

from horovod_flowers.mpi.process_manager import ProcessManager, Start


@dataclass(frozen=True)
class Pals(ProcessManager):
    """It reads PBS' allocation itself, takes all variables along, and starts ranks of any MPI of its site."""

    name = "PALS"
    processes: ClassVar[tuple[str, ...]] = ("mpiexec", "aprun", "palsd")
    rank_variable = "PALS_RANKID"
    horovodrun_refusal: ClassVar[str | None] = "horovodrun 0.28.1 does not know it"

    def start_words(self, start: Start) -> list[str]:
        """Ranks a node, since it fills a node by what is said there; hosts where a person named them."""
        most = max(count for _, count in start.filled)
        words = ["-n", str(start.ranks), "-ppn", str(most), "--cpu-bind", "none"]
        if not start.here and start.scheduler is None:
            words += ["--hosts", ",".join(node for node, _ in start.filled)]
        return words
