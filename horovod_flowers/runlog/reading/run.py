"""A finished run, read back from its records and checked for gaps. No TensorFlow here."""

import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from horovod_flowers.config.command_line import build
from horovod_flowers.config.script import ScriptConfig, is_script
from horovod_flowers.runlog.json_lines import read_json, read_lines
from horovod_flowers.runlog.reading.config import read_config
from horovod_flowers.runlog.reading.steps import MOST_IMAGES, PARTS, StepTimes, read_steps, times_begun
from horovod_flowers.runlog.records import Change, Environment, EpochRecord, Result
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.training_progress import TrainingProgress
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.files import check_regular

_MOST_BYTES = 64 * 2**20  # of each file but those of steps: ten times what 4,096 ranks on 64 cores each need
_TOLD_CHANGES = 8
_ROUNDING = 1e-6
"""Of seconds that are added up in another order."""
_OTHER_SECONDS = 0.01
"""Share by which an epoch's record and its steps may differ: they are the same sum."""
_MOST_PARTED = 0.5
"""Share of steps that may begin elsewhere than where the step before ended."""


@dataclass(frozen=True, eq=False)
class DescribedRun:
    """One run without its steps: what was asked for, what it ran on, and what came of it."""

    name: str
    path: Path
    """Its folder."""
    config: dict[str, Any]
    environment: Environment
    result: Result
    epochs: list[EpochRecord]

    @property
    def ranks(self) -> int:
        """World size."""
        return self.environment.world_size


@dataclass(frozen=True, eq=False)
class RecordedRun(DescribedRun):
    """One run with its timed steps."""

    step_ns: np.ndarray
    """int64 [steps, ranks]: total nanoseconds of each timed step on each rank."""
    epoch_of_step: np.ndarray
    """int64 [steps]."""
    part_ns: np.ndarray
    """int64 [steps, ranks, 4]: the PARTS of each step."""
    images: int
    """Training images of the timed steps, over all ranks."""
    start_ns: np.ndarray
    """int64 [steps, ranks]: by the monotonic clock of the rank's host."""
    steps: np.ndarray
    """int64 [steps]: the numbers of the timed steps, counted over the run."""
    clock_offset_seconds: np.ndarray
    """float64 [ranks]: add it to seconds of the monotonic clock to get the time of day."""
    starts: int
    """How often it was started: once, and again each time that it was resumed."""

    @cached_property
    def slowest_ns(self) -> np.ndarray:
        """int64 [steps]: a step takes as long as its slowest rank."""
        return self.step_ns.max(axis=1)

    @cached_property
    def timed_seconds(self) -> float:
        """Elapsed seconds of the timed steps: each epoch by its slowest rank, added up.

        Ranks start an epoch together; within it, one that ends a step late may begin the next one late and still be
        on time, so the sum over steps of the slowest rank's seconds would count more than has passed.
        """
        by_epoch = [self.step_ns[self.epoch_of_step == epoch].sum(axis=0) for epoch in np.unique(self.epoch_of_step)]
        return sum(float(ranks.max()) for ranks in by_epoch) / 1e9

    @property
    def median_step_seconds(self) -> float:
        """Median over the timed steps of the slowest rank's seconds."""
        return float(np.median(self.slowest_ns)) / 1e9

    @cached_property
    def part_shares(self) -> dict[str, float]:
        """Share of the ranks' time that each part of a step took; the shares add up to 1."""
        totals = self.part_ns.sum(axis=(0, 1), dtype=np.float64)  # above 64 bits in a long run
        return dict(zip(PARTS, (totals / totals.sum()).tolist(), strict=True))


def read_run(path: Path) -> RecordedRun:
    """Read one run folder.

    Raises UserError, saying why, where it is unfinished, damaged, contradicts itself or has gaps: such a run must not
    become a figure.
    """
    folder = RunFolder(path)
    try:
        # What is not there comes before what is damaged.
        for file in (folder.config, folder.environment, folder.result, folder.epochs):
            check_regular(file, _MOST_BYTES)
        _check_same_ranks(folder)
        config = read_config(folder.config)
        environment = read_json(folder.environment, Environment)
        result = read_json(folder.result, Result)
        epochs = list(read_lines(folder.epochs, EpochRecord))
        _check_agreement(config, environment, result)
        _check_epochs(config, epochs, result)
        if not is_script(config):
            _check_known(epochs, result)
        times = read_steps(folder, environment.world_size, result.progress.steps_done, environment.global_batch)
        starts = times_begun(path)
        if not is_script(config):
            _check_times(config, epochs, times, starts)
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise UserError("unfinished" if missing == folder.result.name else f"no {missing}") from error
    except OSError as error:
        raise UserError(f"unreadable ({error})") from error
    return RecordedRun(
        name=Path(os.path.abspath(path)).name,  # of '.', too
        path=path,
        config=config,
        environment=environment,
        result=result,
        epochs=epochs,
        step_ns=times.step_ns,
        epoch_of_step=times.epoch_of_step,
        part_ns=times.part_ns,
        images=times.images,
        start_ns=times.start_ns,
        steps=times.steps,
        clock_offset_seconds=times.clock_offset_seconds,
        starts=starts,
    )


def _check_same_ranks(folder: RunFolder) -> None:
    """Refuse an elastic run in which ranks came or went (UserError)."""
    if not folder.changes.exists():
        return
    check_regular(folder.changes, _MOST_BYTES)
    changes = list(read_lines(folder.changes, Change))
    if changes:
        ranks = [changes[0].ranks_before, *(change.ranks_after for change in changes)]
        told = ", ".join(map(str, ranks if len(ranks) <= _TOLD_CHANGES else [*ranks[:_TOLD_CHANGES], "..."]))
        raise UserError(f"ranks joined or left during training ({told} ranks): its times are not comparable")


