"""mpirun, mpiexec, horovodrun, srun and ibrun: one class for each.

What differs from MPI to MPI in a program of the same name is in `horovod_flowers.mpi`.
"""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, TypeVar

from horovod_flowers.launch.open_mpi_tcp import SWITCH, tcp_words
from horovod_flowers.launch.slots import KnownBy, Slots, find_slots
from horovod_flowers.mpi.identify import all_unbound_variables, installed_library, manager_of
from horovod_flowers.mpi.open_mpi import OpenMpiRun
from horovod_flowers.mpi.process_manager import OtherManager, ProcessManager, Start
from horovod_flowers.runtime.errors import UserError

# Taken along to other nodes by Open MPI's mpirun -x; every other launcher takes everything.
FORWARDED = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "TFDS_DATA_DIR")
FORWARDED_PREFIXES = ("FLOWERS_", "HOROVOD_", "TF_", "NCCL_", "OMP_", "KMP_", "DNNL_", "ONEDNN_", "UCX_")


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

    @property
    def manager(self) -> ProcessManager | None:
        """What the program is, of all that are called so; None where that does not differ, or it is not there."""
        return None

    def variables(self) -> Mapping[str, str]:
        """What it and its ranks are to find in the environment, unless it is set there."""
        return {} if self.manager is None else self.manager.variables()

    def signal_of(self, status: int) -> int | None:
        """The signal that has ended a rank, by the launcher's exit status, or the launcher; None where none has."""
        if status < 0:
            return -status
        return (self.manager or OtherManager(self.name)).signal_of(status)

    def command(self, ranks: int, words: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
        """The whole command that starts `words` on that many ranks, nodes filled one after the other.

        No launcher binds ranks to cores: each takes its share of its node's cores itself (`affinity.share_out`).
        """
        return [*self.start_words(ranks, environment), *self.options, *words]

    def fits(self, ranks: int) -> bool:
        """Whether there is room for so many ranks."""
        return ranks <= self.slots.total or self.oversubscribe

    def check(self, ranks: int, words: Sequence[str] = ()) -> None:
        """Refuse more ranks than there is room for, and what is of another MPI than the command (UserError)."""
        if not self.fits(ranks):
            where = f"{self.slots} ({self.slots.known_by})" if self.slots.known_by != "this machine" else "this machine"
            raise UserError(
                f"{ranks} ranks do not fit on {where}, which has room for {self.slots.total}: start fewer, ask for "
                "more nodes, or add --oversubscribe (FLOWERS_OVERSUBSCRIBE=1) to let ranks share cores"
            )
        if self.manager is not None and words:
            refuse_another_mpi(self.manager, words)

    def check_usable(self) -> None:
        """Refuse to start outside of the allocation that it needs, or what it cannot start (UserError)."""
        scheduler = self.needs_allocation_of
        if scheduler is not None and self.slots.known_by != scheduler.known_as:
            raise UserError(
                f"{self.name} needs a {scheduler.name} allocation: call it in a job ({scheduler.commands}), or choose "
                f"{DEFAULT}"
            )

    def filled(self, ranks: int) -> list[tuple[str, int]]:
        """The nodes that so many ranks take, and how many each; what does not fit goes to the last ones in turn."""
        return Start(ranks, self.slots.nodes).filled


LAUNCHERS: dict[str, type[Launcher]] = {}
"""By name, in the order in which messages list them."""
DEFAULT = "mpirun"
Kind = TypeVar("Kind", bound=Launcher)


def registered(kind: type[Kind]) -> type[Kind]:
    """Class decorator: offers a launcher by its name."""
    LAUNCHERS[kind.name] = kind
    return kind


@dataclass(frozen=True)
class OfAnMpi(Launcher):
    """A program that each MPI has of its own."""

    @property
    def manager(self) -> ProcessManager:
        """Asked of the program. Raises UserError where it is not there."""
        return manager_of(find_program(self.name))

    def start_words(self, ranks: int, environment: Mapping[str, str]) -> list[str]:
        """As its MPI has it."""
        manager, known_by = self.manager, self.slots.known_by
        start = Start(
            ranks,
            self.slots.nodes,
            scheduler=known_by if known_by in ("slurm", "pbs") else None,
            here=known_by == "this machine",
            oversubscribe=self.oversubscribe,
            forwarded=tuple(forwarded(environment)),
            own_options=bool(self.options),
        )
        words = [manager.program, *manager.start_words(start)]
        return words + self.transport_words(manager, len(start.filled), environment)

    def transport_words(self, manager: ProcessManager, nodes: int, environment: Mapping[str, str]) -> list[str]:
        """Settings of what carries messages between so many nodes. Raises UserError for those of another MPI."""
        if isinstance(manager, OpenMpiRun):
            return tcp_words(manager, nodes, environment, self.options)
        if environment.get(SWITCH, "").strip() == "1":
            raise UserError(
                f"{SWITCH} is 1, which is a setting of Open MPI's, and {manager.program} is {manager.summary}: leave "
                "it out"
            )
        return []


@registered
class Mpirun(OfAnMpi):
    """mpirun."""

    name = "mpirun"


@registered
class Mpiexec(OfAnMpi):
    """mpiexec: with most MPIs the same as mpirun; with PALS, which has no mpirun, of its own."""

    name = "mpiexec"


@registered
class Horovodrun(Launcher):
    """horovodrun, which calls mpirun."""

    name = "horovodrun"

    @property
    def manager(self) -> ProcessManager | None:
        """The mpirun that it calls; None where there is none, which it says itself."""
        return manager_of(Mpirun.name) if shutil.which(Mpirun.name) else None

    def check_usable(self) -> None:
        """Refuse an mpirun that it cannot call (UserError)."""
        super().check_usable()
        if self.manager is not None and self.manager.horovodrun_refusal is not None:
            raise UserError(
                f"horovodrun cannot start ranks of {self.manager.summary}, whose mpirun is the one on PATH: "
                f"{self.manager.horovodrun_refusal}; choose {Mpirun.name} (--launcher, FLOWERS_LAUNCHER)"
            )

    def start_words(self, ranks: int, environment: Mapping[str, str]) -> list[str]:
        """Hosts with as many ranks as each gets: it knows of no oversubscription."""
        words = [find_program(self.name), "-np", str(ranks)]
        if self.slots.known_by == "this machine":
            return words
        return [*words, "-H", ",".join(f"{node}:{count}" for node, count in self.filled(ranks))]


@registered
class Srun(Launcher):
    """srun, which starts ranks through the PMI or PMIx that its --mpi names."""

    name = "srun"
    needs_allocation_of = SLURM

    def start_words(self, ranks: int, environment: Mapping[str, str]) -> list[str]:
        """Just the nodes of the allocation that so many ranks need."""
        filled, program = self.filled(ranks), find_program(self.name)
        words = [program, f"--ntasks={ranks}", f"--nodes={len(filled)}"]
        words += [f"--ntasks-per-node={max(count for _, count in filled)}", "--distribution=block"]
        kind = environment.get("FLOWERS_SRUN_MPI")
        kind = usual_srun_type(program) if kind is None else kind.strip()
        words += [f"--mpi={kind}"] if kind else []  # empty: the site's default
        # Without kill-on-bad-exit Slurm leaves ranks waiting for one that has ended.
        words += ["--kill-on-bad-exit=1", "--cpu-bind=none"]
        if "SLURM_CPUS_PER_TASK" in environment:  # which srun takes from sbatch only up to Slurm 22.05
            words.append(f"--cpus-per-task={environment['SLURM_CPUS_PER_TASK']}")
        return [*words, *(["--overcommit"] if self.oversubscribe else [])]

    def variables(self) -> Mapping[str, str]:
        """No MPI is to pin its ranks."""
        return all_unbound_variables()


@registered
class Ibrun(Launcher):
    """ibrun, which starts ranks of any MPI on TACC's machines, in Slurm. Not run on a real one."""

    name = "ibrun"
    needs_allocation_of = SLURM

    def start_words(self, ranks: int, environment: Mapping[str, str]) -> list[str]:
        """The first ranks of the allocation, which it places by itself."""
        return [find_program(self.name), "-n", str(ranks), "-o", "0"]

    def variables(self) -> Mapping[str, str]:
        """No MPI is to pin its ranks."""
        return all_unbound_variables()


def usual_srun_type(srun: str) -> str:
    """The --mpi through which ranks of this Python's MPI find each other; empty, the site's default, for none there.

    Nothing has to be right here: a rank that finds no other where Slurm started several refuses to run.
    """
    library = installed_library()
    offered = srun_types(srun)
    wanted = ("pmix",) if library is None else library.srun_types
    return next((kind for kind in wanted if offered is None or kind in offered), "")


@functools.cache
def srun_types(srun: str) -> frozenset[str] | None:
    """What this Slurm offers for --mpi; None where it does not tell."""
    try:
        told = subprocess.run([srun, "--mpi=list"], check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return frozenset(re.findall(r"\w+", told.stdout + told.stderr))  # which of the two differs from version to version


if TYPE_CHECKING:
    LauncherChoice: TypeAlias = str
else:
    LauncherChoice = Literal[("auto", *LAUNCHERS)]
"""Type of the option that chooses one; auto: $FLOWERS_LAUNCHER, else DEFAULT."""


def choose_launcher(
    name: str, hosts: str | None, oversubscribe: bool, environment: Mapping[str, str] = os.environ
) -> Launcher:
    """Flags over FLOWERS_ variables over what the scheduler says. Raises UserError."""
    slots = find_slots(hosts or environment.get("FLOWERS_HOSTS"), environment)
    if name == "auto":
        name = environment.get("FLOWERS_LAUNCHER") or usual_launcher(slots)
    if name not in LAUNCHERS:
        raise UserError(f"FLOWERS_LAUNCHER is {name!r}: allowed is one of {', '.join(LAUNCHERS)}")
    shared = oversubscribe or oversubscription_asked_for(environment)
    launcher = LAUNCHERS[name](slots, shared, launcher_options(environment))
    launcher.check_usable()
    return launcher


def usual_launcher(slots: Slots) -> str:
    """mpirun; where there is none, as on Cray systems, mpiexec, or in an allocation of Slurm's srun."""
    usual = [Mpirun.name, Mpiexec.name] + ([Srun.name] if slots.known_by == SLURM.known_as else [])
    return next((name for name in usual if _program(name) is not None), DEFAULT)


def refuse_another_mpi(manager: ProcessManager, command: Sequence[str]) -> None:
    """Refuse a Python whose MPI is another than the launcher's (UserError); of other commands it is not known."""
    program = next((word for word in command if word != "env" and "=" not in word), "")
    found = shutil.which(program)
    if found is None or not re.fullmatch(r"python[\d.]*", Path(program).name):
        return
    library = installed_library(found)
    if library is not None and not manager.starts(library):
        raise UserError(
            f"{manager.program} is of {manager.summary}, and {program} finds {library.summary}: their ranks would not "
            f"find each other; load {library.module}, so that its launcher is the first on PATH, or activate the "
            f"environment that was built for {manager.name}"
        )


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


def forwarded(environment: Mapping[str, str]) -> list[str]:
    """Names of the variables that ranks on other nodes need."""
    return sorted(name for name in environment if name in FORWARDED or name.startswith(FORWARDED_PREFIXES))


def find_program(name: str) -> str:
    """The launcher on PATH, else the one beside this Python. Raises UserError where there is none."""
    found = _program(name)
    if found is None:
        raise UserError(f"there is no {name} on PATH: activate the environment, or load the site's MPI module")
    return found


def _program(name: str) -> str | None:
    beside = Path(sys.executable).with_name(name)
    if shutil.which(name) is not None:
        return name
    return str(beside) if beside.exists() else None
