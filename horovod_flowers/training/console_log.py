"""What a run says: before it starts, on what it runs, how the work is divided, what is trained; then each epoch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from horovod_flowers.config.choices import INDEPENDENT
from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.order import Split, per_rank_batch
from horovod_flowers.model.precision import reason
from horovod_flowers.ranks.affinity import spans
from horovod_flowers.runlog.records import Environment, EpochRecord, RankEnvironment, Result
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import harmless

NAMED_RANKS = 8


def announce(
    config: RunConfig,
    environment: Environment,
    parameters: int,
    class_names: Sequence[str],
    images: Split,
    notes: Sequence[str],
) -> None:
    """Say it, on rank 0; `notes`: on the model and where its weights come from."""
    for line in (*announcement(config, environment, parameters, class_names, images), *notes):
        say(line)


def announcement(
    config: RunConfig, environment: Environment, parameters: int, class_names: Sequence[str], images: Split
) -> Iterator[str]:
    """The lines."""
    ranks = environment.world_size
    cores = {(rank.host, core) for rank in environment.ranks for core in rank.cores}
    threads = "/".join(map(str, sorted({rank.threads for rank in environment.ranks})))
    yield (
        f"run {config.name}: {_count(ranks, 'rank')} on {_count(len(environment.hosts), 'node')}, "
        f"{_count(len(cores), 'CPU')}, {threads} thread(s) per rank"
    )
    if environment.emulated is not None:
        nothing = ", and loss and accuracy mean nothing" if environment.emulated.step is not None else ""
        yield f"emulated: {environment.emulated}; the figures of this run are marked so{nothing}"
    elif environment.oversubscribed:
        yield (
            f"oversubscribed: {ranks} ranks share {_count(len(cores), 'CPU')}; the times of this run are "
            "not a measure of speed"
        )
    yield _affinity(config, environment.ranks)
    yield from _parallelism(config, environment)
    batch = environment.global_batch
    yield (
        f"model {config.model.name}: {parameters:,} parameters; {len(images.training):,} training and "
        f"{len(images.validation):,} validation images of {_count(len(class_names), 'class')}; global batch "
        f"{batch} ({per_rank_batch(batch, ranks)} per rank), {config.scaling} scaling"
    )


def _affinity(config: RunConfig, ranks: Sequence[RankEnvironment]) -> str:
    named = "; ".join(f"rank {rank.rank} CPU {spans(rank.cores)}" for rank in ranks[:NAMED_RANKS])
    more = f"; and {len(ranks) - NAMED_RANKS} more" if len(ranks) > NAMED_RANKS else ""
    how = "each its share of its node's cores" if config.bind == "auto" else "as the launcher bound them"
    threaded = any(len(rank.cores) > rank.physical_cores for rank in ranks)
    word = ", hyperthreads of a core counted once" if threaded else ""
    return f"affinity ({how}{word}): {named}{more}"


def _why_precision(config: RunConfig, environment: Environment) -> str:
    if environment.emulated is not None and environment.emulated.step is not None:
        return "the profile's"
    flags = set(environment.hosts[0].cpu_features).intersection(*(host.cpu_features for host in environment.hosts))
    return reason(config.precision, environment.precision, flags, environment.ranks[0].gpu is not None)


def _parallelism(config: RunConfig, environment: Environment) -> Iterator[str]:
    if environment.trials:
        tried = ", ".join(f"{trial.strategy} {trial.median_step_seconds:.3f}" for trial in environment.trials)
        yield f"auto: seconds per step: {tried}"
    chosen = f"precision {environment.precision} ({_why_precision(config, environment)})"
    if environment.world_size == 1:
        same = "" if config.strategy == INDEPENDENT else f", strategy {config.strategy} is the same as none"
        yield f"one rank: nothing to divide{same}; {chosen}"
        return
    notes = "".join(f", {note}" for note in environment.strategy_notes)
    knobs = {"HOROVOD_CYCLE_TIME": "ms cycle time", "HOROVOD_FUSION_THRESHOLD": "bytes fusion threshold"}
    given = environment.horovod_settings
    settings = "".join(f", {given[name]} {what}" for name, what in knobs.items() if given.get(name, "0") != "0")
    if given.get("HOROVOD_FUSION_THRESHOLD") == "0":
        settings += ", the same calls in every run" if config.horovod.fusion_threshold_mb is None else ", no fusion"
    extras = f", {config.accumulate} steps per update" if config.accumulate > 1 else ""
    if config.compression != "none" and environment.strategy == "allreduce":
        extras += f", gradients sent as {config.compression}"
    yield f"strategy {environment.strategy}{notes}{extras}; {chosen}{settings}"


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {noun if number == 1 else plural}"


def describe_epoch(record: EpochRecord, epochs: int) -> str:
    """One line for the log."""
    parts = [f"loss {record.training_loss:.3f}", f"accuracy {record.training_accuracy:.3f}"]
    parts += _measured(record.training_metrics, record.training_accuracy)
    if record.validation_loss is not None and record.validation_accuracy is not None:
        parts += [f"validation loss {record.validation_loss:.3f}", f"accuracy {record.validation_accuracy:.3f}"]
        parts += _measured(record.validation_metrics, record.validation_accuracy)
    parts += [f"{record.training_seconds:.1f} s", f"{record.images / record.training_seconds:.1f} images/s"]
    return f"epoch {record.epoch}/{epochs}: {', '.join(parts)}"


def _measured(metrics: Mapping[str, float | None], accuracy: float | None) -> list[str]:
    """Without one called accuracy that is the accuracy before it."""
    shown = {
        name: "not finite" if value is None else f"{value:.3f}"
        for name, value in metrics.items()
        if name != "accuracy" or value is None or accuracy is None or not math.isclose(value, accuracy, rel_tol=1e-4)
    }
    return [f"{harmless(name)} {value}" for name, value in shown.items()]


def describe_result(result: Result, folder: Path, watched: Literal["accuracy", "loss"]) -> Iterator[str]:
    """What came of a run; `watched`: by early stopping."""
    best = result.progress.best_validation_accuracy
    if result.stopped_early:
        since = result.progress.epochs_without_progress(watched)
        best_epoch = result.progress.epochs_done - since
        yield f"stopped early: validation {watched} has not improved in {since} epochs since epoch {best_epoch}"
    accuracy = (
        "not evaluated"
        if best is None
        else f"best validation accuracy {best:.3f} in epoch {result.progress.best_epoch}"
    )
    yield f"finished: {accuracy}, {result.progress.training_seconds:.1f} s of training; run in {folder}"
