"""Train a Keras model data-parallel over MPI ranks, and record what every step took.

    horovodrun -np 8 python -m horovod_flowers.train
    mpirun -np 2 --bind-to none python -m horovod_flowers.train --epochs 10 --data.source tf_flowers
    python -m horovod_flowers.train --help

Order of work: configuration and data are checked on every rank alone; then MPI, cores, TensorFlow and Horovod start;
then the run folder is made and training begins. TensorFlow is imported late: a mistake is told before it loads.
"""

import datetime
import os
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import yaml

from horovod_flowers.command_line import build, parse, to_yaml
from horovod_flowers.config import RunConfig
from horovod_flowers.data.order import Split, split, validation_boundary
from horovod_flowers.data.prepared import Prepared, find
from horovod_flowers.data.sources import Source, open_source
from horovod_flowers.errors import UserError
from horovod_flowers.launch import Launch, error_boundary
from horovod_flowers.model import check_name
from horovod_flowers.prepare import command_for, prepare_with_progress
from horovod_flowers.progress import say
from horovod_flowers.ranks import Ranks, connect, start_tensorflow, take_cores
from horovod_flowers.runlog import Environment, RunFolder, read_json


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.train`."""
    with error_boundary("horovod_flowers.train"):
        launch = Launch.from_environment(os.environ)
        description = (__doc__ or "").splitlines()[0]
        config = parse(RunConfig, "horovod_flowers.train", description, arguments, launch.rank)
        check_before_mpi(config, launch)

        ranks = connect(launch)
        config = ranks.broadcast(with_name(config, ranks.size))
        prepared, images = open_data(config, ranks)
        cores = take_cores(ranks, config.bind, config.threads)
        threads = config.threads or len(cores.cores)
        start_tensorflow(ranks, threads)

        from horovod_flowers.environment import gather_environment
        from horovod_flowers.training import Training

        environment = gather_environment(ranks, cores, threads, config.global_batch_for(ranks.size))
        training = Training(config, ranks, prepared, images)
        folder = RunFolder(Path(config.runs_dir) / str(config.name))
        training.start(folder)
        if environment is not None:
            folder.create(config.overwrite, config.resume)
            folder.write_start(to_yaml(replace(config, overwrite=False, resume=False)), environment)
            announce(config, environment, training.model.count_params(), prepared, images)
        ranks.barrier()
        training.run(folder)


def check_before_mpi(config: RunConfig, launch: Launch) -> None:
    """Refuse everything that can be known without the other ranks. Rank 0 looks at files, for all.

    Raises UserError.
    """
    check_name(config.model.name)
    config.global_batch_for(launch.size)
    if launch.rank != 0:
        return
    if config.name is not None:
        folder = RunFolder(Path(config.runs_dir) / config.name)
        folder.check(config.overwrite, config.resume)
        if config.resume:
            check_continues(folder, config, launch.size)
    source = open_training_source(config)
    prepared = find(Path(config.data.prepared_dir), source)
    if prepared is None:
        if config.data.source != "synthetic":
            raise UserError(f"the photos are not prepared: run '{command_for(config.data)}' first (on the login node)")
        boundary = validation_boundary(source.images, config.data.validation_fraction)
        config.check_against(launch.size, boundary, source.images - boundary)
    else:
        images = split(prepared, config.data)
        config.check_against(launch.size, len(images.training), len(images.validation))


def check_continues(folder: RunFolder, config: RunConfig, size: int) -> None:
    """Refuse options under which the resumed run would not be the same training (UserError).

    Rank count, number of epochs, threads and where things lie may change.
    """
    earlier = build(RunConfig, yaml.safe_load(folder.config.read_text(encoding="utf-8")))
    earlier_batch = read_json(folder.environment, Environment).global_batch
    hint = f"resume with --config {folder.config}"
    batch = config.global_batch_for(size)
    if batch != earlier_batch:
        raise UserError(
            f"run {folder.path} was trained with a global batch of {earlier_batch}, not {batch}: {hint} and "
            f"--global-batch {earlier_batch}"
        )
    for name in CONTINUED_OPTIONS:
        was, now = attrgetter(name)(earlier), attrgetter(name)(config)
        if was != now:
            raise UserError(f"run {folder.path} was trained with {name} {was}, not {now}: {hint}")


CONTINUED_OPTIONS = (
    "seed",
    "steps",
    "model.name",
    "optimizer.name",
    "data.source",
    "data.image_size",
    "data.synthetic_images",
    "data.synthetic_seed",
    "data.validation_fraction",
    "data.split_seed",
    "data.augment",
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
    """Give a nameless run the date, the time and its number of ranks for a name."""
    if config.name is not None:
        return config
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return replace(config, name=f"{now}-{size}ranks")


def open_data(config: RunConfig, ranks: Ranks) -> tuple[Prepared, Split]:
    """Open the prepared images; the drawn ones are prepared where missing, by one rank a node, the others waiting.

    Raises UserError on a node that does not see prepared photos.
    """
    root = Path(config.data.prepared_dir)
    source = open_training_source(config)
    if config.data.source == "synthetic" and ranks.local_rank == 0 and find(root, source) is None:
        if ranks.rank == 0:
            say(f"drawing {source.images} synthetic flowers, once, into {root}")
        prepare_with_progress(root, source)
    ranks.barrier()
    prepared = find(root, source)
    if prepared is None:
        raise UserError(f"{root} does not hold the prepared images: choose a --data.prepared-dir that all nodes share")
    images = split(prepared, config.data)
    config.check_against(ranks.size, len(images.training), len(images.validation))
    return prepared, images


def announce(config: RunConfig, environment: Environment, parameters: int, prepared: Prepared, images: Split) -> None:
    """Say what is about to run, and on what."""
    ranks = environment.world_size
    cores = {(rank.host, core) for rank in environment.ranks for core in rank.cores}
    threads = sorted({rank.threads for rank in environment.ranks})
    say(
        f"run {config.name}: {_count(ranks, 'rank')} on {_count(len(environment.hosts), 'node')}, "
        f"{_count(len(cores), 'core')}, {'/'.join(map(str, threads))} thread(s) a rank, strategy {config.strategy}"
    )
    if environment.oversubscribed:
        say(
            f"oversubscribed: {ranks} ranks share {_count(len(cores), 'core')}; the times of this run are no measure "
            "of speed"
        )
    batch = environment.global_batch
    say(
        f"model {config.model.name}: {parameters:,} parameters; {len(images.training):,} training and "
        f"{len(images.validation):,} validation images of {_count(len(prepared.class_names), 'class')}; global batch "
        f"{batch} ({batch // ranks} a rank), {config.scaling} scaling"
    )


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {noun if number == 1 else plural}"


if __name__ == "__main__":
    main()
