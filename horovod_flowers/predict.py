"""Classify photos with a trained model, each rank its share of them, into one table in the order of the photos.

    python -m horovod_flowers.predict PHOTOS... --run runs/NAME
    mpirun -np 2 --bind-to none python -m horovod_flowers.predict PHOTOS... --model EXPORTED --output flowers.parquet

PHOTOS are photos, folders (looked through with all below them), quoted globs, or @FILE with one path per line. Photos
that cannot be read are listed beside the table, and left out of it.
"""

import csv
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from horovod_flowers.config.choices import PrecisionChoice
from horovod_flowers.config.command_line import parse
from horovod_flowers.config.options import MOST_THREADS, check_limits, option, positional
from horovod_flowers.data.batches import Prefetcher
from horovod_flowers.inference.prediction.decoding import decoded
from horovod_flowers.inference.prediction.parts import classify, merge, part_of, unreadable_list
from horovod_flowers.inference.prediction.patience import answered
from horovod_flowers.inference.prediction.photos import blocks, photos, reads_a_pipe, write_list
from horovod_flowers.inference.prediction.tables import format_of
from horovod_flowers.inference.trained_model import TrainedModel, load_run, read_run_config
from horovod_flowers.model.precision import choose, may_be_bf16, take
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.startup import connect, find_job, start_tensorflow, take_cores
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runtime.console import Steps, say
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.runtime.files import unfinished, writable_folder
from horovod_flowers.runtime.machine import cpu_flags


