"""The one place that spells mpirun, horovodrun and srun: one class for each."""

import os
import shlex
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, TypeVar

from horovod_flowers.launch.job_environment import slurm_layout
from horovod_flowers.launch.open_mpi_tcp import tcp_words
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.machine import core_of

# Taken along to other nodes by mpirun -x; horovodrun and srun take everything.
FORWARDED = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "TFDS_DATA_DIR")
FORWARDED_PREFIXES = ("FLOWERS_", "HOROVOD_", "TF_", "NCCL_", "OMP_", "KMP_", "DNNL_", "ONEDNN_", "UCX_")

SRUN_MPI = "pmix"


KnownBy: TypeAlias = Literal["hosts", "slurm", "pbs", "this machine"]


@dataclass(frozen=True)
class Slots:
    """Where ranks may be placed: nodes in the order in which they are filled, and the ranks that fit on each."""

    nodes: tuple[tuple[str, int], ...]
    known_by: KnownBy

    @property
    def total(self) -> int:
        """Ranks that fit on all of them."""
        return sum(count for _, count in self.nodes)

    def __str__(self) -> str:
        return ",".join(f"{node}:{count}" for node, count in self.nodes)


@dataclass(frozen=True)
class Scheduler:
    """Whose allocation a launcher may need."""

    name: str
    known_as: KnownBy
    """In Slots."""
    commands: str
    """That give an allocation."""


SLURM = Scheduler("Slurm", "slurm", "sbatch, salloc")


