"""Losses of which the mean over ranks is the loss of the global batch.

A rank's loss counts by its share: rows of this rank * ranks / rows of the global batch. So the mean over ranks of
share * (mean over a rank's rows) is the mean over all rows. That is not yet so where a loss is a sum over rows, or
divides by something else than their number: by the positions that a mask leaves, or by the weights of the samples.
These are scaled here, and the number that `fit` shows of them is that of the global batch, too.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import tensorflow as tf

from horovod_flowers.model.keras_internals import LossTerms, losses_of_outputs
from horovod_flowers.runtime.errors import UserError

Kind: TypeAlias = Literal["rows", "sum", "mean"]
"""A value for each row, the sum over rows, or their mean."""

TOLERANCE = 1e-3
"""Relative, of sums in fp32, or in the 16 bits that a model computes in."""
MOST_ROWS = 16
"""That a loss is tried out on."""


def sum_over_ranks(value: tf.Tensor, name: str) -> tf.Tensor:
    """Of a small tensor, inside a step that every rank computes."""
    import horovod.tensorflow as hvd

    return hvd.allreduce(value, op=hvd.Sum, name=name, ignore_name_scope=True)


class Reductions:
    """Of the losses that a model computes while `share` is that of the step."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.kinds: dict[int, Kind] = {}
        """By the identity of a loss object: what it gives, as it was tried out."""
        self.share: tf.Tensor | None = None
        self.tried_rows: int | None = None
        """While a step is tried out on so many rows: sums that are known to be some are divided by it."""
        self._calls = 0

    def begin(self, share: tf.Tensor | None) -> None:
        """A step of this share is being computed, or traced; None: none is."""
        self.share, self._calls = share, 0

    def scaled(self, loss: Any, value: tf.Tensor, terms: LossTerms) -> tf.Tensor:
        """A loss as Keras has reduced it, so that its mean over ranks, by shares, is that of the global batch."""
        share = self.share
        if (share is None and self.tried_rows is None) or self._size == 1:
            return value
        kind = self.kinds.get(id(loss), "rows")
        reduction = terms.reduction
        if (reduction == "sum" and kind == "rows") or kind == "sum":
            return self.over_share(value)
        if reduction in (None, "none") or kind == "mean":
            return value
        own = terms.divisor
        if own is None or share is None:
            return value
        self._calls += 1
        own = tf.where(share > 0, tf.cast(own, tf.float32), 0.0)
        of_all = sum_over_ranks(own, f"loss.divisor.{self._calls}")
        return self.over_share(value * tf.cast(tf.math.divide_no_nan(own, of_all), value.dtype))

    def over_share(self, value: tf.Tensor) -> tf.Tensor:
        """What this rank adds to the sum over ranks, as its part of a mean by shares."""
        share = self.share
        if self.tried_rows is not None:
            return value / self.tried_rows
        assert share is not None
        return value * tf.cast(tf.math.divide_no_nan(float(self._size), share), value.dtype)


def kinds_of_losses(model: Any, targets: Any, outputs: Any, size: int) -> list[Kind]:
    """What each loss that the model was compiled with gives: a value for each row, their sum or their mean.

    Tried out on some rows. targets, outputs: as the model's loss is called with. In the order of
    `losses_of_outputs`.

    Raises UserError where several ranks cannot apply one: it compares rows with each other, of which a rank has its own
    only.
    """
    found: list[Kind] = []
    for path, loss in losses_of_outputs(model):
        y_true, y_pred = (np.asarray(_at(path, each)) for each in (targets, outputs))
        found.append(_kind(loss, y_true[:MOST_ROWS], y_pred[:MOST_ROWS], size))
    return found


def _at(path: Sequence[Any], structure: Any) -> Any:
    for step in path:
        structure = structure[step]
    return structure


def _kind(loss: Any, y_true: np.ndarray, y_pred: np.ndarray, size: int) -> Kind:
    name = getattr(loss, "name", None) or type(loss).__name__
    if loss.reduction in (None, "none"):
        raise UserError(
            f"loss {name} has reduction {loss.reduction!r}, which leaves as many losses as rows: give it reduction "
            "'sum_over_batch_size', 'sum' or 'mean_with_sample_weight'"
        )

    def values(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        return np.asarray(loss.call(tf.convert_to_tensor(targets), tf.convert_to_tensor(predictions)), np.float64)

    # Other predictions for the second half: of two equal halves nothing could be told.
    changed = (y_pred * 0.5 + 0.25 * y_pred[::-1]).astype(y_pred.dtype)
    one, other = values(y_true, y_pred), values(y_true, changed)
    both = values(np.concatenate([y_true, y_true]), np.concatenate([y_pred, changed]))
    if one.ndim and len(one) == len(y_true) and len(both) == 2 * len(y_true):
        if np.allclose(both, np.concatenate([one, other]), rtol=TOLERANCE, atol=1e-6):
            return "rows"
    elif one.shape == both.shape:
        if np.allclose(both, (one + other) / 2, rtol=TOLERANCE, atol=1e-6):
            return "mean"
        if np.allclose(both, one + other, rtol=TOLERANCE, atol=1e-6):
            return "sum"
    if not np.all(np.isfinite(both)):  # nothing can be told from it: training will tell
        return "rows" if one.ndim else "mean"
    raise UserError(
        f"loss {name} compares rows of a batch with each other (it is neither a value for each row, nor a sum or a "
        f"mean over rows): each of {size} ranks has rows of its own only, so that it would be another loss; use one "
        "for each row, or train on one rank"
    )
