"""What the launcher says about this process before MPI starts: the variables of each, in one table.

Reads environment variables only, so that a mistake is told by one rank, within seconds, before any rank waits for
another. Where they do not say all, or contradict each other, MPI itself is asked (`ranks.startup.find_job`).
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from horovod_flowers.launch.launchers_above import launcher_above
from horovod_flowers.runtime.errors import UserError

ELASTIC = "horovodrun-elastic"
"""The launcher of ranks that may come and go: horovodrun with a discovery script, over Gloo."""
SINGLE = "single"
"""No launcher: one process."""
SRUN = "srun"
"""Slurm's tasks, which no variable of an MPI joins."""
UNKNOWN = "unknown launcher"
"""One that leaves traces, and none of the variables below."""


Variables: TypeAlias = Mapping[str, str]


@dataclass(frozen=True)
class Told:
    """What a launcher tells of this process; None where it is silent."""

    launcher: str
    rank: int | None = None
    size: int | None = None
    local_rank: int | None = None
    local_size: int | None = None

    def filled_from(self, other: "Told") -> "Told":
        """The same, with the other's word where this one is silent."""
        missing = [name for name in ("rank", "size", "local_rank", "local_size") if getattr(self, name) is None]
        return replace(self, **{name: getattr(other, name) for name in missing})

    def complete(self) -> "JobEnvironment | None":
        """The same, where nothing is missing."""
        if self.rank is None or self.size is None or self.local_rank is None or self.local_size is None:
            return None
        return JobEnvironment(self.launcher, self.rank, self.size, self.local_rank, self.local_size)


@dataclass(frozen=True)
class JobEnvironment:
    """Rank and world size as the launcher's environment variables tell them, or MPI itself where these do not."""

    launcher: str
    """As the reader of its variables calls it."""
    rank: int
    size: int
    local_rank: int
    local_size: int

    @staticmethod
    def from_environment(
        environment: Variables, elastic: bool = False, ask: "Callable[[Told], JobEnvironment] | None" = None
    ) -> "JobEnvironment":
        """What the variables tell; a single process where there are none of any launcher.

        `elastic`: for a command that can be. `ask`: finds out what they do not tell. Raises UserError for horovodrun
        --gloo, under which every rank would be an MPI singleton; for a Slurm allocation of several tasks of which this
        process is none; for variables that no launcher sets so; and without `ask` where they do not tell all.
        """
        gloo = _gloo(environment, elastic)
        if gloo is not None:
            return gloo
        told = told_by(environment)
        if told is None:
            return JobEnvironment(SINGLE, 0, 1, 0, 1)
        refuse_gloo(environment)
        if (job := told.complete()) is not None:
            job.check()
            return job
        if ask is None:
            raise UserError(
                f"the launcher ({told.launcher}) does not tell this process its rank, how many there are and which of "
                "them share its node: start it with mpirun, mpiexec or srun"
            )
        return ask(told)

    def told(self) -> Told:
        """The same, as what the launcher tells."""
        return Told(self.launcher, self.rank, self.size, self.local_rank, self.local_size)

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


