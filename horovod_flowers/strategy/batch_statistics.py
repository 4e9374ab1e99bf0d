"""Batch normalisation over the images of all ranks, for layers that ask for it: `synchronized=True`.

Each rank reduces its own images to a count, a mean and a sum of squared deviations a channel; these are gathered and
combined exactly (Chan et al. 1979, equations 2.1; a sum of squares would cancel). Backwards, what the losses of all
ranks say about the common mean and variance is added up. One small collective call each way for each layer: an
allgather of 3 numbers a channel, an allreduce of 2.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from horovod_flowers.model.keras_internals import (
    all_layers,
    has_own_moments,
    nodes_in_use,
    nodes_into,
    replace_moments,
    restore_moments,
    synchronized_moments,
)
from horovod_flowers.runlog.records import CommunicationVolume
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.strategy.communication_volume import allreduce, exchange
from horovod_flowers.strategy.layer_collectives import Exchange
from horovod_flowers.strategy.step_timer import StepTimer


def global_moments(
    inputs: tf.Tensor, weights: tf.Tensor | None, axes: Sequence[int], exchange: Exchange, timer: StepTimer
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance of each channel over all other axes and all ranks, [channels] each; differentiable.

    inputs: fp32 [images, ...]. weights: 1 for values that count and 0 for others, of the same shape; all count where it
    is None.
    """
    names = {what: exchange.call_name(what) for what in ("moments", "gradients")}
    along = [1 if axis in axes else size for axis, size in enumerate(inputs.shape)]  # of one channel each, to broadcast

    def counted(values: tf.Tensor) -> tf.Tensor:
        return values if weights is None else weights * values

    @tf.custom_gradient
    def moments(values: tf.Tensor) -> Any:
        count = tf.reduce_sum(tf.ones_like(values) if weights is None else weights, axes)
        mean = tf.math.divide_no_nan(tf.reduce_sum(counted(values), axes), count)
        squares = tf.reduce_sum(counted(tf.square(values - tf.reshape(mean, along))), axes)
        own = tf.stack([count, mean, squares])[tf.newaxis]
        gathered = tf.ensure_shape(exchange.gather(own, names["moments"]), [exchange.size, *own.shape[1:]])
        timer.waited([own], [gathered])
        counts, means, deviations = tf.unstack(gathered, axis=1)
        total = tf.reduce_sum(counts, 0)
        mean = tf.math.divide_no_nan(tf.reduce_sum(counts * means, 0), total)
        between = tf.reduce_sum(counts * tf.square(means - mean), 0)
        variance = tf.math.divide_no_nan(tf.reduce_sum(deviations, 0) + between, total)

        def gradient(d_mean: tf.Tensor, d_variance: tf.Tensor) -> tf.Tensor:
            mine = exchange.by_share(tf.stack([d_mean, d_variance]))
            theirs = exchange.sum(mine, names["gradients"])
            timer.waited([mine], [theirs])
            of_mean, of_variance = (
                tf.reshape(tf.math.divide_no_nan(each, total), along) for each in tf.unstack(theirs)
            )
            d_values = of_mean + 2 * of_variance * (values - tf.reshape(mean, along))
            return counted(exchange.from_share(d_values))

        return (mean, variance), gradient

    mean, variance = moments(inputs)
    return mean, variance


class BatchStatistics:
    """The layers of a model whose batch statistics are taken over all ranks."""

    def __init__(self, model: Any, size: int, rank: int, timer: StepTimer) -> None:
        """Take over, in place, every layer of the model that asks for it.

        Raises UserError where a layer asks for it that computes its moments itself.
        """
        exchange = self._exchange = Exchange(size, rank, bf16=False, prefix="batch_statistics")
        self._size, self._model, self._timer = size, model, timer
        self.layers = [layer for layer in all_layers(model) if getattr(layer, "synchronized", False) is True]

        def moments(inputs: Any, mask: Any, axes: Sequence[int]) -> tuple[Any, Any]:
            weights = self._counting(inputs)
            if mask is not None:  # of positions: [images, ...] without the channels
                of_mask = tf.broadcast_to(tf.expand_dims(tf.cast(mask, inputs.dtype), -1), tf.shape(inputs))
                weights = of_mask if weights is None else weights * of_mask
            return global_moments(inputs, weights, axes, exchange, timer)

        for layer in self.layers:
            restore_moments(layer)  # of an earlier strategy of this model
            if has_own_moments(layer):
                raise UserError(
                    f"layer {layer.name} ({type(layer).__name__}) asks for synchronized=True, and only the statistics "
                    "of keras.layers.BatchNormalization can be taken over all ranks: use that layer, or leave out "
                    "synchronized=True to let each rank normalise its own images"
                )
            replace_moments(layer, moments)

    def _counting(self, inputs: tf.Tensor) -> tf.Tensor | None:
        """1 for each value where this rank's rows count, else 0; None where all ranks' do."""
        share = self._exchange.share
        return None if share is None else tf.fill(tf.shape(inputs), tf.cast(share > 0, inputs.dtype))

    @contextmanager
    def in_calls(self, share: tf.Tensor | None = None) -> Iterator[None]:
        """While a training step calls the model: keras.ops.moments(synchronized=True) of a layer of the user's, too.

        share: of this rank's loss in the mean over ranks (`Exchange.share`), 0 where none of its rows count.
        """

        def moments(inputs: Any, axes: Any, keepdims: bool) -> tuple[Any, Any]:
            axes = [axis % inputs.shape.rank for axis in ([axes] if isinstance(axes, int) else axes)]
            found = global_moments(inputs, self._counting(inputs), axes, self._exchange, self._timer)
            if not keepdims:
                return found
            along = [1 if axis in axes else size for axis, size in enumerate(inputs.shape)]
            return tf.reshape(found[0], along), tf.reshape(found[1], along)

        self._exchange.share = share
        try:
            with synchronized_moments(moments):
                yield
        finally:
            self._exchange.share = None

    @property
    def notes(self) -> list[str]:
        """For the log."""
        if not self.layers:
            return []
        return [f"batch statistics of {len(self.layers)} layer(s) over {self._size} ranks"]

    def communication_volume(self) -> list[CommunicationVolume] | None:
        """What each rank sends for them in a step; None where one is not used once, or nobody knows how often."""
        entries, in_use = [], nodes_in_use(self._model)
        for layer in filter(lambda layer: layer.trainable, self.layers):
            if sum(id(node) in in_use for node in nodes_into(layer)) != 1:
                return None
            channels = int(layer.moving_mean.shape[0])
            entries.append(exchange("allgather", [3 * channels * self._size], self._size))
            entries.append(allreduce([2 * channels], self._size))
        return entries
