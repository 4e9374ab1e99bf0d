"""The losses that a model is compiled with, and how Keras reduces them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops
from keras.src.losses import loss as loss_base


def compiled_loss(model: Any, labels: Any, outputs: Any) -> list[tuple[Any, float | None]]:
    """The keras.Loss objects that a compiled model is trained by, with their weights; empty where it has none.

    labels, outputs: of a few images, for a loss that Keras chooses by their shapes. Raises what Keras makes of a loss
    that fits neither.
    """
    found = model._compile_loss
    if found is None:
        return []
    if not found.built:
        found.build(labels, outputs)
    return [(each.loss, each.loss_weights) for each in found._flat_losses]


def compiled_settings(model: Any) -> dict[str, Any]:
    """The arguments of `compile` by their names, as far as Keras keeps them."""
    config = getattr(model, "_compile_config", None)
    return dict(config.config) if config is not None else {}


def wrapped_function(loss: Any) -> tuple[Any, dict[str, Any]] | None:
    """The function that a loss of Keras' calls, with its further arguments; None of a loss with a `call` of its own."""
    wrapper = keras.losses.MeanSquaredError.__mro__[1]
    if not isinstance(loss, wrapper) or type(loss).call is not wrapper.call:
        return None
    return loss.fn, dict(loss._fn_kwargs)


def is_masked(values: Any) -> bool:
    """Whether a tensor has a mask, by which keras.Loss weighs it."""
    return getattr(values, "_keras_mask", None) is not None


def calls_as_keras(loss: Any) -> bool:
    """Whether calling a loss is what keras.Loss makes of its `call`: a value for each image, reduced."""
    return type(loss).__call__ is keras.Loss.__call__


@dataclass(frozen=True)
class LossTerms:
    """What a loss is reduced from, as keras.src.losses.loss.reduce_weighted_values is given it."""

    values: Any
    """Of each row, or of more axes; a scalar where the loss has reduced it itself."""
    sample_weight: Any
    mask: Any
    reduction: str | None
    dtype: Any

    @property
    def divisor(self) -> Any:
        """What a mean divides the sum by where that depends on more than the number of values; None elsewhere."""
        if self.reduction in (None, "none", "sum"):
            return None
        dtype = ops.convert_to_tensor(self.values, dtype=self.dtype).dtype
        if self.reduction == "mean_with_sample_weight":
            weights = None if self.sample_weight is None else ops.convert_to_tensor(self.sample_weight, dtype=dtype)
            found = loss_base.apply_mask(weights, self.mask, dtype=dtype, reduction=self.reduction)
            return None if found is None else ops.sum(ops.cast(found, dtype))
        return None if self.mask is None else ops.sum(ops.cast(self.mask, dtype))


@contextmanager
def reduced_losses(scaled: Callable[[Any, Any, LossTerms], Any]) -> Iterator[None]:
    """Have every keras.losses.Loss that is called for a while ask this function for its value, given the loss object
    (None of a reduction outside of one), the value as Keras reduces it, and what it was reduced from."""
    call, reduce = loss_base.Loss.__call__, loss_base.reduce_weighted_values
    calls: list[Any] = []

    def called(self: Any, *args: Any, **options: Any) -> Any:
        calls.append(self)
        try:
            return call(self, *args, **options)
        finally:
            calls.pop()

    def reduced(
        values: Any,
        sample_weight: Any = None,
        mask: Any = None,
        reduction: Any = "sum_over_batch_size",
        dtype: Any = None,
    ) -> Any:
        value = reduce(values, sample_weight=sample_weight, mask=mask, reduction=reduction, dtype=dtype)
        return scaled(calls[-1] if calls else None, value, LossTerms(values, sample_weight, mask, reduction, dtype))

    loss_base.Loss.__call__, loss_base.reduce_weighted_values = called, reduced
    try:
        yield
    finally:
        loss_base.Loss.__call__, loss_base.reduce_weighted_values = call, reduce


def losses_of_outputs(model: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """The losses that a model was compiled with, each with its path in the outputs; empty before they were called."""
    compiled = model._compile_loss
    flat = None if compiled is None else compiled._flat_losses
    return [] if flat is None else [(each.path, each.loss) for each in flat]
