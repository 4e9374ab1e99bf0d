"""Penalties that a model adds to its loss, such that all ranks apply what one rank applies.

A sum over rows, as Keras' activity regularizers are, adds up over ranks; a mean over rows and a function of the weights
are averaged by shares. Which of them a penalty is, is tried out on the first batch.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from horovod_flowers.fit.reductions import Reductions
from horovod_flowers.model.keras_internals import all_layers
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.training.penalties import Kind, adds_losses, kind_of, kinds_of_losses_on, states_after_call

MOST_ROWS = 4


@dataclass(frozen=True)
class SharedPenalties:
    """The losses that a model has besides that of its outputs, in `model.losses`."""

    kinds: tuple[list[Kind | None], list[Kind | None]] = ([], [])
    """In training and in evaluation."""
    notes: tuple[str, ...] = ()
    """For the log."""

    @staticmethod
    def of(model: Any, x: Any) -> "SharedPenalties":
        """Those of a model. x: rows of a batch.

        Raises UserError where an activity regularizer is neither a sum over rows nor a mean.
        """
        layers = [layer for layer in all_layers(model) if getattr(layer, "activity_regularizer", None) is not None]
        for layer in layers:
            if kind_of(layer.activity_regularizer, layer) is None:
                raise UserError(
                    f"activity regularizer {type(layer.activity_regularizer).__name__} of layer {layer.name} is "
                    "neither a sum over rows nor a mean: it sees the rows of one rank only and cannot be what one rank "
                    "would apply; use L1 or L2, or train on one rank"
                )
        adding = [layer.name for layer in all_layers(model) if adds_losses(layer)]
        if not layers and not adding:
            return SharedPenalties()
        first = keras.tree.map_structure(lambda rows: tf.convert_to_tensor(rows[:MOST_ROWS]), x)
        kinds = kinds_of_losses_on(model, first, _changed(first))
        if layers and "sum" not in kinds[0]:
            raise UserError(
                f"the activity regularizer of layer {layers[0].name} could not be tried out on the first batch: train "
                "on one rank, or add what it adds to the loss"
            )
        unclear = adding and (not kinds[0] or None in kinds[0])
        return SharedPenalties(kinds, (f"add_loss of {', '.join(adding)} averaged over ranks",) if unclear else ())

    def scaled(self, found: list[Any], reductions: Reductions) -> list[Any]:
        """A model's losses, for the mean over ranks by shares."""
        for kinds in self.kinds:
            if len(kinds) == len(found) and reductions.share is not None:
                return [
                    reductions.over_share(loss) if kind == "sum" else loss
                    for loss, kind in zip(found, kinds, strict=True)
                ]
        return found


def _changed(rows: Any) -> Any:
    """Other rows of the same kind."""

    def change(values: tf.Tensor) -> tf.Tensor:
        if not values.dtype.is_floating:
            return values[::-1]
        return values * tf.cast(0.5, values.dtype) + tf.cast(0.25, values.dtype) * values[::-1]

    return keras.tree.map_structure(change, rows)


def places_moved_alike(model: Any, x: Any) -> list[int]:
    """Places among a model's non-trainable variables of those that a call in training moves whatever the rows are, such
    as the vectors of SpectralNormalization and seeds; none where the model cannot be tried out.

    Called without a trace in the model.
    """
    first = keras.tree.map_structure(lambda rows: tf.convert_to_tensor(rows[:MOST_ROWS]), x)
    try:
        ends = [states_after_call(model, rows) for rows in (first, _changed(first))]
    except Exception:  # the user's code: nothing is known of it
        return []
    return [place for place, (one, other) in enumerate(zip(*ends, strict=True)) if np.array_equal(one, other)]