@dataclass(frozen=True)
class Launcher(ABC):
    """A way of starting ranks, with its settings resolved. A further one is a class below, with @registered."""

    name: ClassVar[str]
    """Of the program, as --launcher and FLOWERS_LAUNCHER give it."""
    needs_allocation_of: ClassVar[Scheduler | None] = None
    """None where nodes may also be given by name, or are this machine alone."""

    slots: Slots
    oversubscribe: bool
    options: tuple[str, ...] = ()
    """The user's own, put behind ours."""

    @abstractmethod
    def start_words(self, ranks: int, environment: Mapping[str, str]) -> list[str]:
        """The program and our options for that many ranks. It has to leave binding to the ranks."""

    def command(self, ranks: int, words: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
        """The whole command that starts `words` on that many ranks, nodes filled one after the other.

        No launcher binds ranks to cores: each takes its share of its node's cores itself (`affinity.share_out`).
        """
        return [*self.start_words(ranks, environment), *self.options, *words]

    def fits(self, ranks: int) -> bool:
        """Whether there is room for so many ranks."""
        return ranks <= self.slots.total or self.oversubscribe

    def check(self, ranks: int) -> None:
        """Refuse more ranks than there is room for (UserError)."""
        if not self.fits(ranks):
            where = f"{self.slots} ({self.slots.known_by})" if self.slots.known_by != "this machine" else "this machine"
            raise UserError(
                f"{ranks} ranks do not fit on {where}, which has room for {self.slots.total}: start fewer, ask for "
                "more nodes, or add --oversubscribe (FLOWERS_OVERSUBSCRIBE=1) to let ranks share cores"
            )

    def check_allocation(self) -> None:
        """Refuse to start outside of the allocation that it needs (UserError)."""
        scheduler = self.needs_allocation_of
        if scheduler is not None and self.slots.known_by != scheduler.known_as:
            raise UserError(
                f"{self.name} needs a {scheduler.name} allocation: call it in a job ({scheduler.commands}), or choose "
                f"{DEFAULT}"
            )

    def filled(self, ranks: int) -> list[tuple[str, int]]:
        """The nodes that so many ranks take, and how many each; what does not fit goes to the last ones in turn."""
        taken, left = list[tuple[str, int]](), ranks
        for node, count in self.slots.nodes:
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


LAUNCHERS: dict[str, type[Launcher]] = {}
"""By name, in the order in which messages list them."""
DEFAULT = "mpirun"
Kind = TypeVar("Kind", bound=Launcher)


def registered(kind: type[Kind]) -> type[Kind]:
    """Class decorator: offers a launcher by its name."""
    LAUNCHERS[kind.name] = kind
    return kind


@registered
class Mpirun(Launcher):
    """mpirun of Open MPI, which reads Slurm's allocation itself."""

    name = "mpirun"

    def start_words(self, ranks: int, environment: Mapping[str, str]) -> list[str]:
        """Hosts where they are not Slurm's; variables, which it does not take to other nodes by itself."""
        program = find_program(self.name)
        words = [program, "-np", str(ranks), "--bind-to", "none", "--map-by", "slot"]
        words += self.transport_words(program, len(self.filled(ranks)), environment)
        if self.oversubscribe:
            words.append("--oversubscribe")
        if self.slots.known_by in ("hosts", "pbs"):
            words += ["-H", str(self.slots)]
        if self.slots.known_by != "this machine":
            words += [word for name in forwarded(environment) for word in ("-x", name)]
        return words

    def transport_words(self, program: str, nodes: int, environment: Mapping[str, str]) -> list[str]:
        """Settings of what carries messages between so many nodes."""
        return tcp_words(program, nodes, environment, self.options)


@registered
class Horovodrun(Launcher):
    """horovodrun, which calls mpirun."""

    name = "horovodrun"

    def start_words(self, ranks: int, environment: Mapping[str, str]) -> list[str]:
        """Hosts with as many ranks as each gets: it knows of no oversubscription."""
        words = [find_program(self.name), "-np", str(ranks)]
        if self.slots.known_by == "this machine":
            return words
        return [*words, "-H", ",".join(f"{node}:{count}" for node, count in self.filled(ranks))]


@registered
class Srun(Launcher):
    """srun, which starts ranks through PMIx."""

    name = "srun"
    needs_allocation_of = SLURM

    def start_words(self, ranks: int, environment: Mapping[str, str]) -> list[str]:
        """Just the nodes of the allocation that so many ranks need."""
        filled = self.filled(ranks)
        words = [find_program(self.name), f"--ntasks={ranks}", f"--nodes={len(filled)}"]
        words += [f"--ntasks-per-node={max(count for _, count in filled)}", "--distribution=block"]
        # Without kill-on-bad-exit Slurm leaves ranks waiting for one that has ended.
        words += [f"--mpi={environment.get('FLOWERS_SRUN_MPI', SRUN_MPI)}", "--kill-on-bad-exit=1", "--cpu-bind=none"]
        if "SLURM_CPUS_PER_TASK" in environment:  # which srun takes from sbatch only up to Slurm 22.05
            words.append(f"--cpus-per-task={environment['SLURM_CPUS_PER_TASK']}")
        return [*words, *(["--overcommit"] if self.oversubscribe else [])]


if TYPE_CHECKING:
    LauncherChoice: TypeAlias = str
else:
    LauncherChoice = Literal[("auto", *LAUNCHERS)]
"""Type of the option that chooses one; auto: $FLOWERS_LAUNCHER, else DEFAULT."""


def choose_launcher(
    name: str, hosts: str | None, oversubscribe: bool, environment: Mapping[str, str] = os.environ
) -> Launcher:
    """Flags over FLOWERS_ variables over what the scheduler says. Raises UserError."""
    if name == "auto":
        name = environment.get("FLOWERS_LAUNCHER") or DEFAULT
    if name not in LAUNCHERS:
        raise UserError(f"FLOWERS_LAUNCHER is {name!r}: allowed is one of {', '.join(LAUNCHERS)}")
    slots = find_slots(hosts or environment.get("FLOWERS_HOSTS"), environment)
    shared = oversubscribe or oversubscription_asked_for(environment)
    launcher = LAUNCHERS[name](slots, shared, launcher_options(environment))
    launcher.check_allocation()
    return launcher


def launcher_options(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The user's own words for the launcher, from FLOWERS_LAUNCHER_OPTIONS. Raises UserError."""
    given = environment.get("FLOWERS_LAUNCHER_OPTIONS", "")
    try:
        return tuple(shlex.split(given))
    except ValueError as error:
        raise UserError(f"FLOWERS_LAUNCHER_OPTIONS is {given!r} ({error}): quote its words as for a shell") from error


def oversubscription_asked_for(environment: Mapping[str, str]) -> bool:
    """Whether FLOWERS_OVERSUBSCRIBE allows ranks to share cores. Raises UserError where it is neither yes nor no."""
    return yes_or_no("FLOWERS_OVERSUBSCRIBE", environment)


def yes_or_no(name: str, environment: Mapping[str, str]) -> bool:
    """What a variable says that switches something on; no where it is not set. Raises UserError for anything else."""
    value = environment.get(name, "").strip().lower()
    if value not in (*_YES, *_NO):
        raise UserError(f"{name} is {environment[name]!r}: give 1 (yes, true, on) or 0 (no, false, off)")
    return value in _YES


_YES, _NO = ("1", "yes", "true", "on", "y"), ("", "0", "no", "false", "off", "n")


def find_slots(hosts: str | None, environment: Mapping[str, str]) -> Slots:
    """Nodes and slots from `hosts`, else Slurm's or PBS' allocation, else this machine's cores. Raises UserError."""
    if hosts:
        return Slots(tuple(_parse_host(word) for word in hosts.split(",")), "hosts")
    if "SLURM_JOB_NODELIST" in environment:
        names = _slurm_hostnames(environment["SLURM_JOB_NODELIST"])
        return Slots(tuple(zip(names, _slurm_slots(len(names), environment), strict=False)), "slurm")
    if "PBS_NODEFILE" in environment:
        try:
            lines = Path(environment["PBS_NODEFILE"]).read_text(encoding="utf-8").split()
        except OSError as error:
            raise UserError(f"PBS_NODEFILE cannot be read ({error.strerror}): give --hosts") from error
        return Slots(tuple((node, lines.count(node)) for node in dict.fromkeys(lines)), "pbs")
    cores = {core_of(cpu) for cpu in os.sched_getaffinity(0)}
    return Slots(((os.uname().nodename, len(cores)),), "this machine")


def _parse_host(word: str) -> tuple[str, int]:
    node, _, count = word.strip().partition(":")
    if not node or not (count or "1").isdigit() or int(count or 1) < 1:
        raise UserError(f"hosts names {word!r}: give NODE:RANKS, separated by commas, such as n1:2,n2:2")
    return node, int(count or 1)


def _slurm_hostnames(nodelist: str) -> list[str]:
    try:
        listed = subprocess.run(
            ["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"scontrol cannot list the nodes {nodelist} ({error}): give --hosts") from error
    return listed.stdout.split()


def _slurm_slots(nodes: int, environment: Mapping[str, str]) -> list[int]:
    """Tasks a node of the allocation."""
    counts = slurm_layout(environment.get("SLURM_TASKS_PER_NODE", "1"))
    return (counts + counts[-1:] * nodes)[:nodes]


def forwarded(environment: Mapping[str, str]) -> list[str]:
    """Names of the variables that ranks on other nodes need."""
    return sorted(name for name in environment if name in FORWARDED or name.startswith(FORWARDED_PREFIXES))


def find_program(name: str) -> str:
    """The launcher on PATH, else the one beside this Python. Raises UserError where there is none."""
    beside = Path(sys.executable).with_name(name)
    if shutil.which(name) is not None:
        return name
    if beside.exists():
        return str(beside)
    raise UserError(f"there is no {name} on PATH: activate the environment, or load the site's MPI module")
