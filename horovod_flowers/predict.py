"""Classify photos with a trained run, each rank its share of them, into one CSV in the order of the photos.

    python -m horovod_flowers.predict runs/NAME --photos PHOTOS
    mpirun -np 2 --bind-to none python -m horovod_flowers.predict runs/NAME --photos PHOTOS --output flowers.csv

PHOTOS is a photo or a folder, looked through with all below it. Photos that cannot be read are listed, and left out.
"""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from horovod_flowers.command_line import parse
from horovod_flowers.config import option, positional
from horovod_flowers.data.sources import PHOTO_SUFFIXES, decode_photo
from horovod_flowers.errors import UserError
from horovod_flowers.files import writable_folder, write_whole
from horovod_flowers.launch import Launch, error_boundary
from horovod_flowers.progress import Steps, say
from horovod_flowers.ranks import Ranks, connect, start_tensorflow, take_cores
from horovod_flowers.runlog import RunFolder
from horovod_flowers.trained import load_run, read_run_config


@dataclass(frozen=True)
class PredictConfig:
    """Options of the predict command."""

    run: tuple[str, ...] = positional("folder of a trained run, such as runs/NAME")
    photos: str | None = option(None, "a photo, or a folder with photos in it and below it")
    output: str = option("predictions.csv", "file to write: photo, class, probability")
    checkpoint: Literal["best", "last"] = option("best", "which of the run's checkpoints")
    batch: int = option(32, "photos that a rank decodes and classifies at a time")
    threads: int = option(0, "TensorFlow threads of each rank; 0: as many as its share of the node's cores")

    def __post_init__(self) -> None:
        if len(self.run) > 1:
            raise UserError(f"{len(self.run)} runs are given ({', '.join(self.run)}): give one")
        if self.photos is None:
            raise UserError("no photos are given: add --photos PHOTO or --photos FOLDER")
        if self.batch < 1:
            raise UserError(f"batch is {self.batch}: give a positive whole number")
        if self.threads < 0:
            raise UserError(f"threads is {self.threads}: give 0 or a positive whole number")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.predict`; every rank calls it."""
    with error_boundary("horovod_flowers.predict"):
        launch = Launch.from_environment(os.environ)
        description = (__doc__ or "").splitlines()[0]
        config = parse(PredictConfig, "horovod_flowers.predict", description, arguments, launch.rank)
        folder, output = RunFolder(Path(config.run[0])), Path(config.output)
        trained = read_run_config(folder)
        if launch.rank == 0:
            writable_folder(output.parent, "choose another file with --output")
            find_photos(Path(str(config.photos)))
        ranks = connect(launch, config.threads, "auto")
        # From one rank: two nodes may see a folder in which photos are still arriving differently.
        photos = ranks.broadcast(find_photos(Path(str(config.photos))) if ranks.rank == 0 else None)
        cores = take_cores(ranks, "auto", config.threads)
        start_tensorflow(ranks, config.threads or cores.physical)
        model = load_run(folder, config.checkpoint, trained)
        # Neighbouring photos on one rank: they lie in one folder, and the parts only have to be put one after another.
        first, end = (len(photos) * place // ranks.size for place in (ranks.rank, ranks.rank + 1))
        own, unreadable = [], list[tuple[str, str]]()
        with Steps("predicting", end - first, "photos", muted=ranks.rank != 0) as progress:
            for names, images in batches(photos[first:end], trained.data.image_size, config.batch, unreadable):
                probabilities = model.probabilities(images)
                best = probabilities.argmax(axis=1)
                chances = probabilities[np.arange(len(best)), best].tolist()
                own += list(zip(names, (model.class_names[k] for k in best), chances, strict=True))
                progress.advance(len(names))
        write(output, ranks, own, unreadable)


def find_photos(path: Path) -> list[str]:
    """One photo, or those in a folder and below it, sorted. Raises UserError where there are none."""
    if path.is_file():
        return [str(path)]
    found = sorted(str(photo) for photo in path.rglob("*") if photo.suffix.lower() in PHOTO_SUFFIXES)
    if not found:
        raise UserError(f"there is no photo {path}, or none in it: give a {', '.join(PHOTO_SUFFIXES)} file or a folder")
    return found


def batches(
    photos: Sequence[str], size: int, batch: int, unreadable: list[tuple[str, str]]
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names and decoded images, at most `batch` at a time; adds name and reason of those that cannot be read."""
    for start in range(0, len(photos), batch):
        names, images = [], []
        for name in photos[start : start + batch]:
            try:
                images.append(decode_photo(Path(name), size))
            except Exception as error:  # whatever a decoder makes of a broken file, the others count
                unreadable.append((name, str(error).splitlines()[0] if str(error) else type(error).__name__))
                continue
            names.append(name)
        if images:
            yield names, np.stack(images)


def write(output: Path, ranks: Ranks, own: list[tuple[str, str, float]], unreadable: list[tuple[str, str]]) -> None:
    """Put the parts of all ranks together, on rank 0, and write them whole. Every rank calls it."""
    gathered = ranks.gather((own, unreadable))
    if gathered is not None:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("photo", "class", "probability"))
        writer.writerows((name, label, f"{chance:.6f}") for rows, _ in gathered for name, label, chance in rows)
        write_whole(output, table.getvalue())
        for name, reason in (item for _, items in gathered for item in items):
            say(f"unreadable, left out: {name}: {reason}")
        say(f"{sum(len(rows) for rows, _ in gathered)} photos classified by {ranks.size} rank(s): {output}")
    ranks.barrier()


if __name__ == "__main__":
    main()
