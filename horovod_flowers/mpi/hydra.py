"""mpiexec and mpirun of MPICH and MVAPICH: Hydra."""

from dataclasses import dataclass
from typing import ClassVar

from horovod_flowers.mpi.process_manager import ProcessManager, Start


@dataclass(frozen=True)
class Hydra(ProcessManager):
    """MPICH's, which reads the allocations of Slurm and PBS itself and takes all variables along."""

    name = "MPICH's Hydra"
    abi = "MPICH"
    processes: ClassVar[tuple[str, ...]] = ("mpiexec", "mpirun", "mpiexec.hydra", "hydra_pmi_proxy")
    rank_variable = "PMI_RANK"
    abrupt_status: ClassVar[int | None] = 255  # of a rank on another node
    horovodrun_refusal: ClassVar[str | None] = (
        "horovodrun 0.28.1 does not know it by what it says of itself ('HYDRA build details')"
    )

    def start_words(self, start: Start) -> list[str]:
        """Hosts where they are not Slurm's. It has no limit of ranks on a core, and no word for one."""
        words = ["-np", str(start.ranks), "-bind-to", "none"]
        if not start.here and start.scheduler != "slurm":
            words += ["-hosts", start.hosts]
        return words

    def signal_of(self, status: int) -> int | None:
        """It ends with the bare number of the signal, or with the bits of all ranks' exit statuses together.

        3 is not SIGQUIT, but ranks that ended with 1 and 2.
        """
        return status if 3 < status < 32 else super().signal_of(status)
