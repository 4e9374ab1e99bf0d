"""A train_step, or a loss, of the user's own, tried out on some rows before training.

Twice the same rows have to give the same gradients. Where they give twice as much the loss adds rows up, and ranks,
which average gradients, would train with another learning rate than one rank.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from horovod_flowers.fit.reductions import Reductions
from horovod_flowers.model.keras_internals import reduced_losses
from horovod_flowers.model.optimizer_class import Combining, Gradients, Update, combine_in_place, remove_combining
from horovod_flowers.runtime.errors import UserError

MOST_ROWS = 8
ADDS_UP = 1.5
"""From which the ratio of the two gradients' lengths is taken for 2; random numbers, as of dropout, move it."""


class _Kept(Combining):
    """Keeps the gradients of an update instead of making it."""

    def __init__(self, kept: list[list[Any]]) -> None:
        self._kept = kept

    def apply(self, optimizer: Any, gradients: Gradients, variables: Sequence[Any], update: Update) -> None:
        """Keep them."""
        self._kept.append([gradient for gradient in gradients if gradient is not None])


def check_own_step(model: Any, data: Any) -> None:
    """Refuse a train_step that does not apply its optimizer once, or whose loss adds rows up (UserError).

    data: rows as train_step takes them, (x, y) or the like. Called without a trace in the model; what the user's code
    raises is left to training.
    """
    rows = keras.tree.map_structure(lambda values: tf.convert_to_tensor(values[:MOST_ROWS]), data)
    twice = keras.tree.map_structure(lambda values: tf.concat([values, values], 0), rows)
    before = {id(variable): (variable, np.array(variable)) for variable in [*model.variables, *model.metrics_variables]}
    kept: list[list[Any]] = []
    remove_combining(model.optimizer)
    combine_in_place(model.optimizer, lambda: _Kept(kept))
    own = getattr(type(model), "_own_class", type(model))
    reductions = Reductions(2)
    counts: list[int] = []
    try:
        for given in (rows, twice):
            reductions.tried_rows = int(tf.shape(keras.tree.flatten(given)[0])[0])
            with reduced_losses(reductions.scaled):
                own.train_step(model, given)
            counts.append(len(kept))
    except UserError:
        raise
    except Exception:  # the user's code, which training will run
        return
    finally:
        remove_combining(model.optimizer)
        for variable, value in before.values():
            variable.assign(value)
    if counts != [1, 2]:
        raise UserError(
            f"train_step of model {model.name} applies its optimizer {counts[0]} times; it has to be applied once, by "
            "optimizer.apply_gradients or optimizer.apply, where the gradients of all ranks are combined"
        )
    one, other = (_length(gradients) for gradients in kept)
    if one > 0 and other / one > ADDS_UP:
        raise UserError(
            f"the loss of model {model.name} adds up over the rows of a batch (twice the rows give {other / one:.2g} "
            "times the gradient), and ranks average gradients: divide it by the number of rows, as tf.reduce_mean "
            "does, and raise the learning rate by as much"
        )


def _length(gradients: Sequence[Any]) -> float:
    return float(tf.linalg.global_norm([tf.cast(tf.convert_to_tensor(each), tf.float32) for each in gradients]))
