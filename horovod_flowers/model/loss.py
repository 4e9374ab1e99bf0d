"""What training makes small: a loss for each image, from labels and logits, whatever loss was asked for.

A mean over a global batch is added up from the images of all ranks, so that a loss has to be one for each image. That a
loss of a user's is, and how it takes labels, is tried out before training. What a model gave before it was made one of
logits (outputs.Ending) is computed back for a loss that looks at it.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np

from horovod_flowers.config.losses import CROSSENTROPY, LOSSES, Labels, NamedLoss
from horovod_flowers.model.keras_internals import calls_as_keras, is_masked, wrapped_function
from horovod_flowers.model.outputs import Ending, as_given
from horovod_flowers.runtime.errors import UserError, reason

TOLERANCE = 1e-4
"""Relative, of losses in fp32."""
OF_CLASSES = (-1, 1, (-1,), (1,), [-1], [1])
"""How the axis of the classes may be named."""
TRIED_CLASSES = 4
"""At most so many of a model's classes are tried out, each against each."""


class ImageLoss(Protocol):
    """A loss for each image."""

    added_up: bool
    """Whether training makes the sum over the images of a batch small, instead of their mean."""

    def of_images(self, labels: Any, logits: Any) -> Any:
        """fp32 [batch] of int labels [batch] and fp32 logits [batch, classes]. Called inside tf.function."""
        ...

    def evaluated(self) -> "ImageLoss":
        """What validation measures."""
        ...


class CrossEntropy:
    """Of the softmax of logits, with labels smoothed (Szegedy et al. 2016, section 7, uniform over classes)."""

    added_up = False

    def __init__(self, label_smoothing: float = 0.0) -> None:
        """label_smoothing: share of each label that is spread over all classes."""
        self._label_smoothing = label_smoothing

    def of_images(self, labels: Any, logits: Any) -> Any:
        """As `ImageLoss.of_images`."""
        import tensorflow as tf

        if not self._label_smoothing:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        classes = logits.shape[-1]
        smoothed = tf.one_hot(labels, classes) * (1 - self._label_smoothing) + self._label_smoothing / classes
        return tf.nn.softmax_cross_entropy_with_logits(smoothed, logits)

    def evaluated(self) -> "CrossEntropy":
        """Without smoothing."""
        return CrossEntropy()


def labels_as(form: Labels, ending: Ending, labels: Any, classes: int) -> Any:
    """int labels [batch] as a loss takes them of a model that ends so, and the metrics beside it."""
    import tensorflow as tf

    if ending in ("logit unit", "sigmoid unit"):
        return tf.cast(labels[:, None], tf.float32)
    return labels if form == "integers" else tf.one_hot(labels, classes)


class KerasLoss:
    """A keras.Loss."""

    def __init__(
        self,
        loss: Any,
        ending: Ending,
        labels: Labels,
        *,
        takes: Literal["logits", "probabilities", "outputs"] = "outputs",
        weight: float | None = None,
        one_by_one: bool = False,
    ) -> None:
        """labels: as the loss takes them; takes: what it is given of the model; weight: what it counts, as in
        `compile(loss_weights=)`; one_by_one: of a loss that gives one number for a batch, its mean or sum over images.
        """
        self._loss, self.ending, self.labels, self._weight = loss, ending, labels, weight
        self._takes, self.one_by_one, self._classes = takes, one_by_one, 0
        self.added_up = loss.reduction == "sum"

    def of_images(self, labels: Any, logits: Any) -> Any:
        """As `ImageLoss.of_images`."""
        import tensorflow as tf

        truth, given = self._shown(labels, logits)
        if self.one_by_one:
            losses = tf.vectorized_map(lambda one: self._called(one[0][None], one[1][None]), (truth, given))
        else:
            losses = self._called(truth, given)
        losses = tf.cast(losses, tf.float32)
        losses = tf.reduce_mean(tf.reshape(losses, [tf.shape(labels)[0], -1]), axis=1)
        return losses if self._weight is None else losses * self._weight

    def call(self, labels: Any, logits: Any) -> Any:
        """What the loss itself makes of a batch."""
        return self._called(*self._shown(labels, logits))

    def shape_of_call(self, labels: Any, logits: Any) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.call(labels, logits).shape)

    def _shown(self, labels: Any, logits: Any) -> tuple[Any, Any]:
        """Labels, and the model's outputs, or logits or probabilities in their place."""
        import tensorflow as tf

        unit = self.ending in ("logit unit", "sigmoid unit")
        shown = self.ending
        if self._takes == "logits":
            shown = "logit unit" if unit else "logits"
        if self._takes == "probabilities":
            shown = "sigmoid unit" if unit else "softmax"
        truth = labels_as(self.labels, self.ending, labels, logits.shape[-1])
        return tf.cast(truth, tf.float32), as_given(shown, logits)

    def _called(self, truth: Any, given: Any) -> Any:
        return self._loss.call(truth, given) if calls_as_keras(self._loss) else self._loss(truth, given)

    def evaluated(self) -> "KerasLoss":
        """The same, as Keras does."""
        return self

    @property
    def notes(self) -> list[str]:
        """Where the outputs that it trains are no probabilities, and where the log has another number than Keras."""
        name, found = _named(self._loss), list[str]()
        if self._takes == "outputs" and self.ending == "logits":
            found.append(f"loss {name}: evaluate and predict take the softmax of the outputs for probabilities")
        if self.added_up:
            found.append(f"loss {name} adds up the images of a batch: the log has its mean for each image")
        return found


