"""Evaluate a trained run: accuracy with its interval, what it mixes up, whether its probabilities can be believed.

    python -m horovod_flowers.evaluate runs/NAME
    mpirun -np 2 --bind-to none python -m horovod_flowers.evaluate runs/NAME --checkpoint last
    python -m horovod_flowers.evaluate runs/NAME --photos PHOTOS          # PHOTOS/CLASS/*.jpg that it never saw

Every image once over the ranks, in fp32. Writes RUN/evaluation (docs/evaluate.md), which the report shows.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from horovod_flowers.checkpoint.format import SavedProgress, read_progress
from horovod_flowers.config.command_line import parse
from horovod_flowers.config.options import MOST_THREADS, check_limits, option, positional
from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.batches import Prefetcher
from horovod_flowers.data.opening import draw_where_missing
from horovod_flowers.data.order import split
from horovod_flowers.data.photo_file import KINDS
from horovod_flowers.data.prepared import Prepared, open_prepared
from horovod_flowers.data.preparing import command_for
from horovod_flowers.data.sources import open_source
from horovod_flowers.inference.evaluation.images import Images, Part, PhotoImages, PreparedImages
from horovod_flowers.inference.evaluation.record import (
    Evaluated,
    ImagesOf,
    check_replaceable,
    record_of,
    write_evaluation,
)
from horovod_flowers.inference.evaluation.summary import print_summary
from horovod_flowers.inference.prediction.photos import shown
from horovod_flowers.inference.trained_model import TrainedModel, load_run, read_run_config
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.startup import connect, find_job, start_tensorflow, take_cores
from horovod_flowers.report.analysis.classification import TOP_K, metrics_of, worst_mistakes
from horovod_flowers.report.analysis.evaluation import MOST_MISTAKES
from horovod_flowers.runlog.json_lines import read_json
from horovod_flowers.runlog.records import Environment, Prediction
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.run_hold import RunAtRest, RunHold
from horovod_flowers.runtime.console import Steps, say
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.runtime.files import writable_folder
from horovod_flowers.runtime.machine import own_command

DIGITS = 6
"""Of probabilities: what differs beyond them between numbers of threads is rounding."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Options of the evaluate command."""

    run: tuple[str, ...] = positional("folder of a trained run, such as runs/NAME")
    checkpoint: Literal["best", "last"] = option("best", "which of the run's checkpoints")
    split: Literal["validation", "training", "test"] = option(
        "validation",
        "which of the run's images; test: those of its own test set, or that --data.test-fraction held out",
    )
    photos: str | None = option(
        None, "instead of the run's own images, photos that it has not seen: FOLDER/CLASS/*.jpg"
    )
    top_k: int = option(
        TOP_K, "count an image where its class is among this many most probable (at most all)", at_least=1
    )
    prepared_dir: str | None = option(None, "where the prepared images are (default: where the run had them)")
    output: str | None = option(
        None, "folder to write (default: RUN/evaluation, or RUN/evaluation-NAME for photos or training images)"
    )
    batch: int = option(32, "images that a rank classifies at a time", at_least=1)
    threads: int = option(
        0,
        "TensorFlow threads of each rank; 0: as many as its share of the node's cores",
        at_least=0,
        at_most=MOST_THREADS,
    )

    def __post_init__(self) -> None:
        if len(self.run) > 1:
            raise UserError(f"{len(self.run)} runs are given ({', '.join(self.run)}): give one")
        if self.photos is not None and self.split != "validation":
            raise UserError("--photos and --split are given: photos are taken as they are, leave out one of the two")
        check_limits(self)

    @property
    def images_of(self) -> ImagesOf:
        """What is evaluated."""
        return self.split if self.photos is None else "photos"

    @property
    def output_folder(self) -> Path:
        """Where the results go."""
        if self.output is not None:
            return Path(self.output)
        names = {
            "validation": "",
            "training": "-training",
            "test": "-test",
            "photos": f"-{Path(self.photos or '').resolve().name}",
        }
        return Path(self.run[0]) / f"evaluation{names[self.images_of]}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.evaluate`; every rank calls it."""
    with error_boundary("horovod_flowers.evaluate"), RunHold("horovod_flowers.evaluate") as hold:
        job = find_job()
        config = parse(EvaluateConfig, "horovod_flowers.evaluate", __doc__, arguments, job.rank)
        folder = RunFolder(Path(config.run[0]))
        at_rest = None
        if job.rank == 0:
            at_rest = RunAtRest(folder.path, folder.config, folder.checkpoints / f"{config.checkpoint}.safetensors")
        trained = read_run_config(folder)
        progress = progress_of(folder, config.checkpoint)
        root = Path(config.prepared_dir or trained.data.prepared_dir)
        if job.rank == 0:
            check_before_mpi(config, trained, progress, root)
            hold.take(config.output_folder, "wait for its end, or choose another --output")
        ranks = connect(job, config.threads, "auto")
        images, digest = open_images(config, trained, progress, root, ranks)
        cores = take_cores(ranks, "auto", config.threads)
        threads = config.threads or cores.physical
        start_tensorflow(ranks, threads)
        model = load_run(folder, config.checkpoint, trained)
        predictions, unreadable, photo_digest = classify(config, images, model, ranks)
        if ranks.rank == 0:
            evaluated = Evaluated(
                run=folder.path.resolve().name,
                checkpoint=config.checkpoint,
                epoch=progress.epochs_done,
                steps=progress.steps_done,
                model=trained.model.name,
                class_names=list(model.class_names),
                images_of=config.images_of,
                photos=None if config.photos is None else shown(config.photos),
                data_digest=digest or photo_digest,
                **logged_by_training(config, folder, progress),
                world_size=ranks.size,
                batch=config.batch,
                threads=threads,
                command=own_command(),
            )
            metrics = metrics_of(predictions, min(config.top_k, len(model.class_names)))
            record = record_of(evaluated, metrics, worst_mistakes(predictions, MOST_MISTAKES), unreadable)
            if at_rest is not None:
                at_rest.check()
            write_evaluation(config.output_folder, record, predictions, metrics, images.image)
            print_summary(record, metrics, config.output_folder)
        ranks.barrier()


