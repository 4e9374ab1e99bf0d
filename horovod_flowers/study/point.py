"""The points of a study: what each of them runs, and whether that is there already."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from horovod_flowers.collectives.config import MicrobenchmarkConfig
from horovod_flowers.config.choices import PrecisionChoice
from horovod_flowers.config.command_line import build, flags, start_of
from horovod_flowers.config.emulated_network import EmulatedNetwork
from horovod_flowers.config.options import Effect, flat_options, names_of
from horovod_flowers.config.run import NOTHING, RunConfig
from horovod_flowers.config.script import is_script
from horovod_flowers.config.yaml_file import options_in
from horovod_flowers.runlog.collectives import collectives_file, read_collectives
from horovod_flowers.runlog.emulation import Emulation
from horovod_flowers.runlog.json_lines import read_json
from horovod_flowers.runlog.machine_peak import peak_file, read_peak
from horovod_flowers.runlog.records import Environment, Result
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.run_hold import RunHold
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.study.file import StudyFile

TIMED_PRODUCTS = 5
"""Of each size of matrices in a point: the fastest counts."""
TIMED_CALLS = 7
"""Of each size in a point: with the repetitions of the study there are more, and a point stays short."""
MBIT_OF_A_MEGABYTE = 12
"""Megabits a second of an emulated link for each megabyte of the largest message: an allreduce sends each bit twice."""


@dataclass(frozen=True)
class Point(ABC):
    """One thing that a study runs."""

    name: str
    ranks: int
    repetition: int
    timeout_seconds: float
    network: EmulatedNetwork | None = field(default=None, kw_only=True)
    """Virtual nodes that it is run on; None: the launcher's."""

    @abstractmethod
    def command_words(self) -> list[str]:
        """What every rank runs."""

    @abstractmethod
    def preflight_words(self) -> list[str]:
        """Options of the preflight that looks at the machine for it."""

    @abstractmethod
    def begun(self, runs_dir: Path) -> bool:
        """Whether something of it is there."""

    @abstractmethod
    def finished(self, runs_dir: Path) -> bool:
        """Whether all of it is there.

        Raises UserError where that is of other options than the point's: it must not stand for it.
        """

    def prepare(self, runs_dir: Path) -> None:  # noqa: B027 (most points need nothing)
        """What is done before it is run. Raises UserError where it cannot be."""

    def conclude(self, runs_dir: Path) -> str | None:
        """Judge what is there after its command has ended with status 0: why it has failed all the same."""
        return None


@dataclass(frozen=True)
class OwnPoint(Point):
    """What runs a module of this package."""

    config: RunConfig
    """Of train: what the point trains, or what others train in this study at its number of ranks."""

    module: ClassVar[str]
    """Run as `python -m`, with `words()`."""

    def words(self) -> list[str]:
        """The module's options: whatever differs from the defaults."""
        return option_words(self.options())

    def command_words(self) -> list[str]:
        """The module with its options."""
        return [sys.executable, "-m", self.module, *self.words()]

    def preflight_words(self) -> list[str]:
        """Options of the run."""
        return option_words(self.config)

    @abstractmethod
    def options(self) -> Any:
        """Of the module, as its configuration dataclass."""


class TrainingPoint(OwnPoint):
    """A run."""

    module = "horovod_flowers.train"

    def options(self) -> RunConfig:
        """Those of the run."""
        return self.config

    def begun(self, runs_dir: Path) -> bool:
        """Whether the run's folder is there."""
        return (runs_dir / self.name).exists()

    def finished(self, runs_dir: Path) -> bool:
        """Whether the run has a result. Raises UserError where its options are not the point's."""
        folder = RunFolder(runs_dir / self.name)
        if folder.config.exists() and is_script(options_in(folder.config)):
            raise UserError(
                f"run {folder.path} is of a command, and the study's are of train: give the study another name in its "
                "job file, or another --runs-dir"
            )
        if not folder.result.exists() or not read_json(folder.result, Result).ends(self.config.epochs):
            return False
        stored = build(RunConfig, options_in(folder.config))
        was, now = (flat_options(asdict(config)) for config in (stored, self.config))
        # Where the images lie says nothing about the work: a finished run stands for a point wherever it was made.
        where = names_of(RunConfig, Effect.FOLDER, Effect.PLACE)
        # Of a run whose model is not compiled they are null.
        now["model.overrides"] = None if was["model.overrides"] is None else now["model.overrides"] or NOTHING
        compared = ((name, was[name], now[name]) for name in now if name not in where)
        found = read_json(folder.environment, Environment)
        refuse_other(f"run {folder.path}", [("ranks", found.world_size, self.ranks), *compared])
        refuse_other_network(f"run {folder.path}", found.emulated, self.network)
        return _problem(folder) is None

    def prepare(self, runs_dir: Path) -> None:
        """Let a run be begun anew whose times are no measurement, or whose emulated job was killed."""
        folder = RunFolder(runs_dir / self.name)
        if self.network is not None:
            # Virtual nodes do not see the processes out here: there, whoever held it and is gone would seem alive.
            with RunHold("horovod_flowers.study") as hold:
                hold.take_if_free(folder.path)
        if folder.result.exists() and _problem(folder) is not None:
            folder.result.unlink()  # an emulated run has no checkpoint that it could go on from

    def conclude(self, runs_dir: Path) -> str | None:
        """Judge an emulated run by its gauge."""
        return no_measurement(_problem(RunFolder(runs_dir / self.name)))


