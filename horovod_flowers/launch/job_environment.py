"""What the launcher says about this process before MPI starts: one reader for each kind of variables.

Reads environment variables only, so that a mistake is told by one rank, within seconds, before any rank waits for
another.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from horovod_flowers.runtime.errors import UserError

ELASTIC = "horovodrun-elastic"
"""The launcher of ranks that may come and go: horovodrun with a discovery script, over Gloo."""
SINGLE = "single"
"""No launcher: one process."""


Variables: TypeAlias = Mapping[str, str]


@dataclass(frozen=True)
class JobEnvironment:
    """Rank and world size as the launcher's environment variables tell them."""

    launcher: str
    """As the reader of its variables calls it."""
    rank: int
    size: int
    local_rank: int
    local_size: int

    @staticmethod
    def from_environment(environment: Variables, elastic: bool = False) -> "JobEnvironment":
        """What the first of the READERS finds that knows the variables; a single process where none does.

        `elastic`: for a command that can be. Raises UserError for horovodrun --gloo, under which every rank would be an
        MPI singleton; for a Slurm task without any variables of an MPI: `srun` without a matching PMI starts N
        separate one-rank jobs; and for variables that no launcher sets so.
        """
        for read in READERS:
            job = read(environment, elastic)
            if job is not None:
                if job.launcher != ELASTIC:
                    job.check()
                    refuse_gloo(environment)
                return job
        tasks = _slurm_tasks(environment)
        if tasks > 1:
            raise UserError(
                f"Slurm started {tasks} tasks (SLURM_NTASKS={tasks}) but this process knows of one rank only: "
                "start them with 'srun --mpi=pmix', or with mpirun or horovodrun inside the allocation "
                "('mpirun -np 1' for a one-rank run)"
            )
        return JobEnvironment(SINGLE, 0, 1, 0, 1)

    def check(self) -> None:
        """Refuse ranks that cannot be (UserError): variables that somebody has set by hand, or that were left over."""
        if 0 <= self.rank < self.size and 0 <= self.local_rank < self.local_size:
            return
        raise UserError(
            f"the launcher's variables ({self.launcher}) speak of rank {self.rank} of {self.size}, on its node rank "
            f"{self.local_rank} of {self.local_size}, which cannot be: leave them to the launcher (unset those that "
            "your shell exports)"
        )


def refuse_gloo(environment: Variables) -> None:
    """Refuse to start where Horovod would be told to talk through Gloo under a launcher of MPI (UserError)."""
    for name in ("HOROVOD_CONTROLLER", "HOROVOD_CPU_OPERATIONS"):
        value = environment.get(name, "")
        if value and value.lower() != "mpi":
            raise UserError(
                f"{name} is {value!r}, but these ranks talk through MPI: unset it, or set it to mpi (Gloo is for "
                "--elastic, which horovodrun --host-discovery-script starts)"
            )


def _open_mpi(environment: Variables, elastic: bool) -> JobEnvironment | None:
    """mpirun of Open MPI; horovodrun, which calls it."""
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        return None
    return JobEnvironment(
        "openmpi",
        _number(environment, "OMPI_COMM_WORLD_RANK", 0),
        _number(environment, "OMPI_COMM_WORLD_SIZE", 1),
        _number(environment, "OMPI_COMM_WORLD_LOCAL_RANK", 0),
        _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", 1),
    )


def _gloo(environment: Variables, elastic: bool) -> JobEnvironment | None:
    """horovodrun over Gloo: with a discovery script, for a command that can be elastic, else refused (UserError)."""
    if "HOROVOD_GLOO_RENDEZVOUS_ADDR" not in environment:
        return None
    if not elastic or environment.get("HOROVOD_ELASTIC") != "1":
        raise UserError(
            "horovodrun --gloo leaves out MPI, which this version needs: leave out --gloo, or start with mpirun "
            "(training alone does without: --elastic, with horovodrun's --host-discovery-script)"
        )
    return JobEnvironment(
        ELASTIC,
        _number(environment, "HOROVOD_RANK", 0),
        _number(environment, "HOROVOD_SIZE", 1),
        _number(environment, "HOROVOD_LOCAL_RANK", 0),
        _number(environment, "HOROVOD_LOCAL_SIZE", 1),
    )


def _pmix(environment: Variables, elastic: bool) -> JobEnvironment | None:
    """srun --mpi=pmix: PMIx tells the rank alone, Slurm all else."""
    if "PMIX_RANK" not in environment:
        return None
    tasks_per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", "1"))
    return JobEnvironment(
        "pmix",
        _number(environment, "PMIX_RANK", 0),
        _slurm_tasks(environment),
        _number(environment, "SLURM_LOCALID", 0),
        _tasks_on_node(tasks_per_node, _number(environment, "SLURM_NODEID", 0)),
    )


def _pmi(environment: Variables, elastic: bool) -> JobEnvironment | None:
    """PMI, as of MPICH's launchers."""
    if "PMI_RANK" not in environment:
        return None
    return JobEnvironment(
        "pmi",
        _number(environment, "PMI_RANK", 0),
        _number(environment, "PMI_SIZE", 1),
        _number(environment, "MPI_LOCALRANKID", _number(environment, "SLURM_LOCALID", 0)),
        _number(environment, "MPI_LOCALNRANKS", 1),
    )


Reader: TypeAlias = Callable[[Variables, bool], JobEnvironment | None]
"""Reads the variables of one kind of launcher; None where they are not there. The flag: whether the command can be
elastic."""

READERS: tuple[Reader, ...] = (_open_mpi, _gloo, _pmix, _pmi)
"""In the order in which they are asked: mpirun inside of an allocation sets its own variables beside Slurm's, and
counts."""


def slurm_layout(layout: str) -> list[int]:
    """Slurm's run-length list of tasks a node: '2(x3),1' is 2, 2, 2, 1. Raises UserError for what is none."""
    counts: list[int] = []
    for part in layout.split(","):
        found = re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,6})\))?", part.strip(), re.ASCII)
        if found is None:
            raise UserError(
                f"Slurm's variables speak of {layout!r} tasks a node, which is no such list as '2(x3),1': leave them "
                "to Slurm, or give --hosts"
            )
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def _tasks_on_node(layout: str, node: int) -> int:
    counts = slurm_layout(layout)
    return counts[node] if node < len(counts) else counts[-1]


def _slurm_tasks(environment: Variables) -> int:
    return _number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS", 1))


def _number(environment: Variables, name: str, default: int) -> int:
    """Raises UserError where there is something else than a whole number."""
    value = environment.get(name, "")
    if not value:
        return default
    if not re.fullmatch(r"-?\d{1,9}", value, re.ASCII):
        raise UserError(f"{name} is {value!r}, and a launcher sets it to a whole number: unset it")
    return int(value)
