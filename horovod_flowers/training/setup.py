"""How a training starts, the same for every kind of job: name, precision, Horovod, strategy, state, records."""

import datetime
import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from horovod_flowers.config.choices import INDEPENDENT, Precision
from horovod_flowers.config.command_line import to_yaml
from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.order import Split
from horovod_flowers.data.prepared import Prepared
from horovod_flowers.emulation.gauge import CoreReading
from horovod_flowers.model.precision import choose, may_be_bf16, switch_on, take
from horovod_flowers.model.registry import SAVED
from horovod_flowers.ranks.affinity import Cores
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.startup import MOST_RANKS_IN_ANY_ORDER, start_horovod
from horovod_flowers.ranks.stop_request import StopRequest
from horovod_flowers.runlog.records import Environment, Trial
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.run_hold import RunHold
from horovod_flowers.runlog.training_progress import BEGINNING
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.files import whole_file
from horovod_flowers.runtime.machine import cpu_flags
from horovod_flowers.training.console_log import announce
from horovod_flowers.training.elastic_commits import Commits
from horovod_flowers.training.emulation import Emulation

if TYPE_CHECKING:  # it imports TensorFlow
    from horovod_flowers.training.engine import TrainingEngine
    from horovod_flowers.training.trainer import Trainer


HOROVODS_FUSION_MB = 128.0
"""Its default threshold."""


def may_all_be_bf16(config: RunConfig, ranks: Ranks) -> bool:
    """Whether bf16 may be the precision of all ranks: asked before TensorFlow starts, by every rank."""
    return bool(ranks.allreduce_min(int(may_be_bf16(config.precision, cpu_flags()))))


def agree_on_precision(config: RunConfig, ranks: Ranks, gpu: bool) -> Precision:
    """The precision of all ranks, switched on: with 'auto', bf16 where every node computes in it.

    Raises one rank's UserError on all.
    """
    chosen, error = None, None
    try:
        chosen = take(choose(config.precision, cpu_flags(), gpu), config.precision)
    except UserError as found:
        error = found
    ranks.raise_on_all(error)
    assert chosen is not None
    if ranks.allreduce_min(int(chosen != "fp32")):
        return chosen
    switch_on("fp32")
    return "fp32"


def start_horovod_if_needed(config: RunConfig, ranks: Ranks, shrink: float = 1.0) -> Ranks:
    """Start Horovod where the strategy sends anything: its background thread takes time from the cores.

    shrink: by how much what is sent is smaller than what it stands for.
    """
    if ranks.size == 1 or config.strategy == INDEPENDENT:
        return ranks
    group = 1
    if config.strategy in ("mesh", "auto"):
        group = config.model_parallel_size_for(ranks.size, ranks.allreduce_min(ranks.local_size))
    options, fused_mb = config.horovod, config.horovod.fusion_threshold_mb
    if fused_mb is None and os.environ.get("HOROVOD_FUSION_THRESHOLD", "").isdecimal():
        fused_mb = int(os.environ["HOROVOD_FUSION_THRESHOLD"]) / 2**20
    if shrink > 1 and (fused_mb is not None or ranks.size <= MOST_RANKS_IN_ANY_ORDER):
        options = replace(options, fusion_threshold_mb=(HOROVODS_FUSION_MB if fused_mb is None else fused_mb) / shrink)
    return start_horovod(ranks, options, group)


