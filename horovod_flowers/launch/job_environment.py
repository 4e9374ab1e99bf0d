"""What the launcher says about this process before MPI starts, and how a command ends when something is wrong.

Reads environment variables only, so that a mistake is told by one rank, within seconds, before any rank waits for
another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from horovod_flowers.runtime.errors import UserError

ELASTIC: Literal["horovodrun-elastic"] = "horovodrun-elastic"
"""The launcher of ranks that may come and go: horovodrun with a discovery script, over Gloo."""


@dataclass(frozen=True)
class JobEnvironment:
    """Rank and world size as the launcher's environment variables tell them."""

    launcher: Literal["openmpi", "pmix", "pmi", "single", "horovodrun-elastic"]
    rank: int
    size: int
    local_rank: int
    local_size: int

    @staticmethod
    def from_environment(environment: Mapping[str, str], elastic: bool = False) -> "JobEnvironment":
        """Read Open MPI's, PMIx's (srun --mpi=pmix) or PMI's (MPICH) variables; horovodrun's for a command that can be
        `elastic`.

        Raises UserError for a Slurm task without any of them: `srun` without a matching PMI starts N separate
        one-rank jobs; and for horovodrun --gloo, under which every rank would be an MPI singleton.
        """

        def number(name: str, default: int) -> int:
            value = environment.get(name, "")
            return int(value) if value.isdigit() else default

        if "OMPI_COMM_WORLD_SIZE" in environment:
            return JobEnvironment(
                "openmpi",
                number("OMPI_COMM_WORLD_RANK", 0),
                number("OMPI_COMM_WORLD_SIZE", 1),
                number("OMPI_COMM_WORLD_LOCAL_RANK", 0),
                number("OMPI_COMM_WORLD_LOCAL_SIZE", 1),
            )
        if "HOROVOD_GLOO_RENDEZVOUS_ADDR" in environment:
            if elastic and environment.get("HOROVOD_ELASTIC") == "1":
                return JobEnvironment(
                    ELASTIC,
                    number("HOROVOD_RANK", 0),
                    number("HOROVOD_SIZE", 1),
                    number("HOROVOD_LOCAL_RANK", 0),
                    number("HOROVOD_LOCAL_SIZE", 1),
                )
            raise UserError(
                "horovodrun --gloo leaves out MPI, which this version needs: leave out --gloo, or start with mpirun "
                "(training alone does without: --elastic, with horovodrun's --host-discovery-script)"
            )
        tasks = number("SLURM_STEP_NUM_TASKS", number("SLURM_NTASKS", 1))
        if "PMIX_RANK" in environment:
            tasks_per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", "1"))
            return JobEnvironment(
                "pmix",
                number("PMIX_RANK", 0),
                tasks,
                number("SLURM_LOCALID", 0),
                _tasks_on_node(tasks_per_node, number("SLURM_NODEID", 0)),
            )
        if "PMI_RANK" in environment:
            return JobEnvironment(
                "pmi",
                number("PMI_RANK", 0),
                number("PMI_SIZE", 1),
                number("MPI_LOCALRANKID", number("SLURM_LOCALID", 0)),
                number("MPI_LOCALNRANKS", 1),
            )
        if tasks > 1:
            raise UserError(
                f"Slurm started {tasks} tasks (SLURM_NTASKS={tasks}) but this process knows of one rank only: "
                "start them with 'srun --mpi=pmix', or with mpirun or horovodrun inside the allocation "
                "('mpirun -np 1' for a one-rank run)"
            )
        return JobEnvironment("single", 0, 1, 0, 1)


def slurm_layout(layout: str) -> list[int]:
    """Slurm's run-length list of tasks a node: '2(x3),1' is 2, 2, 2, 1."""
    counts: list[int] = []
    for part in layout.split(","):
        count, _, repeat = part.partition("(x")
        counts += [int(count)] * int(repeat.rstrip(")") or 1)
    return counts


def _tasks_on_node(layout: str, node: int) -> int:
    counts = slurm_layout(layout)
    return counts[node] if node < len(counts) else counts[-1]
