"""Keras' losses that can be asked for by name: those of one output and one class a photo.

Declared here since a mistake is told before Keras is imported; tests/single/test_losses.py holds them against Keras.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from horovod_flowers.config.keras_arguments import check_arguments
from horovod_flowers.runtime.errors import UserError

CROSSENTROPY = "crossentropy"
"""Of the softmax of a model's logits: what is trained where nothing else is asked for."""

Labels = Literal["integers", "one-hot"]
"""As a loss takes the classes of a batch: int [batch], or float [batch, classes]."""


@dataclass(frozen=True)
class NamedLoss:
    """One of Keras' losses, by the name of its function."""

    keras_class: str
    labels: Labels
    takes: Literal["softmax", "sigmoid", "probabilities", "outputs"]
    """softmax, sigmoid: logits, or probabilities by that function (`from_logits`); probabilities: these alone;
    outputs: whatever the model gives."""
    smooths_labels: bool = False
    arguments: Mapping[str, type] = field(default_factory=dict)
    """What can be set of it, beside `from_logits` and `label_smoothing`."""
    axis: int | None = None
    """For losses that Keras takes over the whole batch unless it is told the axis of the classes."""


_FOCAL = {"alpha": float, "gamma": float}
LOSSES: dict[str, NamedLoss] = {
    "categorical_focal_crossentropy": NamedLoss("CategoricalFocalCrossentropy", "one-hot", "softmax", True, _FOCAL),
    "binary_crossentropy": NamedLoss("BinaryCrossentropy", "one-hot", "sigmoid", True),
    "binary_focal_crossentropy": NamedLoss(
        "BinaryFocalCrossentropy", "one-hot", "sigmoid", True, {**_FOCAL, "apply_class_balancing": bool}
    ),
    "categorical_generalized_cross_entropy": NamedLoss(
        "CategoricalGeneralizedCrossEntropy", "integers", "probabilities", arguments={"q": float}
    ),
    "kl_divergence": NamedLoss("KLDivergence", "one-hot", "probabilities"),
    "poisson": NamedLoss("Poisson", "one-hot", "probabilities"),
    "dice": NamedLoss("Dice", "one-hot", "probabilities", axis=-1),
    "tversky": NamedLoss("Tversky", "one-hot", "probabilities", arguments={"alpha": float, "beta": float}, axis=-1),
    "mean_squared_error": NamedLoss("MeanSquaredError", "one-hot", "outputs"),
    "mean_absolute_error": NamedLoss("MeanAbsoluteError", "one-hot", "outputs"),
    "mean_absolute_percentage_error": NamedLoss("MeanAbsolutePercentageError", "one-hot", "outputs"),
    "mean_squared_logarithmic_error": NamedLoss("MeanSquaredLogarithmicError", "one-hot", "probabilities"),
    "huber": NamedLoss("Huber", "one-hot", "outputs", arguments={"delta": float}),
    "log_cosh": NamedLoss("LogCosh", "one-hot", "outputs"),
    "hinge": NamedLoss("Hinge", "one-hot", "outputs"),
    "squared_hinge": NamedLoss("SquaredHinge", "one-hot", "outputs"),
    "categorical_hinge": NamedLoss("CategoricalHinge", "one-hot", "outputs"),
    "cosine_similarity": NamedLoss("CosineSimilarity", "one-hot", "outputs"),
}

_OTHER_NAMES = {
    **dict.fromkeys(("ce", "categorical_crossentropy", "sparse_categorical_crossentropy"), CROSSENTROPY),
    **{"bce": "binary_crossentropy", "kld": "kl_divergence", "mse": "mean_squared_error"},
    **{"mae": "mean_absolute_error", "mape": "mean_absolute_percentage_error"},
    **{"msle": "mean_squared_logarithmic_error"},
}
_UNFIT = {
    "ctc": "which compares sequences, and a photo has one class",
    "circle": "which compares the images of a batch with each other, and each rank has its own only",
}


def _plain(name: str) -> str:
    """Without what tells keras.losses.KLDivergence from kl_divergence."""
    return name.removeprefix("keras.").removeprefix("losses.").replace("_", "").lower()


_KNOWN = {_plain(name): name for name in (CROSSENTROPY, *LOSSES, *_OTHER_NAMES)}


def loss_called(name: str) -> str:
    """The one name of a loss by whatever name Keras has for it: mse -> mean_squared_error. Raises UserError."""
    for unfit, reason in _UNFIT.items():
        if _plain(name) == unfit:
            raise UserError(f"loss is {name!r}, {reason}: give another one, such as {CROSSENTROPY}")
    found = _KNOWN.get(_plain(name))
    if found is not None:
        return _OTHER_NAMES.get(found, found)
    close = difflib.get_close_matches(name.lower(), [CROSSENTROPY, *LOSSES], n=1, cutoff=0.6)
    meant = f"did you mean {close[0]}? " if close else ""
    raise UserError(f"there is no loss {name!r}: {meant}allowed is one of {', '.join((CROSSENTROPY, *LOSSES))}")


def check_loss(name: str, options: Mapping[str, Any] | None, label_smoothing: float) -> None:
    """Refuse what a loss does not take (UserError); `name` as `loss_called` gives it."""
    loss = LOSSES.get(name)
    check_arguments("loss_options", f"loss {name}", loss.arguments if loss else {}, options)
    if label_smoothing and loss is not None and not loss.smooths_labels:
        smoothing = [CROSSENTROPY, *(each for each, found in LOSSES.items() if found.smooths_labels)]
        raise UserError(
            f"label_smoothing is {label_smoothing} but loss {name} does not smooth labels: leave it out, or choose "
            f"--loss {' or '.join(smoothing)}"
        )
