"""Penalties that a model adds to its loss: what each rank has to add so that all ranks apply what one rank applies.

Keras collects three kinds in `model.losses`. A penalty on weights is the same on every rank. An activity regularizer
sees the activations of a rank's images, and Keras 3 (unlike Keras 2) leaves its result as it is: L1 and L2 are sums
over the images of a batch, of which the mean over N ranks would be 1/N. What a layer adds itself (`add_loss` in its
call) may be anything. The last two are tried out: of two batches in one, a sum is the sum of what each gives, a mean
their mean. What compares images with each other, such as a variance, is neither.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from horovod_flowers.model.keras_internals import all_layers, forget_losses
from horovod_flowers.runtime.errors import UserError

SUMS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
"""Regularizers that are known to be sums over elements, to which zeros add nothing."""
TRIED_SHAPES = ((8,), (4, 4, 8), (8, 8))
"""Of one image's activations, for a regularizer of the user's on a layer that does not tell its own."""

TRIED_IMAGES = 3
"""In each of two batches: of a single one a variance would be 0."""
TRIED_PIXELS = 64
"""Height and width of an image for a model that takes any."""
TOLERANCE = 1e-4
"""Relative, of sums in fp32."""

Kind = Literal["sum", "mean"]


class ActivityPenalty:
    """In place of a layer's activity regularizer: counts the images that count, and scales for the mean over ranks."""

    def __init__(self, regularizer: Any, kind: Kind | None, penalties: "Penalties") -> None:
        self.regularizer, self._kind, self._penalties = regularizer, kind, penalties

    def __call__(self, outputs: tf.Tensor) -> tf.Tensor:
        """Of the layer's outputs, [images, ...]: a scalar."""
        penalties = self._penalties
        if penalties.weights is None or self._kind is None:
            return self.regularizer(outputs)
        rows, images = outputs.shape[0] if outputs.shape.rank else None, penalties.weights.shape[0]
        counts = None
        if rows is not None and images is not None and rows % images == 0:
            counts = tf.repeat(penalties.weights, rows // images)  # images may be flattened into rows
        if self._kind == "sum":
            value = tf.cast(self.regularizer(self._counted(outputs, counts)), tf.float32) * penalties.size
        else:
            value = tf.cast(self.regularizer(self._counted(outputs, counts)), tf.float32)
            value = tf.math.multiply_no_nan(value * penalties.shares[0], tf.reduce_sum(penalties.weights))
        penalties.of_activities.append(value)
        return value

    def _counted(self, outputs: tf.Tensor, counts: tf.Tensor | None) -> tf.Tensor:
        """Without the images that only fill the batch up."""
        if counts is None:
            return outputs
        if type(self.regularizer) in SUMS:
            counts = tf.reshape(counts, [-1] + [1] * (outputs.shape.rank - 1))
            return outputs * tf.cast(counts, outputs.dtype)
        return tf.boolean_mask(outputs, counts > 0)


class Penalties:
    """Of one model in training. In place of its activity regularizers it has an `ActivityPenalty` each."""

    weights: tf.Tensor | None = None
    """Of the images of the step that is being traced, 1 or 0; None outside of one."""
    shares: tf.Tensor
    """As in `TrainingStep.local_gradients`."""

    def __init__(
        self,
        model: Any,
        size: int,
        agree: Callable[[Any], Any] = lambda found: found,
        image_size: int | None = None,
    ) -> None:
        """Take over the activity regularizers of a built model that `size` ranks train, before a strategy divides it.

        agree: gives every rank what rank 0 has found, whose weights may be others than theirs still. image_size: height
        and width in pixels, for a model that does not tell them (a subclassed one).
        Raises UserError where there are several ranks and one compares images with each other, of which each rank has
        its own only.
        """
        self._model, self.size = model, size
        self.of_activities: list[tf.Tensor] = []
        self._adding = [layer.name for layer in all_layers(model) if adds_losses(layer)] if size > 1 else []
        self._kinds: list[Kind | None] = agree(kinds_of_losses(model, image_size)) if self._adding else []
        for layer in all_layers(model):
            regularizer = getattr(layer, "activity_regularizer", None)
            if isinstance(regularizer, ActivityPenalty):  # of another training step of this model
                regularizer = regularizer.regularizer
            if regularizer is None:
                continue
            kind = kind_of(regularizer, layer)
            if kind is None and size > 1:
                raise UserError(
                    f"activity regularizer {type(regularizer).__name__} of layer {layer.name} is neither a sum over "
                    "images nor a mean: it sees the images of one rank only and cannot be what one rank would apply; "
                    "use L1 or L2, or train on one rank"
                )
            layer.activity_regularizer = ActivityPenalty(regularizer, kind, self)

    @property
    def notes(self) -> list[str]:
        """For the log."""
        if not self._adding or (self._kinds and None not in self._kinds):
            return []
        return [f"add_loss of {', '.join(self._adding)} averaged over ranks"]

    @contextmanager
    def counting(self, weights: tf.Tensor, shares: tf.Tensor) -> Iterator[None]:
        """While the model is called in a training step, on images of these weights."""
        # Every image that counts is one, however much it counts in the loss: as sample_weight does in Keras.
        weights = tf.sign(weights)
        self.weights, self.shares, self.of_activities = weights, shares, []
        try:
            yield
        finally:
            self.weights, self.of_activities = None, []

    def of_step(self, shares: tf.Tensor) -> list[tf.Tensor]:
        """What this rank adds to its loss, after the model was called: scalars whose mean over ranks counts.

        Over the steps of one update sums over images add up, as over one larger batch; others are averaged.
        """
        penalties = list(self._model.losses)
        kinds = self._kinds if len(self._kinds) == len(penalties) else [None] * len(penalties)
        found = []
        for penalty, kind in zip(penalties, kinds, strict=True):
            if any(penalty is activity for activity in self.of_activities):
                found.append(penalty)
            else:
                found.append(tf.cast(penalty, tf.float32) * (self.size if kind == "sum" else shares[1]))
        return found


def adds_losses(layer: Any) -> bool:
    """Whether the code of a layer's class, as far as it is not Keras' own, names `add_loss`."""
    for kind in type(layer).__mro__:
        if kind.__module__.partition(".")[0] == "keras":
            continue
        codes = [code for each in vars(kind).values() if (code := getattr(each, "__code__", None)) is not None]
        while codes:
            code = codes.pop()
            if "add_loss" in code.co_names:
                return True
            codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return False


def kind_of(regularizer: Any, layer: Any) -> Kind | None:
    """Whether an activity regularizer adds up over the images of a batch or averages them; None where it does neither.

    Tried out on random activations, where it is not one of Keras'.
    """
    if type(regularizer) in SUMS:
        return "sum"
    shapes = _output_shapes(layer)
    if shapes:
        kinds = {_kind_on(regularizer, tuple(size or 3 for size in shape[1:])) for shape in shapes}
    else:
        kinds = {_kind_on(regularizer, shape) for shape in TRIED_SHAPES} - {None}
    return kinds.pop() if len(kinds) == 1 else None


def _output_shapes(layer: Any) -> list[tuple[int | None, ...]]:
    try:
        return [tuple(tensor.shape) for tensor in keras.tree.flatten(layer.output)]
    except (AttributeError, ValueError):  # used several times, or in a subclassed model
        return []


def _kind_on(regularizer: Any, shape: tuple[int, ...]) -> Kind | None:
    first, second = (tf.random.stateless_normal([TRIED_IMAGES, *shape], seed=[0, seed]) for seed in (0, 1))
    try:
        return _kind(*(float(regularizer(values)) for values in (first, second, tf.concat([first, second], 0))))
    except Exception:  # the user's code, on a shape that it is not for
        return None


def _kind(one: float, other: float, both: float) -> Kind | None:
    """Of a penalty of one batch, of another of as many images, and of both in one."""
    if both == 0:  # nothing can be told from it
        return None
    if abs(both - (one + other) / 2) <= TOLERANCE * abs(both):
        return "mean"
    return "sum" if abs(both - one - other) <= TOLERANCE * abs(both) else None


def _images_unlike(shape: list[int], seed: int) -> tf.Tensor:
    """Noise of a brightness and colour of each image's own: of even noise the means of all images would be alike."""
    noise = tf.random.stateless_uniform(shape, seed=[0, seed], maxval=255.0)
    return noise * tf.random.stateless_uniform([shape[0], 1, 1, shape[3]], seed=[0, seed + 1])


def kinds_of_losses(model: Any, image_size: int | None = None) -> list[Kind | None]:
    """Of each of a model's losses, in the order in which it has them; empty where the model cannot be tried out.

    Called on random images. image_size: of a model that does not tell the shape of its images.
    """
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4:  # a subclassed model does not tell
        shape = (None, image_size, image_size, 3)
        if image_size is None:
            return []
    pixels = [TRIED_IMAGES, *(size or TRIED_PIXELS for size in shape[1:])]
    return kinds_of_losses_on(model, *(_images_unlike(pixels, seed) for seed in (0, 2)))[0]


def kinds_of_losses_on(model: Any, first: Any, second: Any) -> tuple[list[Kind | None], list[Kind | None]]:
    """Of each loss that a model has after a call in training, and after one in evaluation; empty where the model cannot
    be tried out.

    first, second: inputs of the model, tensors or structures of them, of equally many rows that are unlike each other.
    Called without a trace in the model: with its activity regularizers as they are.

    Twice the same rows show it in training, whatever batch normalisation makes of them; other rows have to agree,
    as in evaluation, or, where other losses are added then, in training.
    """

    def together(one: Any, other: Any) -> Any:
        return keras.tree.map_structure(lambda a, b: tf.concat([a, b], 0), one, other)

    both, same = together(first, second), together(first, first)
    before = [np.array(variable) for variable in model.variables]
    # Unlike a call, stateless_call hands it on to a model that does not take it.
    takes_training = "training" in inspect.signature(model.call).parameters
    trained = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]
    try:

        def losses(rows: Any, training: bool) -> list[float]:
            options = {"training": training} if takes_training else {}
            forget_losses(model)
            found = model.stateless_call(trained, others, rows, return_losses=True, **options)[2]
            return [float(tf.reduce_sum(loss)) for loss in found]

        def agreed(training: bool) -> list[Kind | None]:
            tried = (losses(rows, training) for rows in (first, second, both))
            return [_kind(*each) for each in zip(*tried, strict=True)]

        once, in_evaluation = losses(first, True), agreed(False)
        kinds = [_kind(loss, loss, twice) for loss, twice in zip(once, losses(same, True), strict=True)]
        other = in_evaluation if len(in_evaluation) == len(once) else agreed(True)
        in_training = [kind if kind == found else None for kind, found in zip(kinds, other, strict=True)]
        return in_training, in_training if len(in_evaluation) == len(once) else in_evaluation
    except Exception:  # the user's code: nothing is known of it
        return [], []
    finally:
        for variable, value in zip(model.variables, before, strict=True):
            if not np.array_equal(variable, value):  # assigned behind Keras' back
                variable.assign(value)


def states_after_call(model: Any, rows: Any) -> list[np.ndarray]:
    """What a model's non-trainable variables are after a call in training, which leaves no trace in the model."""
    options = {"training": True} if "training" in inspect.signature(model.call).parameters else {}
    before = [np.array(variable) for variable in model.variables]
    trained = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]
    try:
        return [np.array(value) for value in model.stateless_call(trained, others, rows, **options)[1]]
    finally:
        for variable, value in zip(model.variables, before, strict=True):
            if not np.array_equal(variable, value):  # assigned behind Keras' back
                variable.assign(value)