def _check_agreement(config: dict[str, Any], environment: Environment, result: Result) -> None:
    """Refuse files that are not of one run (UserError)."""
    ranks = environment.world_size
    if [rank.rank for rank in environment.ranks] != list(range(len(environment.ranks))) or len(
        environment.ranks
    ) != ranks:
        raise UserError(f"environment.json does not describe each of its {ranks} ranks once")
    if sum(host.ranks for host in environment.hosts) != ranks:
        raise UserError(f"the hosts of environment.json do not have {ranks} ranks together")
    if not {rank.host for rank in environment.ranks} <= {host.host for host in environment.hosts}:
        raise UserError("environment.json has a rank on a host that it does not describe")
    slept = environment.emulated is not None and environment.emulated.step is not None
    if slept != (not is_script(config) and config["emulate"]["profile"] is not None):
        raise UserError("config.yaml and environment.json do not agree whether it is emulated")
    if environment.global_batch > MOST_IMAGES:
        raise UserError(f"environment.json has a global batch of {environment.global_batch}: {MOST_IMAGES} is the most")
    asked = config["global_batch"]
    if is_script(config):
        script = build(ScriptConfig, config)
        script.words(ranks)
        asked = script.global_batch_for(ranks)
    if asked is not None and asked != environment.global_batch:
        raise UserError(
            f"config.yaml asks for a global batch of {asked}, environment.json has {environment.global_batch}"
        )
    for numbers in (result.optimizer_bytes, result.peak_memory_bytes):
        if len(numbers) != ranks:
            raise UserError(f"result.json has memory of {len(numbers)} of {ranks} ranks")
    taken = result.resources
    for of_ranks in () if taken is None else (taken.wall_seconds, taken.gpu_peak_bytes):
        if of_ranks is not None and len(of_ranks) != ranks:
            raise UserError(f"result.json has resources of {len(of_ranks)} of {ranks} ranks")


def _check_epochs(config: dict[str, Any], epochs: list[EpochRecord], result: Result) -> None:
    """Refuse a result that is of another training than the configuration or the epochs (UserError).

    Epochs may be missing: version 0.1.0 could lose the record of one whose checkpoint it had.
    """
    done, trained = result.progress.epochs_done, result.progress.training_seconds
    if not is_script(config) and not result.ends(config["epochs"]):
        raise UserError(
            f"config.yaml asks for {config['epochs']} epochs, result.json has {done}: they are of two trainings"
        )
    if len({epoch.epoch for epoch in epochs}) < len(epochs):
        raise UserError("epochs.jsonl has an epoch twice: two jobs wrote into it at once")
    seconds = _other_seconds(epochs, result.progress)
    if seconds is not None:
        raise UserError(
            f"result.json has {trained:.3f} s of training, epochs.jsonl {seconds:.3f} s: they are of two trainings"
        )


def _check_times(config: dict[str, Any], epochs: list[EpochRecord], times: StepTimes, starts: int) -> None:
    """Refuse steps that are not those of which the epochs and the clock tell (UserError): somebody has changed them.

    train's epochs are sums of its steps, and a step begins where the one before ended, unless a checkpoint or another
    start is between.
    """
    if starts > 1:
        return
    for epoch in epochs:
        told, seconds = epoch.training_seconds, times.epoch_seconds.get(epoch.epoch)
        if seconds is not None and not math.isclose(told, seconds, rel_tol=_OTHER_SECONDS, abs_tol=1e-3):
            raise UserError(
                f"the steps of epoch {epoch.epoch} take {seconds:.3f} s, and epochs.jsonl has {told:.3f} s of it: one "
                "of the two was changed after the run"
            )
    if not config["checkpoint_steps"] and times.parted > _MOST_PARTED:
        raise UserError(
            f"{times.parted:.0%} of the steps do not begin where the step before ended: their times were changed after "
            "the run"
        )


def _check_known(epochs: list[EpochRecord], result: Result) -> None:
    """Refuse what train always knows where it is missing (UserError): only of a script is it unknown."""
    for name in ("learning_rate", "training_accuracy"):
        for epoch in epochs:
            if getattr(epoch, name) is None:
                raise UserError(f"epochs.jsonl has no {name} of epoch {epoch.epoch}, though the run is of train")
    for name in ("data_digest", "training_images", "validation_images"):
        if getattr(result, name) is None:
            raise UserError(f"result.json has no {name}, though the run is of train")


def check_of_run(folder: RunFolder, what: Path, progress: TrainingProgress) -> None:
    """Refuse a checkpoint, `what`, of another training than the run's epochs (UserError): two jobs wrote into it.

    Where the epochs cannot be read there is nothing to compare.
    """
    try:
        check_regular(folder.epochs, _MOST_BYTES)
        seconds = _other_seconds(list(read_lines(folder.epochs, EpochRecord)), progress)
    except (UserError, OSError):
        return
    if seconds is not None:
        raise UserError(
            f"{what} is of another training than {folder.epochs}, of {progress.training_seconds:.3f} s against "
            f"{seconds:.3f} s: two jobs wrote into the run; train it again"
        )


def _other_seconds(epochs: list[EpochRecord], progress: TrainingProgress) -> float | None:
    """The seconds that these epochs took in training, where that cannot have led to the progress."""
    recorded = [epoch for epoch in epochs if epoch.epoch <= progress.epochs_done]
    seconds, trained = math.fsum(epoch.training_seconds for epoch in recorded), progress.training_seconds
    if math.isclose(seconds, trained, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        return None
    return seconds if len(recorded) == progress.epochs_done or seconds > trained else None
