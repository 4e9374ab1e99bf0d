"""Goes back to one step of a run, and tells the loss of each of its images."""

import math

import numpy as np
from rich.table import Table

from horovod_flowers.data.batches import Batch
from horovod_flowers.data.sources import FolderSource
from horovod_flowers.errors import UserError
from horovod_flowers.progress import Steps, Terminal, say
from horovod_flowers.training import Training


def replay(training: Training, step: int) -> None:
    """Train from where the checkpoint stands up to a step, recording nothing, and print its images, the worst first.

    Every rank calls it; at as many ranks as the run had, in fp32, it computes what the run computed, bit by bit. Raises
    UserError where the run does not have the step.
    """
    epochs = training.config.epochs
    if step >= epochs * training.steps_per_epoch:
        raise UserError(
            f"replay_step is {step}: the run has {epochs} epochs of {training.steps_per_epoch} steps, counted from 0"
        )
    ranks, batch = training.ranks, _train_up_to(training, step)
    losses = training.step.image_losses(batch)
    own = [
        (float(losses[place]), ranks.rank, int(index), *_pixels(batch.images[place]))
        for place, index in enumerate(batch.indices)
        if batch.weights[place]
    ]
    gathered = ranks.gather(own)
    if gathered is not None:
        _print(training, step, [image for images in gathered for image in images])


def _train_up_to(training: Training, step: int) -> Batch:
    """This rank's batch of a step, the model as it was before it."""
    first_steps, into_epoch = training.standing.steps_done, training.standing.steps_into_epoch
    muted = training.ranks.rank != 0
    with Steps("training again", step - training.standing.steps, "steps", muted) as progress:
        for epoch in range(training.standing.epochs_done + 1, training.config.epochs + 1):
            for place, batch in enumerate(training.batches(epoch, into_epoch), into_epoch):
                if first_steps + place == step:
                    return batch
                if place == training.steps_per_epoch:  # --steps ends epochs early
                    break
                training.step(batch, training.schedule.at(first_steps + place), training.update_of(place))
                progress.advance()
            training.average_statistics()
            first_steps, into_epoch = first_steps + training.steps_per_epoch, 0
    raise AssertionError(f"step {step} was not reached")


def _pixels(image: np.ndarray) -> tuple[int, int]:
    return int(image.min()), int(image.max())


def _print(training: Training, step: int, images: list[tuple[float, int, int, int, int]]) -> None:
    """The images, those first whose loss is no number, then by loss."""
    prepared, config = training.prepared, training.config.data
    photos = FolderSource(config).photos if config.source == "folder" else None
    table = Table(title=f"step {step}: {len(images)} images", title_justify="left")
    for heading in ("image", "class", "rank", "loss", "pixels"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    if photos:
        table.add_column("photo")
    for loss, rank, index, darkest, brightest in sorted(
        images, key=lambda image: (math.isfinite(image[0]), -image[0] if math.isfinite(image[0]) else 0.0)
    ):
        words = [str(index), prepared.class_names[prepared.labels[index]], str(rank), f"{loss:.6g}"]
        words.append(f"{darkest} to {brightest}")
        table.add_row(*words, *([photos[prepared.positions[index]][0]] if photos else []))
    Terminal(markup=False, highlight=False).print(table)
    wrong = sum(not math.isfinite(image[0]) for image in images)
    say(f"{wrong} of {len(images)} losses are no finite numbers, with the weights as they were before step {step}")
