"""Train a Keras model data-parallel over MPI ranks, and record what every step took.

    horovodrun -np 8 python -m horovod_flowers.train
    mpirun -np 2 --bind-to none python -m horovod_flowers.train --epochs 10 --data.source tf_flowers
    python -m horovod_flowers.train --help

Order of work: configuration and data are checked on every rank alone; then MPI, cores, TensorFlow and Horovod start;
then the run folder is made and training begins. TensorFlow is imported late: a mistake is told before it loads.
"""

import datetime
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from horovod_flowers.announcement import announce
from horovod_flowers.command_line import build, parse, to_yaml
from horovod_flowers.config import RunConfig
from horovod_flowers.data.order import Split, per_rank_batch, split, validation_range
from horovod_flowers.data.prepared import Prepared, find, open_prepared
from horovod_flowers.data.sources import Source, open_source
from horovod_flowers.errors import JobError, StorageError, UserError
from horovod_flowers.files import writable_folder
from horovod_flowers.interruption import StopRequest
from horovod_flowers.launch import ELASTIC, Launch, error_boundary
from horovod_flowers.model import check_name, check_weights
from horovod_flowers.options import flat_options
from horovod_flowers.precision import Precision, choose, cpu_flags, switch_on
from horovod_flowers.prepare import command_for, prepare_with_progress
from horovod_flowers.progress import say
from horovod_flowers.ranks import Ranks, connect, start_horovod, start_tensorflow, take_cores
from horovod_flowers.runlog import Environment, Result, RunFolder, Trial, read_json
from horovod_flowers.stall import StallWatch, longest
from horovod_flowers.yaml_file import load_yaml


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.train`."""
    with (
        error_boundary("horovod_flowers.train"),
        StopRequest() as request,
        StallWatch("horovod_flowers.train") as watch,
    ):
        launch = Launch.from_environment(os.environ, elastic=True)
        config = read_config(arguments, launch.rank)
        check_launcher(config, launch)
        if config.elastic:
            from horovod_flowers.elastic.job import train_elastic

            train_elastic(config, launch, request)
            return
        check_before_mpi(config, launch)
        if config.resume_or_start and has_ended(config):
            if launch.rank == 0:
                say(f"run {Path(config.runs_dir) / str(config.name)} has ended already: nothing to do")
            return

        ranks = connect(launch, config.threads, config.bind, round(longest(config.stall_seconds)))
        config = ranks.broadcast(with_name(config, ranks.size))
        watch.begin(ranks, Path(config.runs_dir) / f".stall-{config.name}", config.stall_seconds)
        prepared, images = open_data(config, ranks)
        cores = take_cores(ranks, config.bind, config.threads)
        # The same everywhere: a rank with more of them would only wait for the others.
        threads = config.threads or ranks.smallest(cores.physical)
        gpu = start_tensorflow(ranks, threads)
        precision = agree_on_precision(config, ranks, gpu)
        ranks = start_horovod_if_needed(config, ranks)

        from horovod_flowers.environment import Division, gather_environment
        from horovod_flowers.training import Training

        switch_on(precision)
        strategy, trials = config.strategy, list[Trial]()
        if strategy == "auto":
            strategy, trials = choose_strategy(config, ranks, prepared, images, precision)
        training = Training(config, ranks, prepared, images, strategy, precision)
        chosen = training.strategy
        traffic = chosen.traffic(per_rank_batch(training.global_batch, ranks.size))
        division = Division(chosen.name, chosen.notes, trials, precision, traffic)
        environment = gather_environment(ranks, cores, threads, training.global_batch, division)
        folder = RunFolder(Path(config.runs_dir) / str(config.name))
        training.start(folder)
        if config.replay_step is not None:
            from horovod_flowers.replay import replay

            replay(training, config.replay_step)
            return
        if environment is not None:
            folder.create(config.overwrite, config.resume)
            folder.write_start(
                to_yaml(replace(config, overwrite=False, resume=False, resume_or_start=False)), environment
            )
            announce(config, environment, training.parameters, prepared.class_names, images)
        ranks.barrier()
        try:
            training.run(folder, request)
        except StorageError as error:
            kept = "its last checkpoint" if folder.has_checkpoint else "the beginning, since it has no checkpoint yet"
            raise JobError(f"{error}; --resume-or-start --name {config.name} then goes on from {kept}") from error


def check_launcher(config: RunConfig, launch: Launch) -> None:
    """Refuse ranks that may come and go without --elastic, and --elastic where they cannot (UserError)."""
    command = "horovodrun -np N --min-np M --host-discovery-script SCRIPT (docs/elastic.md)"
    if launch.launcher == ELASTIC and not config.elastic:
        raise UserError(f"{command} starts ranks without MPI: add --elastic, or start with horovodrun -np N, or mpirun")
    if config.elastic and launch.launcher != ELASTIC:
        raise UserError(f"elastic training is started with {command}, not {launch.launcher}: or add --no-elastic")


def agree_on_precision(config: RunConfig, ranks: Ranks, gpu: bool) -> Precision:
    """The precision of all ranks: with 'auto', bf16 where every node has it. Raises one rank's UserError on all."""
    chosen, error = None, None
    try:
        chosen = choose(config.precision, cpu_flags(), gpu)
    except UserError as found:
        error = found
    ranks.agree(error)
    assert chosen is not None
    return chosen if ranks.smallest(int(chosen != "fp32")) else "fp32"


def start_horovod_if_needed(config: RunConfig, ranks: Ranks) -> Ranks:
    """Start Horovod where the strategy sends anything: its background thread takes time from the cores."""
    if ranks.size == 1 or config.strategy == "none":
        return ranks
    group = 1
    if config.strategy in ("mesh", "auto"):
        group = config.model_parallel_size_for(ranks.size, ranks.smallest(ranks.local_size))
    return start_horovod(ranks, config.horovod, group)


def choose_strategy(
    config: RunConfig, ranks: Ranks, prepared: Prepared, images: Split, precision: Precision
) -> tuple[str, list[Trial]]:
    """The fastest strategy in a few steps of each, and what was measured. The same on every rank."""
    from horovod_flowers.strategy.trial import candidates, fastest, try_out
    from horovod_flowers.training import Training

    if ranks.size == 1:
        return "none", []

    def start(name: str) -> Training:
        training = Training(config, ranks, prepared, images, name, precision)
        training.state.share(None)
        return training

    trials = try_out(candidates(ranks.size, ranks.model_parallel_size), start)
    return fastest(trials), trials


def read_config(arguments: Sequence[str] | None, rank: int) -> RunConfig:
    """Flags over YAML file over defaults; a run to resume starts from its own configuration instead of the defaults."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command, description = "horovod_flowers.train", (__doc__ or "").splitlines()[0]
    config = parse(RunConfig, command, description, words, rank)
    folder = RunFolder(Path(config.runs_dir) / str(config.name))
    if config.resume_or_start and folder.path.exists():
        # Decided by every rank before MPI starts, and so before rank 0 changes anything.
        if not (folder.has_checkpoint or folder.result.exists()):
            return replace(config, overwrite=True, resume_or_start=False)
        words.append("--resume")
        config = replace(config, resume=True)
    if not config.resume:
        return config
    folder.check(overwrite=False, resume=True)
    stored = _stored_options(folder.config)
    if not any(word.split("=")[0] == "--strategy" for word in words) or stored.get("strategy") == config.strategy:
        return parse(RunConfig, command, description, ["--config", str(folder.config), *words], rank)
    # Another strategy: what the one before was told says nothing about it.
    kept = {name: value for name, value in stored.items() if name not in OPTIONS_OF_A_STRATEGY}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(yaml.safe_dump(kept))
        file.flush()
        return parse(RunConfig, command, description, ["--config", file.name, *words], rank)


def has_ended(config: RunConfig) -> bool:
    """Whether the run has trained all of its epochs, or was stopped early."""
    result = RunFolder(Path(config.runs_dir) / str(config.name)).result
    return config.resume and result.exists() and read_json(result, Result).ends(config.epochs)


def _stored_options(path: Path) -> dict[str, Any]:
    try:
        options = load_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}): start another run") from error
    if not isinstance(options, dict):
        raise UserError(f"{path} does not hold a run's options: start another run")
    return options


def check_before_mpi(config: RunConfig, launch: Launch) -> None:
    """Refuse everything that can be known without the other ranks. Rank 0 looks at files, for all.

    Raises UserError.
    """
    check_name(config.model.name)
    config.global_batch_for(launch.size)
    config.model_parallel_size_for(launch.size, launch.local_size)
    if launch.rank != 0:
        return
    choose(config.precision, cpu_flags(), gpu=Path("/dev/nvidiactl").exists())
    if config.model.weights is not None:
        check_weights(Path(config.model.weights))
    writable_folder(Path(config.runs_dir), "choose another folder with --runs-dir")
    if config.name is not None:
        folder = RunFolder(Path(config.runs_dir) / config.name)
        folder.check(config.overwrite, config.resume)
        if config.resume:
            check_continues(folder, config, launch.size)
    source = open_training_source(config)
    prepared = find(Path(config.data.prepared_dir), source)
    if prepared is not None:
        split_checked(prepared, config, launch.size)
        return
    if config.data.source != "synthetic" or config.elastic:  # ranks that come in the middle do not wait for drawings
        raise UserError(f"the photos are not prepared: run '{command_for(config.data)}' first (on the login node)")
    begin, end = validation_range(source.images, config.data)
    config.check_against(launch.size, begin, end - begin)


OPTIONS_OF_A_STRATEGY = ("compression", "dense_gradients", "model_parallel_size", "shard_layers")

# What may differ between a run and its continuation, without making it another training.
CHANGEABLE_OPTIONS = (
    *("name", "runs_dir", "overwrite", "resume", "resume_or_start"),
    *("epochs", "checkpoint", "checkpoint_steps", "keep_checkpoints", "check_weights", "replay_step"),
    *("tensorboard", "warmup_steps", "stall_seconds", "elastic", "commit_steps"),
    *("preset", "early_stopping"),
    *("threads", "bind", "global_batch", "per_rank_batch", "validate", "precision"),
    *("strategy", "shard_above", *OPTIONS_OF_A_STRATEGY),
    *("horovod.fusion_threshold_mb", "horovod.cycle_time_ms"),
    *("data.path", "data.tfds_dir", "data.prepared_dir"),
)


def check_continues(folder: RunFolder, config: RunConfig, size: int) -> None:
    """Refuse options under which the resumed run would not be the same training (UserError)."""
    earlier = build(RunConfig, _stored_options(folder.config))
    earlier_batch = read_json(folder.environment, Environment).global_batch
    batch = config.global_batch_for(size)
    if batch != earlier_batch:
        flag, value = ("--global-batch", earlier_batch)
        if config.global_batch is None:
            flag, value = ("--per-rank-batch", earlier_batch // size)
        raise UserError(
            f"run {folder.path} was trained with a global batch of {earlier_batch}, not {batch}: resume with {flag} "
            f"{value}"
        )
    was, now = flat_options(asdict(earlier)), flat_options(asdict(config))
    changed = [name for name in was if was[name] != now[name] and name not in CHANGEABLE_OPTIONS]
    if earlier.optimizer.decay == "cosine" and earlier.epochs != config.epochs:
        changed.append("epochs")  # the curve that the learning rate has followed so far ends there
    for name in changed:
        flag = f"--{name.replace('_', '-')}"
        raise UserError(
            f"run {folder.path} was trained with {name} {was[name]}, not {now[name]}: leave out {flag} to resume it, "
            "or start another run"
        )


def open_training_source(config: RunConfig) -> Source:
    """The source, which training never downloads. Raises UserError that names the prepare command."""
    try:
        return open_source(config.data)
    except UserError as error:
        if config.data.source != "tf_flowers":
            raise
        raise UserError(
            f"{error}: run '{command_for(config.data)}' first, where there is internet access, or set TFDS_DATA_DIR"
        ) from error


def with_name(config: RunConfig, size: int) -> RunConfig:
    """Give a nameless run the date, the time and its number of ranks for a name, one that is free."""
    if config.name is not None:
        return config
    name = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{size}ranks"
    free = (f"{name}{suffix}" for suffix in ("", *(f"-{number}" for number in range(2, 1000))))
    return replace(config, name=next(name for name in free if not (Path(config.runs_dir) / name).exists()))


def open_data(config: RunConfig, ranks: Ranks) -> tuple[Prepared, Split]:
    """Open the prepared images that rank 0 finds; the others need neither the photos nor a look at them.

    The drawn ones are prepared where missing, by one rank a node, the others waiting. Raises UserError where a node
    does not see the prepared images.
    """
    root = Path(config.data.prepared_dir)
    if config.data.source == "synthetic" and not config.elastic:
        draw_where_missing(root, open_source(config.data), ranks)
    found = find(root, open_training_source(config)) if ranks.rank == 0 else None
    digest = ranks.broadcast(found.digest if found is not None else None)
    prepared, error = None, None
    try:
        prepared = open_prepared(root / "objects" / str(digest))
    except (OSError, ValueError, KeyError):
        error = UserError(
            f"{root} does not hold the prepared images: choose a --data.prepared-dir that all nodes share"
        )
    ranks.agree(error)
    assert prepared is not None
    return prepared, split_checked(prepared, config, ranks.size)


def draw_where_missing(root: Path, source: Source, ranks: Ranks) -> None:
    """Prepare the synthetic images on each node that does not see them. Raises one rank's UserError on all."""
    error = None
    try:
        if ranks.local_rank == 0 and find(root, source) is None:
            if ranks.rank == 0:
                say(f"drawing {source.images} synthetic flowers, once, into {root}")
            prepare_with_progress(root, source, muted=ranks.rank != 0)
    except UserError as found:
        error = found
    ranks.barrier()
    ranks.agree(error)


def split_checked(prepared: Prepared, config: RunConfig, size: int) -> Split:
    """The split, refused where it leaves too few images for that many ranks or that batch (UserError)."""
    images = split(prepared, config.data)
    config.check_against(size, len(images.training), len(images.validation))
    return images


if __name__ == "__main__":
    main()