def set_up(
    config: RunConfig,
    ranks: Ranks,
    prepared: Prepared,
    images: Split,
    cores: Cores,
    threads: int,
    precision: Precision,
    request: StopRequest,
    commits: Commits | None = None,
    emulation: Emulation | None = None,
) -> "tuple[Trainer, Environment | None]":
    """A trainer whose ranks share one state, restored where the run is resumed; and, on rank 0, what it runs on.

    `commits`: of an elastic run, on every rank; what rank 0 holds in it counts instead of a checkpoint. Changes no
    file. `emulation`: of a run that sleeps instead of computing. Every rank calls it, after TensorFlow and Horovod have
    started.

    Raises UserError where the model cannot be built or divided, the checkpoint does not fit or nothing is left to
    train.
    """
    from horovod_flowers.checkpoint.manager import CheckpointManager
    from horovod_flowers.runlog.environment import Parallelism, gather_environment
    from horovod_flowers.runlog.environment import emulation as what_is_emulated
    from horovod_flowers.training.trainer import Trainer

    if emulation is None:
        switch_on(precision)
    start_engine = _engines(config, ranks, prepared, images, precision, emulation)
    strategy: str = config.strategy
    trials: list[Trial] = []
    if strategy == "auto":
        strategy, trials = choose_strategy(ranks, start_engine)
    engine = start_engine(strategy, True)
    chosen = engine.strategy
    volume = engine.communication_volume()
    parallelism = Parallelism(chosen.name, chosen.notes, trials, precision, volume)
    emulated = what_is_emulated(emulation.record if emulation is not None else None)
    environment = gather_environment(
        ranks, cores, threads, engine.global_batch, parallelism, emulated, engine.model_flops
    )
    folder = RunFolder(Path(config.runs_dir) / str(config.name))
    checkpoints = CheckpointManager(config, ranks, prepared, engine.state)
    tensors, progress = None, BEGINNING
    if ranks.rank == 0 and commits is not None and commits.last is not None:
        tensors, progress = commits.last.tensors, commits.last.progress
    elif ranks.rank == 0 and config.resume:
        tensors, progress = checkpoints.restore(folder)
    progress = ranks.broadcast(progress)
    engine.share(tensors)
    read_cores = None
    if emulated is not None:
        # On virtual nodes waiting ranks sleep, too; elsewhere they spin, and would keep the core from all others.
        sleeps = emulated.step is not None and emulated.network is not None
        read_cores = partial(CoreReading, precedence=sleeps)
    return Trainer(engine, checkpoints, progress, folder, request, commits, read_cores), environment


def begin_records(trainer: "Trainer", environment: Environment | None) -> None:
    """Make the run's folder, write what was asked for and what it runs on, and say it; on rank 0."""
    if environment is None:
        return
    engine, config, folder = trainer.engine, trainer.config, trainer.folder
    name = config.model.name
    saved = Path(name).read_bytes() if name.endswith(SAVED) and not config.resume else None  # it may lie in the folder
    folder.create(config.overwrite, config.resume)
    kept = config.without_start_options()
    if not engine.compiled:  # nothing was there to be overridden
        kept = replace(kept, model=replace(kept.model, overrides=None))
    folder.write_start(to_yaml(kept), environment)
    if saved is not None:
        with whole_file(folder.model) as temporary:
            temporary.write_bytes(saved)
    announce(config, environment, engine.parameters, engine.prepared.class_names, engine.images, engine.notes)


def _engines(
    config: RunConfig,
    ranks: Ranks,
    prepared: Prepared,
    images: Split,
    precision: Precision,
    emulation: Emulation | None,
) -> "Callable[[str, bool], TrainingEngine]":
    """What makes the engine of a strategy; the second argument says whether it counts what a step takes."""
    if emulation is None:
        from horovod_flowers.training.engine import TrainingEngine

        return lambda strategy, counts: TrainingEngine(config, ranks, prepared, images, strategy, precision, counts)
    from horovod_flowers.training.emulated_engine import EmulatedEngine

    return lambda strategy, _: EmulatedEngine(config, ranks, prepared, images, strategy, emulation)


def choose_strategy(ranks: Ranks, start_engine: "Callable[[str, bool], TrainingEngine]") -> tuple[str, list[Trial]]:
    """The fastest strategy in a few steps of each, and what was measured. The same on every rank."""
    from horovod_flowers.strategy.trial import candidates, fastest, try_out

    if ranks.size == 1:
        return INDEPENDENT, []

    def start(name: str) -> "TrainingEngine":
        engine = start_engine(name, False)
        engine.share(None)
        return engine

    trials = try_out(candidates(ranks.size, ranks.model_parallel_size), start)
    return fastest(trials), trials


def with_name(config: RunConfig, ranks: Ranks, hold: RunHold) -> RunConfig:
    """Give a nameless run the date, the time and its number of ranks for a name, one that is free, and hold it.

    The same on every rank: rank 0 chooses. Raises UserError there where nothing can be written.
    """
    if ranks.rank == 0 and config.name is None:
        name = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{ranks.size}ranks"
        for number in itertools.count(1):
            chosen = name if number == 1 else f"{name}-{number}"
            folder = Path(config.runs_dir) / chosen
            # Held first: another job that starts in the same second may take the name at any moment.
            if not folder.exists() and hold.take_if_free(folder):
                if not folder.exists():
                    break
                hold.give_up()
        config = replace(config, name=chosen)
    named: RunConfig = ranks.broadcast(config)
    return named
