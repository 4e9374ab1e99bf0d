"""Whether a training's losses are still numbers, and the ranks' weights still the same."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.batches import Batch
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.mpi_start import loaded_library
from horovod_flowers.ranks.same_weights import checksum, refuse_drift
from horovod_flowers.runtime.errors import JobError
from horovod_flowers.strategy.interface import Strategy


@dataclass(frozen=True)
class BadLoss:
    """A step of one rank whose loss is not a finite number."""

    step: int
    """Counted over the run, from 0."""
    place: str
    """Epoch and step in it, for messages."""
    loss: float
    images: tuple[int, ...]
    """Of the prepared images, those that counted in the rank's part of the batch."""
    rank: int
    host: str

    @staticmethod
    def of(ranks: Ranks, step: int, place: str, loss: float, batch: Batch) -> "BadLoss":
        """Of this rank's part of a batch."""
        images = tuple(int(index) for index in batch.indices[batch.weights > 0])
        return BadLoss(step, place, loss, images, ranks.rank, os.uname().nodename)


def stop_at_bad_loss(ranks: Ranks, own: BadLoss | None, config: RunConfig) -> None:
    """Raise the JobError that tells of the first of them, on every rank. Every rank calls it."""
    found = [bad for bad in ranks.allgather(own) if bad is not None]
    if not found:
        raise JobError("the sum of the losses overflows, though each loss is finite: lower the learning rate")
    raise JobError(_sentence([bad for bad in found if bad.step == min(bad.step for bad in found)], config, ranks.size))


def stop_alone(bad: BadLoss, config: RunConfig, size: int) -> None:
    """The same for a rank that trains apart from the others: raises it there."""
    raise JobError(_sentence([bad], config, size))


def _sentence(first: list[BadLoss], config: RunConfig, size: int) -> str:
    where = "; ".join(f"{bad.loss} on rank {bad.rank} ({bad.host}), images {_listed(bad.images)}" for bad in first)
    library = loaded_library()
    words = library.typed_start(size) if size > 1 and library is not None else []
    words += ["python", "-m", "horovod_flowers.train", "--resume", "--name", str(config.name)]
    if Path(config.runs_dir) != Path("runs"):
        words += ["--runs-dir", config.runs_dir]
    again = shlex.join([*words, "--replay-step", str(first[0].step)])
    return (
        f"NaN or infinite loss in step {first[0].step} ({first[0].place}): {where}; all ranks have stopped "
        f"and nothing was saved since; look at each image of that step with: {again}"
    )


def _listed(images: tuple[int, ...]) -> str:
    return ", ".join(map(str, images[:64])) + (f" and {len(images) - 64} more" if len(images) > 64 else "")


def check_same_weights(ranks: Ranks, strategy: Strategy, steps: int) -> None:
    """Raise a JobError on every rank where ranks that should hold the same weights hold others, after so many steps.

    Every rank calls it.
    """
    if ranks.size == 1:
        return
    whole = part = 0
    for variable, held in zip(strategy.model_variables, strategy.parts, strict=True):
        value = np.array(variable.read_value(), order="C")  # of a scalar np.ascontiguousarray makes a row
        if value.shape == held.shape:
            whole = checksum(value, whole)
        else:  # a slice of a divided layer, which the same member of each group holds
            part = checksum(value, part)
    refuse_drift(
        ranks,
        f"after step {steps - 1}: no checkpoint was written since they agreed; look for rank-dependent code, nodes "
        "with different hardware or failing memory, or leave the check out with --no-check-weights",
        whole,
        part,
        strategy.groups,
    )
