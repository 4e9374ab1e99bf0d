"""What emulated points sleep for: steps that are measured on one rank before the first of them, once a study."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from horovod_flowers.config.emulate import EmulateConfig
from horovod_flowers.config.options import options_of_strategies
from horovod_flowers.config.run import RunConfig
from horovod_flowers.launch.job import run_job
from horovod_flowers.runlog.step_profile import read_step_profile, step_profile_file
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import Stopped, UserError
from horovod_flowers.study.point import Point, TrainingPoint, option_words


def profile_file(runs_dir: str, study: str, precision: str) -> Path:
    """Where a study keeps what its emulated points of a precision sleep for."""
    return step_profile_file(Path(runs_dir), f"{study}-{precision}")


@dataclass(frozen=True)
class MissingProfile:
    """A measurement that has to be made."""

    file: Path
    rows: tuple[int, ...]
    """Images of a step on a rank, of each batch that is missing."""
    extends: bool
    """Whether there is a file, whose other batches are kept: points that ran before sleep for these."""
    config: RunConfig
    """Of one of the points."""

    def command(self) -> list[str]:
        """What makes it, on one rank and outside of the network."""
        default = RunConfig()
        plain = replace(
            self.config,
            name=None,
            resume_or_start=False,
            strategy=default.strategy,
            seed=default.seed,
            global_batch=None,
            per_rank_batch=None,
            emulate=EmulateConfig(),
            checkpoint=default.checkpoint,
            validate=default.validate,
            bind=default.bind,
            **{name: getattr(default, name) for name in options_of_strategies(RunConfig)},
        )
        words = ["--output", str(self.file), "--rows", ",".join(map(str, self.rows)), *option_words(plain)]
        words += ["--extend"] if self.extends else []
        return [sys.executable, "-m", "horovod_flowers.step_profile", *words]


def missing_profiles(points: Sequence[Point]) -> Iterator[MissingProfile]:
    """What the points need and is not there, or lacks one of their batches.

    Raises UserError where a file is damaged, or cannot be read.
    """
    needed = dict[Path, set[int]]()
    config_of = dict[Path, RunConfig]()
    for point in points:
        if isinstance(point, TrainingPoint) and point.config.emulate.profile is not None:
            file = Path(point.config.emulate.profile)
            needed.setdefault(file, set()).add(point.config.global_batch_for(point.ranks) // point.ranks)
            config_of.setdefault(file, point.config)
    for file, rows in needed.items():
        there = _rows_in(file)
        if not rows <= there:
            missing = tuple(sorted(rows - there, reverse=True))
            yield MissingProfile(file, missing, bool(there), config_of[file])


def _rows_in(file: Path) -> set[int]:
    try:
        return {batch.rows for batch in read_step_profile(file).batches}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise UserError(f"step profile {file} cannot be read ({error.strerror or error})") from error


def measure_profiles(points: Sequence[Point]) -> None:
    """Measure what is missing.

    Raises Stopped where a signal asked for it, SystemExit with the status of a measurement that failed.
    """
    for missing in list(missing_profiles(points)):
        say(f"study: measuring a step of {', '.join(map(str, missing.rows))} images on one rank, into {missing.file}")
        missing.file.parent.mkdir(parents=True, exist_ok=True)
        ending = run_job(missing.command())
        if ending.asked_to_stop:
            raise Stopped(f"stopped on request ({ending.asked_to_stop}) before the first point")
        if ending.status != 0:
            say("study: the step could not be measured, which emulated points sleep for")
            raise SystemExit(ending.exit_status)
