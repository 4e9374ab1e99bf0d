"""The data dictionary of single runs: each column's name, type, unit, meaning and value, declared once.

runs.csv, datapackage.json, the table in docs/report.md and TensorBoard's HParams are all made from it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np

from horovod_flowers.config.script import is_script
from horovod_flowers.report.analysis.claims import cores_of
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.report.analysis.run_factors import run_factors_of
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.report.analysis.utilisation import Utilisation
from horovod_flowers.report.content import Content
from horovod_flowers.runtime.errors import harmless

Role = Literal["identity", "factor", "mark", "measurement"]
Type = Literal["string", "integer", "number", "boolean", "datetime"]


@dataclass(frozen=True)
class OneRun:
    """What a column's value is made from."""

    run: RunSummary
    point: Point
    number: int
    """Of the point: its row in scaling.csv, from 1."""
    doubts: Sequence[str]
    utilisation: Utilisation | None
    """Of the point."""


@dataclass(frozen=True)
class Column:
    """One column."""

    name: str
    role: Role
    type: Type
    """Of Table Schema (Frictionless Data)."""
    unit: str | None
    """None where there is none: text, and counts of what the name says. '1': a ratio."""
    meaning: str
    value: Callable[[OneRun], Any]
    """None where it was not measured, or is not known."""
    required: bool = False
    """Whether it is known of every run."""


def rows_of(content: Content, columns: Sequence[Column] | None = None) -> list[dict[str, Any]]:
    """A row a run in the order of the points, None where a value is missing; of all columns unless some are given."""
    chosen = RUN_COLUMNS if columns is None else columns
    return [{column.name: _shown(column.value(one)) for column in chosen} for one in every_run(content)]


def _shown(value: Any) -> Any:
    return harmless(value) if isinstance(value, str) else value


def every_run(content: Content) -> list[OneRun]:
    """All runs with their points."""
    return [
        OneRun(run, point, number, content.doubts.get(point, []), content.utilisations.get(point))
        for number, point in enumerate(content.points, 1)
        for run in point.runs
    ]


def started_seconds(run: RunSummary) -> float | None:
    """When it was started, in seconds since 1970; None where its record is no time with a time zone."""
    try:
        found = datetime.fromisoformat(run.environment.started_utc)
    except ValueError:
        return None
    return found.timestamp() if found.tzinfo is not None else None


def _factor(name: str) -> Callable[[OneRun], str]:
    return lambda one: run_factors_of(one.run)[name]


def _option(name: str) -> Callable[[OneRun], Any]:
    """An option of train by its dotted name; None of a script."""

    def value(one: OneRun) -> Any:
        if is_script(one.run.config):
            return None
        found: Any = one.run.config
        for part in name.split("."):
            found = found[part]
        return found

    return value


def _part_seconds(part: str) -> Callable[[OneRun], float]:
    return lambda one: one.run.part_seconds[part] / len(one.run.slowest_seconds)


def _rate(one: OneRun) -> float:
    return one.run.images / one.run.timed_seconds


def _speed_up(one: OneRun) -> float | None:
    base = one.point.baseline
    return None if base is None else _rate(one) / base.images_per_second.value * base.ranks


def _efficiency(one: OneRun) -> float | None:
    speed_up = _speed_up(one)
    return None if speed_up is None else speed_up / one.run.ranks


def _model_flops_per_image(one: OneRun) -> float | None:
    found = one.run.environment.model_flops
    return None if found is None else found.per_image


def _achieved_flops_per_second(one: OneRun) -> float | None:
    flops = _model_flops_per_image(one)
    return None if flops is None else flops * _rate(one)


def _bytes_sent(one: OneRun) -> float | None:
    volume = one.run.environment.communication_volume
    return None if volume is None else float(sum(entry.bytes_sent for entry in volume))


def _resource(name: str) -> Callable[[OneRun], float | None]:
    """A figure of `Resources`: of a list over ranks the largest; None where it is not recorded."""

    def value(one: OneRun) -> float | None:
        resources = one.run.result.resources
        found: Any = None if resources is None else getattr(resources, name)
        return max(found) if isinstance(found, list) else found

    return value


def _of_whole_run(name: str) -> Callable[[OneRun], float | None]:
    """The same; None, too, where earlier jobs of the run had steps that it leaves out."""
    found = _resource(name)

    def value(one: OneRun) -> float | None:
        resources = one.run.result.resources
        return None if resources is None or resources.steps_before else found(one)

    return value


def _share_of_peak(one: OneRun) -> float | None:
    achieved, peak = _achieved_flops_per_second(one), None if one.utilisation is None else one.utilisation.peak
    return None if achieved is None or peak is None else achieved / peak