def progress_of(folder: RunFolder, which: Literal["best", "last"]) -> SavedProgress:
    """Where training stood at a checkpoint. Raises UserError where there is none, naming those that are there."""
    path = folder.checkpoints / f"{which}.safetensors"
    if not path.exists():
        there = [name for name in ("best", "last") if (folder.checkpoints / f"{name}.safetensors").exists()]
        remedy = f"give --checkpoint {there[0]}" if there else "train it with checkpoints (without --no-checkpoint)"
        raise UserError(f"run {folder.path} has no {which} checkpoint: {remedy}")
    return read_progress(path)


def logged_by_training(config: EvaluateConfig, folder: RunFolder, progress: SavedProgress) -> dict[str, Any]:
    """The accuracy that training logged for the same images and weights, and the precision that it computed in."""
    if config.images_of != "validation" or progress.partial is not None or progress.validation_accuracy is None:
        return {"logged_accuracy": None, "logged_precision": None}
    precision = read_json(folder.environment, Environment).precision
    return {"logged_accuracy": progress.validation_accuracy, "logged_precision": precision}


def check_before_mpi(config: EvaluateConfig, trained: RunConfig, progress: SavedProgress, root: Path) -> None:
    """Refuse what can be known without the other ranks; rank 0 calls it, for all. Raises UserError."""
    check_replaceable(config.output_folder)
    writable_folder(config.output_folder.parent, "choose another folder with --output")
    if config.photos is not None:
        for remark in PhotoImages(Path(config.photos), trained.data.image_size, progress.class_names).remarks:
            say(remark)
        return
    held_out = bool(trained.data.test_fraction)
    if trained.data.source != "synthetic":
        held_out = len(split(open_checked(root, trained, progress), trained.data).test) > 0
    if config.images_of == "test" and not held_out:
        raise UserError(
            "split is 'test' but the run held no image out: train one with --data.test-fraction or --data.test-path, "
            "or leave out --split"
        )


