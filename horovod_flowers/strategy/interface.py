"""What a strategy has to offer."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import tensorflow as tf

from horovod_flowers.runlog.records import CommunicationVolume
from horovod_flowers.strategy.layer_collectives import Exchange
from horovod_flowers.strategy.layout import Groups, Part
from horovod_flowers.strategy.step_timer import StepTimer


class Strategy(Protocol):
    """One way to divide the work of a step. Every rank calls every method in the same order."""

    name: str
    trains_one_model: bool
    """Whether all ranks train one model, so that evaluating and saving it means something."""
    groups: Groups
    model_variables: list[Any]
    """tf.Variables with respect to which each rank differentiates its loss, in the model's order."""
    optimizer_variables: list[Any]
    """Keras variables that this rank's optimizer updates, one for each that is trained, in the model's order."""
    parts: list[Part]
    """What each of `updated` is of the whole."""
    gathers_weights: bool
    """Whether updated weights have to travel before the model can read them."""
    timer: StepTimer
    """Times in which this rank could do nothing but wait for others, inside the forward and backward pass."""
    combined_early: tuple[int, ...]
    """Positions of gradients that are those of the global batch already when the backward pass yields them."""
    exchange: Exchange | None
    """Of the layers that are taken over."""
    left_out: frozenset[int]
    """Positions of gradients that `reduce_gradients` returns as they are: whoever calls it combines them."""
    notes: list[str]
    """What was done to which layers, for the log."""

    @property
    def shared_early(self) -> tuple[int, ...]:
        """Positions of gradients in which each rank's loss has counted by its share already (`Exchange.share`)."""
        ...

    def attach(self, model: Any) -> None:
        """Prepare a built model, in place, before its optimizer is built."""
        ...

    def communication_volume(self, images: int) -> list[CommunicationVolume] | None:
        """What each rank sends in a step of `images` images a rank with one update, once it has adopted the model.

        None where that is not known: the model does not tell what comes into a large Dense layer.
        """
        ...

    def calling_the_model(self, share: tf.Tensor | None = None) -> AbstractContextManager[None]:
        """What a training step, every rank's, calls the model in. share: 0 where none of this rank's rows count; None:
        all do."""
        ...

    def reduce_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Turn the gradients of this rank's part into those of the global batch, one for each of `updated`.

        Each rank's loss is scaled so that the *mean* over ranks is the gradient of the global batch's mean loss.
        Called inside tf.function.
        """
        ...

    needs_norms: bool
    """Whether a step asks for `squared_norms`: set before `communication_volume` is asked."""

    def squared_norms(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """fp32 [gradients]: of each whole gradient, given what `reduce_gradients` returned. Every rank calls it, inside
        tf.function, and gets the same."""
        ...

    def gather_weights(self) -> None:
        """Bring updated weights to where the model reads them. Every rank calls it, inside tf.function or not."""
        ...