def loss_by_name(
    name: str,
    options: Mapping[str, Any] | None,
    label_smoothing: float,
    ending: Ending,
    classes: int,
    model_name: str,
) -> tuple[ImageLoss, list[str]]:
    """The loss of --loss for a model that ends so, and notes. Raises UserError where the two do not go together."""
    import keras

    if name == CROSSENTROPY:
        return CrossEntropy(label_smoothing), []
    named = LOSSES[name]
    arguments = dict(options or {})
    if label_smoothing:
        arguments["label_smoothing"] = label_smoothing
    if named.axis is not None:
        arguments["axis"] = named.axis
    unit = ending in ("logit unit", "sigmoid unit")
    if unit and (named.takes == "softmax" or named.labels == "integers" or named.keras_class == "CategoricalHinge"):
        raise UserError(
            f"loss {name} compares the outputs of classes, and model {model_name} has one unit for two classes: end it "
            f"in Dense(classes), or choose --loss {CROSSENTROPY} or binary_focal_crossentropy"
        )
    takes: Literal["logits", "probabilities", "outputs"] = "outputs"
    notes = []
    if named.takes == "softmax" or (named.takes == "sigmoid" and (unit or ending == "logits")):
        takes, arguments["from_logits"] = "logits", True
    elif named.takes in ("sigmoid", "probabilities"):
        takes = "probabilities"
        if ending == "logits" and not unit:
            notes.append(f"loss {name}: of the softmax of the outputs of model {model_name}")
    loss = KerasLoss(getattr(keras.losses, named.keras_class)(**arguments), ending, named.labels, takes=takes)
    if not _prefers_right(loss, classes):
        raise UserError(_misses(f"loss {name} is given, and model {model_name} gives {_GIVES[ending]}"))
    return loss, [*notes, *loss.notes]


_GIVES: dict[Ending, str] = {
    "logits": "logits",
    "softmax": "probabilities by softmax",
    "logit unit": "one logit for two classes",
    "sigmoid unit": "one probability for two classes",
}


def _misses(told: str) -> str:
    """What is said of a loss by which the right class is not to be learnt."""
    return (
        f"{told}, of which this loss is not lowest where the right class is predicted: give --loss {CROSSENTROPY}, or "
        "end the model in Dense(classes)"
    )


def loss_of_model(
    found: list[tuple[Any, float | None]], ending: Ending, classes: int, label_smoothing: float, model_name: str
) -> KerasLoss:
    """The loss that a compiled model brings, as `compiled_loss` found it; `label_smoothing`: where options ask for it.

    Raises UserError where it is not one for each image, takes logits where the model gives probabilities or the other
    way round, or does not tell the right class from others.
    """
    of = f"model {model_name} is compiled with"
    if len(found) != 1:
        raise UserError(f"{of} {len(found)} losses, and it has one output: compile it with one loss, or give --loss")
    loss, weight = found[0]
    if loss.reduction in (None, "none"):
        raise UserError(f"{of} a loss of reduction {loss.reduction!r}: leave the reduction out, or give --loss")
    known = _known(loss)
    if known is not None:
        return _of_known(loss, known[0], known[1], weight, ending, classes, label_smoothing, model_name)
    if label_smoothing:
        raise UserError(
            f"label_smoothing is {label_smoothing}, and {of} the loss {_named(loss)}, which does not smooth labels: "
            "leave it out, or give --loss crossentropy"
        )
    return _tried(loss, weight, ending, classes, of)


