"""What a model's outputs mean, found by running it: logits, or probabilities by softmax or sigmoid.

Everything in this package works on logits [batch, classes]: cross-entropy, evaluation, prediction, export. Of a model
that ends in softmax its logits are taken: where softmax is the activation of the last layer it is left out; elsewhere
the logarithm of the outputs serves, whose softmax they are. The weights are the same, and so is the trained function.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from horovod_flowers.model.first_run import image_shape, run
from horovod_flowers.model.keras_internals import last_layer
from horovod_flowers.model.trainable import compute_types
from horovod_flowers.runtime.errors import UserError

SMALLEST_PROBABILITY = 1e-37
"""Below it float32 has no reciprocal, which the gradient of a logarithm is."""
_ROUNDING, _ROUNDING_OF_16_BITS = 1e-3, 2e-2
"""By which a sum of probabilities may miss 1."""


Ending = Literal["logits", "softmax", "logit unit", "sigmoid unit"]
"""What a model gave before it was made one of logits; a unit is a single one, for the second of two classes."""


def as_given(ending: Ending, logits: Any) -> Any:
    """What the model gave, of the logits [batch, classes] that it was made to give: [batch, classes] or [batch, 1]."""
    from keras import ops

    if ending == "logits":
        return logits
    if ending == "softmax":
        return ops.softmax(logits, axis=-1)
    logit = logits[:, 1:] - logits[:, :1]
    return ops.sigmoid(logit) if ending == "sigmoid unit" else logit


def logits_of(
    name: str, model: Any, images: np.ndarray, outputs: np.ndarray, classes: int
) -> tuple[Any, str | None, Ending]:
    """A model of logits [batch, classes] made of one of any outputs [batch, units], a note where they differ, and what
    they were.

    images: float32 [n, height, width, 3]; outputs: what the model gave for them, float32 [n, units]. A single unit
    serves for two classes: the logit, or by sigmoid the probability, of the second one. May change the activation of
    the last layer in place. Raises UserError where the outputs are not one per class, or independent probabilities.
    """
    units = outputs.shape[1]
    if units == 1 and classes == 2:
        return _of_one_unit(name, model, images, outputs)
    if units != classes:
        raise UserError(
            f"model {name} gives outputs of shape (batch, {units}), and the photos have {classes} classes: end it in "
            "Dense(classes), with the `classes` that the function is given"
        )
    rounding = _ROUNDING if compute_types(model) <= {"float32"} else _ROUNDING_OF_16_BITS
    if (outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, rtol=0, atol=rounding):
        note = f"model {name} ends in softmax: its outputs are taken as probabilities"
        if _leave_out_activation(model, "softmax"):
            return model, note, "softmax"
        return _then(model, images, _logarithm), note, "softmax"
    if _stay_within_0_and_1(model, images, outputs):
        raise UserError(
            f"model {name} ends in a sigmoid for each class (outputs between 0 and 1 that do not add up to 1), and a "
            "photo has one class: end it in Dense(classes) without activation, or with softmax"
        )
    return model, None, "logits"


def _of_one_unit(name: str, model: Any, images: np.ndarray, outputs: np.ndarray) -> tuple[Any, str, Ending]:
    if not _stay_within_0_and_1(model, images, outputs):
        note = f"model {name}: its one output is the logit of the second class"
        return _then(model, images, _beside_zero), note, "logit unit"
    note = f"model {name} ends in a sigmoid: its one output is the probability of the second class"
    if _leave_out_activation(model, "sigmoid"):
        return _then(model, images, _beside_zero), note, "sigmoid unit"
    return _then(model, images, _logarithm_of_both), note, "sigmoid unit"


def _stay_within_0_and_1(model: Any, images: np.ndarray, outputs: np.ndarray) -> bool:
    """Whether outputs lie between 0 and 1 whatever the weights are, which are left as they were."""
    if not (_within_0_and_1(outputs) and (outputs > 0).all()):
        return False
    before = [np.array(variable) for variable in model.trainable_variables]
    try:
        for factor in (-1, 30, -30):
            for variable, value in zip(model.trainable_variables, before, strict=True):
                variable.assign(value * factor)
            if not _within_0_and_1(run(model, images)):
                return False
    finally:
        for variable, value in zip(model.trainable_variables, before, strict=True):
            variable.assign(value)
    return True


def _within_0_and_1(outputs: np.ndarray) -> bool:
    return bool(((outputs >= 0) & (outputs <= 1)).all())


def _leave_out_activation(model: Any, activation: str) -> bool:
    """Make the activation of a model's last layer linear, if that is this one and serves nothing else."""
    import keras

    layer = last_layer(model)
    if layer is None or not type(layer).__module__.startswith("keras."):
        return False
    if getattr(layer, "activation", None) is not getattr(keras.activations, activation):
        return False
    if getattr(layer, "activity_regularizer", None) is not None:  # a penalty on what comes after the activation
        return False
    layer.activation = keras.activations.linear
    return True


def _then(model: Any, images: np.ndarray, convert: Callable[[Any], Any]) -> Any:
    """The model with one more operation behind it, under its name."""
    import keras

    inputs = keras.Input(image_shape(model) or images.shape[1:])
    return keras.Model(inputs, convert(keras.ops.cast(model(inputs), "float32")), name=model.name)


def _logarithm(probabilities: Any) -> Any:
    from keras import ops

    return ops.log(ops.maximum(probabilities, SMALLEST_PROBABILITY))


def _logarithm_of_both(probability: Any) -> Any:
    from keras import ops

    return _logarithm(ops.concatenate([1 - probability, probability], axis=-1))


def _beside_zero(logit: Any) -> Any:
    """Softmax of (0, z) is (1 - sigmoid(z), sigmoid(z)), and its cross-entropy the binary one."""
    from keras import ops

    return ops.concatenate([ops.zeros_like(logit), logit], axis=-1)