@dataclass(frozen=True)
class PredictConfig:
    """Options of the predict command."""

    photos: tuple[str, ...] = positional("photos, folders with photos, quoted globs, or @FILE with one path per line")
    run: str | None = option(None, "folder of a trained run, such as runs/NAME")
    model: str | None = option(None, "instead of --run: an exported model (python -m horovod_flowers.export)")
    checkpoint: Literal["best", "last"] = option("best", "which of the run's checkpoints")
    output: str = option("predictions.csv", "table to write, by its ending: .csv, .jsonl or .parquet")
    batch: int = option(32, "photos that a rank decodes and classifies at a time", at_least=1)
    precision: PrecisionChoice = option("auto", "as in training: bf16 where the CPU has instructions for it")
    threads: int = option(
        0,
        "threads that decode and compute on each rank; 0: as many as its share of the node's cores",
        at_least=0,
        at_most=MOST_THREADS,
    )

    def __post_init__(self) -> None:
        if (self.run is None) == (self.model is None):
            given = "neither --run nor --model is" if self.run is None else "both --run and --model are"
            raise UserError(f"{given} given: give --run runs/NAME or --model EXPORTED")
        format_of(Path(self.output))
        check_limits(self)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.predict`; every rank calls it."""
    with error_boundary("horovod_flowers.predict"):
        job = find_job()
        config = parse(PredictConfig, "horovod_flowers.predict", __doc__, arguments, job.rank)
        load = loader(config)
        output = Path(config.output)
        if job.rank == 0:
            writable_folder(output.parent, "choose another file with --output")
            if not reads_a_pipe(config.photos):
                next(answered(photos(config.photos)))
        ranks = connect(job, config.threads, "auto")
        cores = take_cores(ranks, "auto", config.threads)
        threads = config.threads or cores.physical
        gpu = start_tensorflow(ranks, threads, bf16=may_be_bf16(config.precision, cpu_flags()))
        take(choose(config.precision, cpu_flags(), gpu), config.precision)
        model = load()
        folder, count = open_parts(ranks, output, config.photos)
        try:
            seconds = ranks.allreduce_max(run(config, ranks, model, folder, count, threads))
            shared = ranks.allreduce_max(cores.oversubscribed) > 0
            if ranks.rank == 0:
                note = " (oversubscribed: ranks share cores, not a measure of speed)" if shared else ""
                finish(config, ranks, model, folder, count, seconds, note)
            ranks.barrier()
        except BaseException:  # of any rank: it ends the others, rank 0 too
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if ranks.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def loader(config: PredictConfig) -> Callable[[], TrainedModel]:
    """What loads the model once TensorFlow has started. Raises UserError where there is nothing to load."""
    if config.model is not None:
        path = Path(config.model)
        if not path.exists():
            raise UserError(f"there is no exported model {path}: export one, or give --run runs/NAME")

        def exported() -> TrainedModel:
            from horovod_flowers.inference.export.exported import load_exported

            return load_exported(path)

        return exported
    folder = RunFolder(Path(str(config.run)))
    trained = read_run_config(folder)
    return lambda: load_run(folder, config.checkpoint, trained)


def open_parts(ranks: Ranks, output: Path, words: Sequence[str]) -> tuple[Path, int]:
    """A folder beside the output, with the list of photos in it, and their number.

    Listed by one rank: two nodes may see a folder in which photos are still arriving differently. Raises one rank's
    UserError on all, where a word gives no photo or a node does not see the folder.
    """
    folder, count, error = Path(), 0, None
    if ranks.rank == 0:
        try:
            folder = unfinished(output, "parts")
            folder.mkdir()
            count = write_list(folder / LIST, answered(photos(words)))
        except UserError as found:
            error = found
        except OSError as found:
            error = UserError(f"cannot write in {output.parent} ({found.strerror}): choose another --output")
        if error is not None and folder.name:
            shutil.rmtree(folder, ignore_errors=True)
    ranks.raise_on_all(error)
    folder, count = ranks.broadcast((folder, count))
    if not (folder / LIST).is_file():
        error = UserError(f"{output.parent} is not the same folder on all nodes: choose an --output that they share")
    try:
        ranks.raise_on_all(error)
    except UserError:
        if ranks.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder, count


LIST = "photos.jsonl"


def run(config: PredictConfig, ranks: Ranks, model: TrainedModel, folder: Path, count: int, threads: int) -> float:
    """Classify this rank's photos into its part; seconds, without those of building the graph."""
    size = model.image_size
    model.probabilities(np.zeros((config.batch, size, size, 3), np.uint8))  # traces the graph
    ranks.barrier()
    started = time.monotonic()
    own = blocks(folder / LIST, config.batch, ranks.rank, ranks.size)
    with (
        Prefetcher(decoded(own, config.batch, size, threads)) as ready,
        Steps("predicting", -(-count // ranks.size), "photos on rank 0", muted=ranks.rank != 0) as progress,
    ):
        for done in classify(iter(ready), model.probabilities, part_of(folder, ranks.rank)):
            progress.advance(done)
    return time.monotonic() - started


def finish(
    config: PredictConfig,
    ranks: Ranks,
    model: TrainedModel,
    folder: Path,
    count: int,
    predict_seconds: float,
    note: str,
) -> None:
    """Put the parts together and say what came of it, on rank 0. Raises UserError where no photo could be read."""
    output = Path(config.output)
    read, unread = merge(folder, ranks.size, config.batch, output, format_of(output), model.class_names)
    if unread:
        listed = unreadable_list(output)
        with open(listed, encoding="utf-8", newline="") as lines:
            for photo, reason in islice(csv.reader(lines), 1, NAMED_UNREADABLE + 1):
                say(f"unreadable, left out: {photo}: {reason}")
        more = f" ({unread - NAMED_UNREADABLE} more)" if unread > NAMED_UNREADABLE else ""
        say(f"{unread} of {count} photos could not be read{more}: {listed}")
    if not read:
        raise UserError(f"none of the {count} photos could be read: see {unreadable_list(output)}")
    rate = count / predict_seconds
    say(
        f"{read} photos classified by {ranks.size} rank(s) in {predict_seconds:.1f} s, {rate:.1f} photos/s, decoding "
        f"included{note}: {output}"
    )


NAMED_UNREADABLE = 10

if __name__ == "__main__":
    main()