def labels_of(found: list[tuple[Any, float | None]]) -> Labels:
    """How a compiled model's loss takes labels, where it is one of Keras' that says so; else integers."""
    known = _known(found[0][0]) if len(found) == 1 else None
    return {**LOSSES, **_CROSSENTROPIES}[known[0]].labels if known is not None else "integers"


def _named(loss: Any) -> str:
    return str(loss.name or type(loss).__name__)


def _known(loss: Any) -> tuple[str, dict[str, Any]] | None:
    """The name of the function of keras.losses that a loss calls, and its arguments; None of a loss of the user's."""
    import keras

    wrapped = wrapped_function(loss)
    if wrapped is None or not calls_as_keras(loss):
        return None
    function, arguments = wrapped
    name = getattr(function, "__name__", "")
    names = {*LOSSES, "categorical_crossentropy", "sparse_categorical_crossentropy"}
    return (name, arguments) if name in names and getattr(keras.losses, name, None) is function else None


_CROSSENTROPIES = {
    "categorical_crossentropy": NamedLoss("CategoricalCrossentropy", "one-hot", "softmax", smooths_labels=True),
    "sparse_categorical_crossentropy": NamedLoss("SparseCategoricalCrossentropy", "integers", "softmax"),
}


def _of_known(
    loss: Any,
    name: str,
    arguments: dict[str, Any],
    weight: float | None,
    ending: Ending,
    classes: int,
    label_smoothing: float,
    model_name: str,
) -> KerasLoss:
    """One of Keras' losses, which say what they take."""
    import keras

    named = {**LOSSES, **_CROSSENTROPIES}[name]
    unit = ending in ("logit unit", "sigmoid unit")
    gives = _GIVES[ending]
    refusal = f"model {model_name} is compiled with the loss {name}, "
    if unit and (named.takes == "softmax" or named.labels == "integers" or name == "categorical_hinge"):
        raise UserError(
            f"{refusal}which compares the outputs of classes, and gives {gives}: compile it with binary_crossentropy, "
            "end it in Dense(classes), or give --loss crossentropy"
        )
    probabilities = ending in ("softmax", "sigmoid unit")
    from_logits = bool(arguments.get("from_logits", False))
    if named.takes in ("softmax", "sigmoid") and from_logits == probabilities:
        told, other = ("from_logits=True", "logits") if from_logits else ("from_logits=False", "probabilities")
        raise UserError(
            f"{refusal}which is told {told} and takes {other}, and gives {gives}, which would train something else "
            f"without a word: compile it with from_logits={not from_logits}, or give --loss crossentropy"
        )
    if named.takes == "probabilities" and not probabilities:
        raise UserError(
            f"{refusal}which takes probabilities, and gives {gives}: end it in softmax, or give --loss {name}"
        )
    if arguments.get("ignore_class") is not None:
        raise UserError(
            f"{refusal}which leaves out class {arguments['ignore_class']}, so that it divides by other numbers of "
            "images on each rank: leave ignore_class out, and that class out of the photos"
        )
    changed = dict(arguments)
    if label_smoothing:
        if not named.smooths_labels:
            raise UserError(
                f"label_smoothing is {label_smoothing}, and {refusal}which does not smooth labels: leave it out, or "
                "give --loss crossentropy"
            )
        changed["label_smoothing"] = label_smoothing
    if name in ("dice", "tversky") and changed.get("axis") not in OF_CLASSES:
        raise UserError(
            f"{refusal}which compares the images of a batch with each other unless it has axis=-1, and each rank has "
            f"its own images only: compile it with {named.keras_class}(axis=-1), or give --loss {name}"
        )
    takes: Literal["logits", "outputs"] = "outputs"
    if named.takes == "softmax" or (named.takes == "sigmoid" and unit):
        takes, changed["from_logits"] = "logits", True  # the same, without probabilities that round to 0
    built = getattr(keras.losses, named.keras_class)(**changed, reduction=loss.reduction, name=loss.name)
    found = KerasLoss(built, ending, named.labels, takes=takes, weight=weight)
    if not _prefers_right(KerasLoss(built, ending, named.labels, takes=takes), classes):
        raise UserError(_misses(f"{refusal}and gives {gives}"))
    return found