def _gloo(environment: Variables, elastic: bool) -> JobEnvironment | None:
    """horovodrun over Gloo: with a discovery script, for a command that can be elastic, else refused (UserError)."""
    if "HOROVOD_GLOO_RENDEZVOUS_ADDR" not in environment or "OMPI_COMM_WORLD_SIZE" in environment:
        return None
    if not elastic or environment.get("HOROVOD_ELASTIC") != "1":
        raise UserError(
            "horovodrun --gloo leaves out MPI, which this version needs: leave out --gloo, or start with mpirun "
            "(training alone does without: --elastic, with horovodrun's --host-discovery-script)"
        )
    numbers = {name: number(environment, f"HOROVOD_{name}") for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")}
    return JobEnvironment(
        ELASTIC,
        numbers["RANK"] or 0,
        1 if numbers["SIZE"] is None else numbers["SIZE"],
        numbers["LOCAL_RANK"] or 0,
        1 if numbers["LOCAL_SIZE"] is None else numbers["LOCAL_SIZE"],
    )


@dataclass(frozen=True)
class Names:
    """The variables by which a launcher tells ranks who they are: of several, the first that is set counts."""

    launcher: str
    rank: tuple[str, ...]
    size: tuple[str, ...] = ()
    local_rank: tuple[str, ...] = ()
    local_size: tuple[str, ...] = ()

    @staticmethod
    def of_world(launcher: str, prefix: str) -> "Names":
        """PREFIX_RANK, PREFIX_SIZE, PREFIX_LOCAL_RANK, PREFIX_LOCAL_SIZE."""
        names = [(f"{prefix}_{name}",) for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")]
        return Names(launcher, *names)

    def read(self, environment: Variables) -> Told | None:
        """None where none of those of rank and size is set. Raises UserError for a value that is no number."""
        if not any(environment.get(name) for name in (*self.rank, *self.size)):
            return None
        of_each = (self.rank, self.size, self.local_rank, self.local_size)
        return Told(self.launcher, *(first_number(environment, names) for names in of_each))


_LOCAL = {
    "local_rank": ("MPI_LOCALRANKID", "PMI_LOCAL_RANK", "PALS_LOCAL_RANKID"),
    "local_size": ("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE", "PALS_LOCAL_SIZE"),
}
"""Of hydra; of Cray's PMI; of PALS."""

LAUNCHERS: tuple[Names, ...] = (
    Names.of_world("openmpi", "OMPI_COMM_WORLD"),  # horovodrun calls it
    Names.of_world("mvapich", "MV2_COMM_WORLD"),
    Names.of_world("mvapich", "MVP_COMM_WORLD"),
    Names("pmix", ("PMIX_RANK",), **_LOCAL),
    Names("pmi", ("PMI_RANK", "PMI_ID"), ("PMI_SIZE",), **_LOCAL),
    Names("pals", ("PALS_RANKID",), **_LOCAL),  # Slurm's older cray_shasta, too
    Names.of_world("jsrun", "JSM_NAMESPACE"),
    Names("flux", ("FLUX_TASK_RANK",), ("FLUX_JOB_SIZE",), ("FLUX_TASK_LOCAL_ID",)),
    Names("mpirun_rsh", ("MPIRUN_RANK",), ("MPIRUN_NPROCS",)),
    Names("aprun", ("ALPS_APP_PE",)),
)
"""In the order in which they count: mpirun inside of an allocation sets its own variables beside Slurm's."""

TRACES = ("PMI_FD", "PMI_PORT", "PMI_CONTROL_PORT", "HYDI_CONTROL_FD", "PMIX_NAMESPACE", "PALS_APID")
"""Variables that a launcher of ranks sets in them, and nobody else."""


def told_by(environment: Variables) -> Told | None:
    """What the launcher's variables tell, and Slurm's where it has started the ranks; None without any launcher.

    Where two launchers' disagree, one of which was left over, nothing but a name. Raises UserError for an allocation of
    several tasks of which this process is none.
    """
    found = [told for told in (names.read(environment) for names in LAUNCHERS) if told is not None]
    if found:
        told = found[0]
        if any(_disagree(one, other) for one, other in itertools.combinations(found, 2)):
            return Told(told.launcher)
        if told.launcher == "openmpi":
            return _with_defaults(told)
        for other in found[1:]:
            told = told.filled_from(other)
        return _with_slurm(told, environment)
    above = launcher_above()
    if above is not None or any(environment.get(name) for name in TRACES):
        return Told(UNKNOWN) if above is None else Told(above.name, size=above.ranks)
    tasks = slurm_tasks(environment)
    if tasks is None or tasks <= 1:
        return None
    if "SLURM_STEP_NUM_TASKS" in environment:
        return _with_slurm(Told(SRUN, number(environment, "SLURM_PROCID")), environment)
    raise UserError(apart_in_slurm(tasks, "srun"))


def apart_in_slurm(tasks: int | None, srun: str) -> str:
    """Of Slurm's tasks that do not find each other. `srun`: the words that connect them."""
    return (
        f"Slurm started {tasks} tasks (SLURM_NTASKS={tasks}) but this process knows of one rank only: start them with "
        f"'{srun}', or with mpirun or horovodrun inside the allocation ('mpirun -np 1' for a one-rank run)"
    )


def _disagree(one: Told, other: Told) -> bool:
    pairs = ((one.rank, other.rank), (one.size, other.size))
    return any(None not in pair and pair[0] != pair[1] for pair in pairs)


def _with_defaults(told: Told) -> Told:
    """Open MPI sets all four: those that lack were taken away."""
    size, local_size = (1 if given is None else given for given in (told.size, told.local_size))
    return Told(told.launcher, told.rank or 0, size, told.local_rank or 0, local_size)


def _with_slurm(told: Told, environment: Variables) -> Told:
    """What is missing from Slurm's variables, if it has started these ranks and not just their mpiexec's daemons."""
    tasks, place = slurm_tasks(environment), number(environment, "SLURM_PROCID")
    if tasks is None or place not in (None, told.rank) or told.size not in (None, tasks):
        return told
    layout = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE"))
    local_size = None
    if layout:
        local_size = _tasks_on_node(layout, number(environment, "SLURM_NODEID") or 0)
    local_rank = number(environment, "SLURM_LOCALID") or 0
    return told.filled_from(Told(SRUN, place, tasks, local_rank, local_size))


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


def slurm_tasks(environment: Variables) -> int | None:
    """Tasks of this step, else of the allocation; None outside of Slurm."""
    return first_number(environment, ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"))


def first_number(environment: Variables, names: tuple[str, ...]) -> int | None:
    """That of the first variable that is set."""
    found: Iterator[int | None] = (number(environment, name) for name in names)
    return next((value for value in found if value is not None), None)


def number(environment: Variables, name: str) -> int | None:
    """None where it is not set. Raises UserError where it is something else than a whole number."""
    value = environment.get(name, "")
    if not value:
        return None
    if not re.fullmatch(r"-?\d{1,9}", value, re.ASCII):
        raise UserError(f"{name} is {value!r}, and a launcher sets it to a whole number: unset it")
    return int(value)
