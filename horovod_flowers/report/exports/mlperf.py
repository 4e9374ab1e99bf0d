"""MLPerf's log lines, ':::MLLOG {json}', of the time to an accuracy: a file a run, written by MLPerf's own mllog.

Times of day come from the records of rank 0. A run ends (run_stop) with the evaluation that reached the accuracy,
status success; or with its last evaluation, status aborted. Keys that only a submission has, and what is not recorded,
are left out: no MLPerf benchmark is trained here. Rules: mlperf_logging's compliance checker, training, open division.
"""

import importlib.util
import io
import itertools
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from horovod_flowers.config.script import is_script
from horovod_flowers.report.analysis.learning import Reached
from horovod_flowers.report.analysis.run_factors import run_factors_of
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.report.content import Content
from horovod_flowers.report.exports.exported import Exported, names_of
from horovod_flowers.report.exports.run_columns import OneRun, every_run, started_seconds
from horovod_flowers.runlog.json_lines import read_lines
from horovod_flowers.runlog.records import EpochRecord, Header, StepRecord
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runtime.errors import UserError, harmless

FOLDER = "mlperf"
SUFFIX = "mllog"
_PRECISIONS = {"fp32": "fp32", "bf16": "bfloat16", "fp16": "fp16"}


@dataclass(frozen=True)
class _Epoch:
    """One epoch by the clock of rank 0, in seconds since 1970."""

    record: EpochRecord
    begun: float
    ended: float

    @property
    def evaluated(self) -> float:
        """When its evaluation had ended."""
        return self.ended + (self.record.validation_seconds or 0.0)


def mlperf(content: Content) -> Exported:
    """A log of each run that was evaluated on the way. Raises UserError where mllog is not installed."""
    check_installed()
    runs = every_run(content)
    names = names_of([one.run for one in runs])
    targets = {found.point: found for found in content.reached}
    files: dict[str, str | bytes] = {}
    why: dict[str, list[str]] = {}
    for one in runs:
        try:
            text = _log(one, targets.get(one.point))
        except UserError as error:
            why.setdefault(str(error), []).append(one.run.name)
        else:
            files[f"{FOLDER}/{names[one.run]}.{SUFFIX}"] = text
    told = [f"for MLPerf: left out: {_listed(left_out)}: {reason}" for reason, left_out in why.items()]
    return Exported(files, told, FOLDER, rf".+\.{SUFFIX}")


def check_installed() -> None:
    """Refuse (UserError) where MLPerf's package is missing."""
    if importlib.util.find_spec("mlperf_logging") is None:
        raise UserError(
            "format names 'mlperf', whose lines are written by the package mlperf-logging, which is not installed: "
            "'pip install --no-deps mlperf-logging', or leave mlperf out of --format"
        )


def _listed(names: Sequence[str]) -> str:
    return harmless(", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more")


def _log(one: OneRun, reached: Reached | None) -> str:
    """The lines of a run. Raises UserError, saying why, where there is no time to an accuracy."""
    run = one.run
    result = run.result
    if run.environment.emulated is not None:
        raise UserError("emulated: it measures no machine")
    if is_script(run.config) or result.training_images is None or result.validation_images is None:
        raise UserError("a script's: its data and recipe are not recorded")
    if reached is None:
        raise UserError("no accuracy to reach: no common model was evaluated, or all accuracies are below 0.05")
    epochs = _epochs(run)
    started = started_seconds(run)
    if started is None or started > epochs[0].begun:
        raise UserError("its first step began before the run was started, by its records: a clock was set meanwhile")
    if any(later.begun < epoch.evaluated for epoch, later in itertools.pairwise(epochs)):
        raise UserError("an epoch began before the evaluation before it ended: a clock was set meanwhile")
    log = _Log()
    _write_facts(log, one, started)
    log.interval("init", started, epochs[0].begun)
    _write_epochs(log, epochs, reached.accuracy)
    return log.text


def _epochs(run: RunSummary) -> list[_Epoch]:
    """The epochs with their times, from the step records of rank 0. Raises UserError where some are missing."""
    begun: dict[int, int] = {}
    ended: dict[int, int] = {}
    offset: float | None = None
    for record in read_lines(RunFolder(run.path).steps(0), Header | StepRecord):
        if isinstance(record, Header):
            if offset is not None:
                raise UserError("resumed: the time between its jobs is no part of a training")
            offset = record.unix_seconds - record.monotonic_ns / 1e9
            continue
        begun.setdefault(record.epoch, record.start_ns)
        ended[record.epoch] = record.start_ns + record.total_ns
    found = [epoch for epoch in run.epochs if epoch.steps]
    if offset is None or [epoch.epoch for epoch in found] != sorted(begun):
        raise UserError("records of some of its epochs are missing")
    return [_Epoch(epoch, begun[epoch.epoch] / 1e9 + offset, ended[epoch.epoch] / 1e9 + offset) for epoch in found]