def _tried(loss: Any, weight: float | None, ending: Ending, classes: int, of: str) -> KerasLoss:
    """A loss of the user's, which is tried out: with labels of either kind, as a loss for each image or for a batch."""
    problems = []
    kinds: tuple[Labels, ...] = ("integers", "one-hot")
    for labels in kinds:
        for one_by_one in (False, True):
            tried = KerasLoss(loss, ending, labels, one_by_one=one_by_one)
            try:
                problem = _problem(tried, classes)
                if problem is None:
                    found = KerasLoss(loss, ending, labels, weight=weight, one_by_one=one_by_one)
                    found.added_up = _adds_up(tried, classes) if one_by_one else tried.added_up
                    return found
            except Exception as error:  # the user's code, on labels that it is not for
                problem = reason(error)
            problems.append(f"{labels}: {problem}")
    raise UserError(
        f"{of} the loss {_named(loss)}, which gives no loss for each image from labels [batch] or one-hot labels "
        f"[batch, {classes}] and the model's outputs ({'; '.join(problems)}): write one that compares no images with "
        "each other, or give --loss"
    )


def _problem(tried: KerasLoss, classes: int) -> str | None:
    """Why it does not serve as a loss for each image; None where it does."""
    labels, logits = _examples(classes)
    shape = tried.shape_of_call(labels, logits)
    if tried.one_by_one != (shape == ()):
        return f"its result has the shape {shape} for {len(labels)} images"
    if not tried.one_by_one and shape[0] != len(labels):
        return f"its result has the shape {shape} for {len(labels)} images"
    if is_masked(tried.call(labels, logits)):
        return "it masks some images, so that it divides by other numbers of them on each rank"
    whole = _numbers(tried.of_images(labels, logits))
    if tried.one_by_one:
        batch = float(_numbers(tried.call(labels, logits)))
        alike = _close(batch, whole.mean()) or _close(batch, whole.sum())
    else:
        halves = [slice(len(labels) // 2), slice(len(labels) // 2, None)]
        parts = [_numbers(tried.of_images(labels[half], logits[half])) for half in halves]
        alike = np.allclose(np.concatenate(parts), whole, rtol=TOLERANCE, atol=1e-6)
    if not np.isfinite(whole).all():
        return "it is not a finite number"
    if not alike:
        return "it compares the images of a batch with each other"
    return None if _prefers_right(tried, classes) else "it is not lowest where the right class is predicted"


def _adds_up(tried: KerasLoss, classes: int) -> bool:
    """Whether the one number of a batch is the sum of those of its images."""
    labels, logits = _examples(classes)
    batch, each = float(_numbers(tried.call(labels, logits))), _numbers(tried.of_images(labels, logits))
    return not _close(batch, each.mean())


def _examples(classes: int) -> tuple[np.ndarray, Any]:
    """int [6] and fp32 [6, classes]: labels and logits, the same every time."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    return random.integers(0, classes, 6).astype(np.int32), tf.constant(random.normal(size=(6, classes)), tf.float32)


def _close(one: float, other: float) -> bool:
    return bool(abs(one - other) <= TOLERANCE * max(abs(one), abs(other), 1e-6))


def _prefers_right(tried: KerasLoss, classes: int) -> bool:
    """Whether, of each class, the loss is lowest where that class is predicted."""
    import tensorflow as tf

    few = min(classes, TRIED_CLASSES)
    pairs = [(label, predicted) for label in range(few) for predicted in range(few)]
    logits = 4.0 * np.eye(classes, dtype=np.float32)[[predicted for _, predicted in pairs]]
    labels = np.array([label for label, _ in pairs], np.int32)
    losses = _numbers(tried.of_images(labels, tf.constant(logits))).reshape(few, few)
    return all(losses[label, label] < np.delete(losses[label], label).min() for label in range(few))


def _numbers(values: Any) -> np.ndarray:
    from keras import ops

    return np.asarray(ops.convert_to_numpy(values))