class CollectivesPoint(OwnPoint):
    """Collective calls, measured with the cores and Horovod settings of the study's runs."""

    module = "horovod_flowers.microbenchmark"

    def options(self) -> MicrobenchmarkConfig:
        """Those of the measurement."""
        output = collectives_file(Path(self.config.runs_dir), self.name)
        return MicrobenchmarkConfig(
            output=str(output),
            largest_mb=largest_message_mb(self.network),
            repetitions=TIMED_CALLS,
            threads=self.config.threads,
            bind=self.config.bind if self.network is None else "none",  # virtual nodes share the machine's cores
            horovod=self.config.horovod,
        )

    def begun(self, runs_dir: Path) -> bool:
        """Whether there is a record, from another version perhaps."""
        return collectives_file(runs_dir, self.name).exists()

    def finished(self, runs_dir: Path) -> bool:
        """Whether there is a record that can be read. Raises UserError where it is of other ranks or threads."""
        path = collectives_file(runs_dir, self.name)
        try:
            record = read_collectives(path)
        except (FileNotFoundError, UserError):
            return False
        threads = self.config.threads or record.threads  # 0 leaves them to the machine
        differences = [("ranks", record.world_size, self.ranks), ("threads", record.threads, threads)]
        refuse_other(f"record {path}", differences)
        refuse_other_network(f"record {path}", record.emulated, self.network)
        return record.core_gauge is None or record.core_gauge.problem is None

    def conclude(self, runs_dir: Path) -> str | None:
        """Judge an emulated measurement by its gauge."""
        gauge = read_collectives(collectives_file(runs_dir, self.name)).core_gauge
        return None if gauge is None else no_measurement(gauge.problem)


@dataclass(frozen=True)
class PeakPoint(OwnPoint):
    """What the ranks compute at most, measured with the cores of the study's runs."""

    precisions: tuple[PrecisionChoice, ...]

    module = "horovod_flowers.microbenchmark"

    def options(self) -> MicrobenchmarkConfig:
        """Those of the measurement."""
        return MicrobenchmarkConfig(
            output=str(peak_file(Path(self.config.runs_dir), self.name)),
            measure="peak",
            precisions=",".join(self.precisions),
            repetitions=TIMED_PRODUCTS,
            threads=self.config.threads,
            bind=self.config.bind,
        )

    def begun(self, runs_dir: Path) -> bool:
        """Whether there is a record, from another version perhaps."""
        return peak_file(runs_dir, self.name).exists()

    def finished(self, runs_dir: Path) -> bool:
        """Whether there is a record of these precisions. Raises UserError where it is of other ranks or threads."""
        path = peak_file(runs_dir, self.name)
        try:
            record = read_peak(path)
        except (FileNotFoundError, UserError):
            return False
        threads = self.config.threads or record.threads  # 0 leaves them to the machine
        refuse_other(f"record {path}", [("ranks", record.world_size, self.ranks), ("threads", record.threads, threads)])
        there = {each.precision for each in record.measured}
        return {precision for precision in self.precisions if precision != "auto"} <= there


def peak_points(
    study: StudyFile,
    ranks: int,
    timeout_seconds: float,
    machine: RunConfig,
    precisions: tuple[PrecisionChoice, ...] = (),
) -> list[Point]:
    """Those of a study at a number of ranks. `precisions`: to measure before the study's."""
    every = tuple(dict.fromkeys((*precisions, *study.precisions)))
    return [
        PeakPoint(f"{study.name}-{ranks}ranks-peak-run{number}", ranks, number, timeout_seconds, machine, every)
        for number in range(1, study.repetitions + 1)
    ]


def _problem(folder: RunFolder) -> str | None:
    gauge = read_json(folder.result, Result).core_gauge
    return None if gauge is None else gauge.problem


def no_measurement(problem: str | None) -> str | None:
    """Why a point has failed whose gauge has found a problem."""
    return None if problem is None else f"its times are no measurement: {problem}"


def refuse_other_network(what: str, emulated: Emulation | None, network: EmulatedNetwork | None) -> None:
    """Raise UserError where a finished run, or a record, is of another network than the point."""
    was = None if emulated is None else emulated.network
    refuse_other(what, [("network", was or "that is real", network or "that is real")] if was != network else [])


def largest_message_mb(network: EmulatedNetwork | None) -> int:
    """That is measured: on a slow link less than usually, so that its allreduce takes a second or two."""
    usual = MicrobenchmarkConfig().largest_mb
    return usual if network is None else max(1, min(usual, round(network.virtual_mbit / MBIT_OF_A_MEGABYTE)))


def option_words(options: Any) -> list[str]:
    """Words for the command line from a configuration dataclass: its preset, and whatever differs from that."""
    start = flat_options(asdict(start_of(options)))
    return flags({name: value for name, value in flat_options(asdict(options)).items() if value != start[name]})


def refuse_other(what: str, compared: Iterable[tuple[str, Any, Any]]) -> None:
    """Raise UserError for the first name whose value there is not that of the point."""
    for name, before, after in compared:
        if before != after:
            raise UserError(
                f"{what} was made with {name} {before}, and the study says {after}: give the study another name in "
                "its job file, or another --runs-dir"
            )