def open_images(
    config: EvaluateConfig, trained: RunConfig, progress: SavedProgress, root: Path, ranks: Ranks
) -> tuple[Images, str]:
    """The images, and the digest of those that have one ('' for photos). The same on every rank.

    Raises UserError on all ranks where one of them does not see the images, or sees others.
    """
    images: Images | None = None
    error, digest = None, ""
    if config.photos is None and trained.data.source == "synthetic":
        there = (root / "objects" / progress.data_digest).is_dir()
        if not ranks.allreduce_min(int(there)):
            draw_where_missing(root, open_source(trained.data), ranks)
    try:
        if config.photos is not None:
            found = PhotoImages(Path(config.photos), trained.data.image_size, progress.class_names)
            images, seen = found, hashlib.sha256(json.dumps(found.names).encode()).hexdigest()
        else:
            prepared = open_checked(root, trained, progress)
            indices = getattr(split(prepared, trained.data), config.split)
            images, seen = PreparedImages(prepared, indices), prepared.digest
            digest = prepared.digest
    except UserError as raised:
        error, seen = raised, ""
    ranks.raise_on_all(error)
    if ranks.broadcast(seen) != seen:
        error = UserError(
            f"{config.photos} does not hold the same photos here as on rank 0: give a folder that all nodes share"
        )
    ranks.raise_on_all(error)
    assert images is not None
    return images, digest


def open_checked(root: Path, trained: RunConfig, progress: SavedProgress) -> Prepared:
    """The very images that the run was trained with. Raises UserError where they are not in `root`."""
    try:
        prepared = open_prepared(root / "objects" / progress.data_digest)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the images that the run was trained on (digest {progress.data_digest}) are not in {root}: run "
            f"'{command_for(trained.data)}' on photos that have not changed since, or say where they are with "
            "--prepared-dir"
        ) from error
    if prepared.class_names != progress.class_names:
        raise UserError(
            f"{prepared.folder} holds images of {', '.join(prepared.class_names)}, but the run was trained on "
            f"{', '.join(progress.class_names)}: delete that folder and prepare again"
        )
    return prepared


def classify(
    config: EvaluateConfig, images: Images, model: TrainedModel, ranks: Ranks
) -> tuple[list[Prediction], list[tuple[str, str]], str]:
    """Predictions by image, what could not be read, and a digest of photos: on rank 0, empty elsewhere.

    Every rank calls it. Raises UserError on all of them where no image could be read.
    """
    own: list[Prediction] = []
    digests: list[tuple[int, str]] = []
    unreadable: list[tuple[str, str]] = []
    parts = images.parts(ranks.rank, ranks.size, config.batch)
    share = -(-images.count // ranks.size)
    with Prefetcher(parts) as ready, Steps("evaluating", share, "images", muted=ranks.rank != 0) as progress:
        for part in ready:
            own += predictions_of(part, model, images)
            digests += zip(part.numbers.tolist(), part.digests, strict=False)
            unreadable += part.unreadable
            progress.advance(len(part.numbers))
    gathered = ranks.gather((own, digests, unreadable)) or []
    total = ranks.allreduce_sum(np.array([float(len(own))]))[0]
    if not total:
        raise UserError(f"none of the {images.count} photos in {config.photos} can be read: give {KINDS} files")
    predictions = sorted((each for found, _, _ in gathered for each in found), key=lambda each: each.image)
    pixels = dict(item for _, found, _ in gathered for item in found)
    contents = [(each.photo, each.label, pixels.get(each.image)) for each in predictions]
    digest = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:32]
    return predictions, sorted(item for _, _, found in gathered for item in found), digest


def predictions_of(part: Part, model: TrainedModel, images: Images) -> list[Prediction]:
    """What the model takes a batch's images for."""
    if not len(part.numbers):
        return []
    found = []
    probabilities = model.probabilities(part.images)[: len(part.numbers)]
    for number, label, chances in zip(part.numbers.tolist(), part.labels.tolist(), probabilities, strict=True):
        order = np.argsort(-chances, kind="stable")  # as argmax does, the first of equals
        found.append(
            Prediction(
                image=number,
                label=model.class_names[label],
                predicted=model.class_names[order[0]],
                probability=written(chances[order[0]]),
                label_probability=written(chances[label]),
                rank_of_label=int(np.flatnonzero(order == label)[0]) + 1,
                photo=images.photo(number),
            )
        )
    return found


def written(chance: np.float32) -> float:
    """A probability as it is written; a sum of roundings may lie a little above 1."""
    return min(1.0, round(float(chance), DIGITS))


if __name__ == "__main__":
    main()