def _model(one: OneRun) -> str | None:
    return None if is_script(one.run.config) else run_factors_of(one.run)["model.name"]


def _known(text: str, unknown: str) -> str | None:
    return None if text == unknown else text


RUN_COLUMNS: tuple[Column, ...] = (
    Column("folder", "identity", "string", None, "folder of the run, as found from --runs-dir",
           lambda one: str(one.run.path), True),
    Column("run", "identity", "string", None, "name of the run", lambda one: one.run.name, True),
    Column("point", "identity", "integer", None,
           "row of scaling.csv, from 1, in which the run is: repetitions share it", lambda one: one.number, True),
    Column("started_utc", "identity", "datetime", None, "when the run was started",
           lambda one: None if started_seconds(one.run) is None else one.run.environment.started_utc),
    Column("scaling", "factor", "string", None, "strong: the global batch was given; weak: the batch per rank",
           lambda one: one.point.scaling, True),
    Column("ranks", "factor", "integer", None, "world size", lambda one: one.run.ranks, True),
    Column("nodes", "factor", "integer", None, "nodes that the ranks were on",
           lambda one: len(one.run.environment.hosts), True),
    Column("ranks_per_node", "factor", "string", None, "ranks on each node, joined by '/' where nodes differ",
           _factor("ranks per node"), True),
    Column("cores", "factor", "integer", None, "physical cores that the ranks could run on, all together",
           lambda one: cores_of(one.run), True),
    Column("threads_per_rank", "factor", "string", None, "threads of each rank, joined by '/' where ranks differ",
           _factor("threads per rank"), True),
    Column("strategy", "factor", "string", None, "how the ranks divided the work, with its options",
           lambda one: one.point.strategy, True),
    Column("precision", "factor", "string", None, "in which forward and backward pass computed",
           lambda one: one.point.precision, True),
    Column("global_batch_images", "factor", "integer", "images", "images of a step, over all ranks",
           lambda one: one.run.environment.global_batch, True),
    Column("model", "factor", "string", None, "name of the model; missing of a script", _model),
    Column("parameters", "factor", "integer", None, "parameters of the model", lambda one: one.run.result.parameters,
           True),
    Column("optimizer", "factor", "string", None, "name of the optimizer; missing of a script",
           _option("optimizer.name")),
    Column("learning_rate", "factor", "number", "1",
           "as asked for, before it is scaled with the batch; missing of a script", _option("optimizer.learning_rate")),
    Column("seed", "factor", "integer", None, "of initial weights, order of images and dropout",
           lambda one: one.run.config["seed"]),
    Column("data_digest", "factor", "string", None, "hash of the prepared images; missing of a script",
           lambda one: one.run.result.data_digest),
    Column("cpu", "factor", "string", None, "CPU models of the nodes", _factor("CPU"), True),
    Column("gpu", "factor", "string", None, "GPU models of the ranks; missing without GPUs",
           lambda one: _known(run_factors_of(one.run)["GPU"], "none")),
    Column("mpi_library", "factor", "string", None, "name and version of the MPI library",
           lambda one: one.run.environment.mpi_library),
    Column("launcher", "factor", "string", None, "what started the ranks",
           lambda one: one.run.environment.launcher, True),
    Column("commit", "factor", "string", None, "of the code, with -dirty where it was changed",
           lambda one: one.run.environment.commit),
    Column("oversubscribed", "mark", "boolean", None,
           "whether ranks shared a core: then no time measures speed. False of emulated runs, whose gauge decides",
           lambda one: one.run.environment.oversubscribed and one.run.environment.emulated is None, True),
    Column("emulated", "mark", "string", None,
           "what was emulated; missing of real runs. An emulated run measures no machine",
           lambda one: None if one.run.environment.emulated is None else one.run.environment.emulated.kind),
    Column("unlike", "mark", "string", None,
           "what may change the speed and differs among the runs of its point, or from the baseline",
           lambda one: "; ".join(one.point.unlike) or None),
    Column("doubts", "mark", "string", None,
           "sentences that speak against the figures of its point; missing where nothing does",
           lambda one: " | ".join(one.doubts) or None),
    Column("images_per_second", "measurement", "number", "images/s", "timed_images / timed_seconds", _rate, True),
    Column("speed_up", "measurement", "number", "1",
           "images_per_second over that of all baseline runs together, times the baseline's ranks; missing without a "
           "baseline", _speed_up),
    Column("efficiency", "measurement", "number", "1", "speed_up / ranks", _efficiency),
    Column("model_flops_per_image", "measurement", "number", "FLOP",
           "of the model's matrix products and convolutions, forward and backward pass, a multiply-add as two; missing "
           "in older records, of emulated runs, and where something could not be counted", _model_flops_per_image),
    Column("achieved_flops_per_second", "measurement", "number", "FLOP/s",
           "model_flops_per_image * images_per_second, of all ranks", _achieved_flops_per_second),
    Column("model_flops_utilisation", "measurement", "number", "1",
           "achieved_flops_per_second over the ranks' measured peak; missing without one", _share_of_peak),
    Column("median_step_seconds", "measurement", "number", "s",
           "median over the timed steps of the slowest rank's seconds", lambda one: one.run.median_step_seconds, True),
    Column("best_validation_accuracy", "measurement", "number", "1",
           "of the best epoch; missing where no common model was evaluated",
           lambda one: one.run.result.progress.best_validation_accuracy),
    Column("mean_step_seconds", "measurement", "number", "s", "mean over the timed steps of the slowest rank's seconds",
           lambda one: one.run.mean_step_seconds, True),
    Column("step_seconds_p95", "measurement", "number", "s", "95th percentile of the slowest rank's seconds",
           lambda one: float(np.percentile(one.run.slowest_seconds, 95)), True),
    Column("step_seconds_p99", "measurement", "number", "s", "99th percentile of the slowest rank's seconds",
           lambda one: float(np.percentile(one.run.slowest_seconds, 99)), True),
    Column("timed_steps", "measurement", "integer", None, "steps without the warm-up",
           lambda one: len(one.run.slowest_seconds), True),
    Column("timed_images", "measurement", "integer", "images", "images of these steps, over all ranks",
           lambda one: one.run.images, True),
    Column("timed_seconds", "measurement", "number", "s",
           "elapsed seconds of these steps: each epoch by its slowest rank", lambda one: one.run.timed_seconds, True),
    Column("input_wait_seconds", "measurement", "number", "s",
           "a step's wait for its batch, as the next three a mean over ranks and timed steps",
           _part_seconds("input_wait"), True),
    Column("compute_seconds", "measurement", "number", "s", "a step's forward and backward pass",
           _part_seconds("compute"), True),
    Column("communication_seconds", "measurement", "number", "s",
           "a step's exposed communication, waiting for slower ranks included", _part_seconds("communication"), True),
    Column("update_seconds", "measurement", "number", "s", "a step's optimizer step", _part_seconds("update"), True),
    Column("imbalance_seconds", "measurement", "number", "s",
           "what of communication_seconds is waiting for slower ranks",
           lambda one: one.run.imbalance_seconds / len(one.run.slowest_seconds), True),
    Column("bytes_sent", "measurement", "number", "B",
           "that each rank sends in a step with one update, by formula; missing where only the model's code knows",
           _bytes_sent),
    Column("training_seconds", "measurement", "number", "s",
           "of the whole training: all steps, warm-up included, of the slowest rank",
           lambda one: one.run.result.progress.training_seconds, True),
    Column("epochs", "measurement", "integer", None, "epochs trained",
           lambda one: one.run.result.progress.epochs_done, True),
    Column("best_epoch", "measurement", "integer", None, "epoch of best_validation_accuracy, from 1",
           lambda one: one.run.result.progress.best_epoch),
    Column("peak_memory_bytes", "measurement", "integer", "B", "largest resident memory of any rank's process",
           lambda one: max(one.run.result.peak_memory_bytes), True),
    Column("optimizer_bytes", "measurement", "integer", "B", "largest optimizer state of any rank",
           lambda one: max(one.run.result.optimizer_bytes), True),
    Column("gpu_peak_bytes", "measurement", "integer", "B",
           "most GPU memory of any rank; missing without GPUs and in older records, as the next four are",
           _resource("gpu_peak_bytes")),
    Column("wall_seconds", "measurement", "number", "s",
           "of the job, from the start of its processes; missing of a resumed run, as the next two are",
           _of_whole_run("wall_seconds")),
    Column("checkpoint_bytes", "measurement", "integer", "B", "of all checkpoints written",
           _of_whole_run("checkpoint_bytes")),
    Column("checkpoint_write_seconds", "measurement", "number", "s",
           "that writing them took, beside the training for the most part",
           _of_whole_run("checkpoint_write_seconds")),
    Column("data_bytes", "measurement", "integer", "B", "of the prepared images on storage", _resource("data_bytes")),
)  # fmt: skip


def markdown_table() -> str:
    """The dictionary as docs/report.md shows it."""
    lines = ["| column | type | unit | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{column.name}` | {column.type}{'' if column.required else ', may be missing'} | {column.unit or ''} "
        f"| {column.meaning.replace('|', chr(92) + '|')} |"
        for column in RUN_COLUMNS
    ]
    return "\n".join(lines) + "\n"
