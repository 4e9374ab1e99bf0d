"""Goes back to one step of a run, and tells the loss of each of its images."""

import math

import numpy as np
from rich.table import Table

from horovod_flowers.data.batches import Batch
from horovod_flowers.data.folder_layout import FoundPhoto
from horovod_flowers.data.opening import find_images
from horovod_flowers.runlog.training_progress import TrainingProgress
from horovod_flowers.runtime.console import Steps, Terminal, say
from horovod_flowers.runtime.errors import UserError, harmless
from horovod_flowers.training.engine import TrainingEngine


def replay(engine: TrainingEngine, progress: TrainingProgress, step: int) -> None:
    """Train from where the checkpoint stands up to a step, recording nothing, and print its images, the worst first.

    Every rank calls it; at as many ranks as the run had, in fp32, it computes what the run computed, bit by bit. Raises
    UserError where the run does not have the step.
    """
    epochs = engine.config.epochs
    if step >= epochs * engine.steps_per_epoch:
        raise UserError(
            f"replay_step is {step}: the run has {epochs} epochs of {engine.steps_per_epoch} steps, counted from 0"
        )
    engine.learning_rate_factor = progress.plateau.factor
    if engine.config.optimizer.plateau_epochs and step >= progress.steps_done + engine.steps_per_epoch:
        raise UserError(
            f"replay_step is {step}, after the epoch of the newest checkpoint before it (step {progress.steps}), and "
            "the learning rate, which followed the validation loss since, is not replayed: give an earlier step"
        )
    ranks, batch = engine.ranks, _train_up_to(engine, progress, step)
    losses = engine.step.image_losses(batch)
    own = [
        (float(losses[place]), ranks.rank, int(index), *_pixels(batch.images[place]))
        for place, index in enumerate(batch.indices)
        if batch.weights[place]
    ]
    gathered = ranks.gather(own)
    if gathered is not None:
        _print(engine, step, [image for images in gathered for image in images])


def _train_up_to(engine: TrainingEngine, progress: TrainingProgress, step: int) -> Batch:
    """This rank's batch of a step, the model as it was before it."""
    first_steps, into_epoch = progress.steps_done, progress.steps_into_epoch
    muted = engine.ranks.rank != 0
    with Steps("training again", step - progress.steps, "steps", muted) as bar:
        for epoch in range(progress.epochs_done + 1, engine.config.epochs + 1):
            for place, batch in enumerate(engine.batches(epoch, into_epoch), into_epoch):
                if first_steps + place == step:
                    return batch
                if place == engine.steps_per_epoch:  # --steps ends epochs early
                    break
                engine.step(batch, engine.learning_rate(first_steps + place), engine.update_of(place))
                bar.advance()
            engine.average_statistics()
            first_steps, into_epoch = first_steps + engine.steps_per_epoch, 0
    raise AssertionError(f"step {step} was not reached")


def _pixels(image: np.ndarray) -> tuple[int, int]:
    return int(image.min()), int(image.max())


def _photos(engine: TrainingEngine) -> tuple[FoundPhoto, ...] | None:
    """The user's photos by position; None where they have gone, or are others than those that were prepared."""
    found = find_images(engine.config)
    same = found.source is not None and found.prepared is not None and found.prepared.digest == engine.prepared.digest
    return found.source.layout.photos if same and found.source is not None and found.source.layout is not None else None


def _print(engine: TrainingEngine, step: int, images: list[tuple[float, int, int, int, int]]) -> None:
    """The images, those first whose loss is no number, then by loss."""
    prepared = engine.prepared
    photos = _photos(engine)
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
        table.add_row(*words, *([harmless(photos[prepared.positions[index]].name)] if photos else []))
    Terminal(markup=False, highlight=False).print(table)
    wrong = sum(not math.isfinite(image[0]) for image in images)
    say(f"{wrong} of {len(images)} losses are NaN or infinite, with the weights as they were before step {step}")