def _write_facts(log: "_Log", one: OneRun, started: float) -> None:
    """What the run was made with, in MLPerf's keys, as far as it is recorded."""
    run = one.run
    config, environment, result = run.config, run.environment, run.result
    factors = run_factors_of(run)
    hosts = len(environment.hosts)
    processors = factors["CPU"] if factors["GPU"] == "none" else factors["GPU"]
    facts: dict[str, Any] = {
        "submission_benchmark": factors["model.name"],
        "submission_division": "open",
        "submission_platform": f"ranks: {run.ranks}, nodes: {hosts}, {processors}",
        "cache_clear": False,
        "seed": config["seed"],
        "global_batch_size": environment.global_batch,
        "gradient_accumulation_steps": config["accumulate"],
        "train_samples": result.training_images,
        "eval_samples": result.validation_images,
        "opt_name": config["optimizer"]["name"],
        "opt_base_learning_rate": config["optimizer"]["learning_rate"],
        "lowest_numerical_precision_in_linear": _PRECISIONS.get(environment.precision),
        # Keys of our own, which MLPerf's checker passes over.
        "ranks": run.ranks,
        "strategy": one.point.strategy,
        "oversubscribed": environment.oversubscribed,
        "doubts": [harmless(sentence) for sentence in one.doubts],
    }
    for key, value in facts.items():
        if value is not None:
            log.event(key, started, value)


def _write_epochs(log: "_Log", epochs: Sequence[_Epoch], target: float) -> None:
    """From run_start to run_stop."""
    log.start("run_start", epochs[0].begun)
    samples = 0
    last, status = epochs[-1], "aborted"
    for epoch in epochs:
        record = epoch.record
        log.start("epoch_start", epoch.begun, epoch_num=record.epoch, samples_count=samples)
        samples += record.images
        log.end("epoch_stop", epoch.ended, epoch_num=record.epoch, samples_count=samples)
        if record.validation_accuracy is None:
            continue
        log.start("eval_start", epoch.ended, epoch_num=record.epoch, samples_count=samples)
        log.end("eval_stop", epoch.evaluated, epoch_num=record.epoch, samples_count=samples)
        log.event("eval_accuracy", epoch.evaluated, record.validation_accuracy, epoch_num=record.epoch,
                  samples_count=samples)  # fmt: skip
        if record.validation_accuracy >= target:
            last, status = epoch, "success"
            break
    log.end("run_stop", last.evaluated, status=status, epoch_num=last.record.epoch, samples_count=samples,
            target_accuracy=target)  # fmt: skip


class _Log:
    """Writes through MLPerf's mllog, whose lines say which line of this file they come from."""

    def __init__(self) -> None:
        from mlperf_logging.mllog.mllog import MLLogger

        self._written = io.StringIO()
        logger = logging.Logger(FOLDER, logging.INFO)  # of nobody else's handlers
        logger.addHandler(logging.StreamHandler(self._written))
        package = Path(__file__).parents[3]  # the folder that horovod_flowers/ is in
        self._mllog = MLLogger(logger, default_stack_offset=2, root_dir=re.escape(str(package)))

    @property
    def text(self) -> str:
        """The lines so far."""
        return self._written.getvalue()

    def interval(self, key: str, begun: float, ended: float) -> None:
        """Both ends of an interval, in seconds since 1970."""
        self.start(f"{key}_start", begun)
        self.end(f"{key}_stop", ended)

    def event(self, key: str, seconds: float, value: Any, **metadata: Any) -> None:
        """A point in time."""
        self._mllog.event(key, value, metadata=metadata, time_ms=round(seconds * 1000))

    def start(self, key: str, seconds: float, **metadata: Any) -> None:
        """The beginning of an interval."""
        self._mllog.start(key, metadata=metadata, time_ms=round(seconds * 1000))

    def end(self, key: str, seconds: float, **metadata: Any) -> None:
        """The end of an interval."""
        self._mllog.end(key, metadata=metadata, time_ms=round(seconds * 1000))
