"""Weights for a built model from a file: its own, those of a Keras application in it, or of a saved model around it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from horovod_flowers.runtime.errors import UserError, first_line

WEIGHT_FILES = (".h5", ".keras")


def load_weights(model: Any, classes: int, path: Path) -> list[str]:
    """Start a built model from a .weights.h5, .h5 or .keras file; notes on what it does not hold.

    Of the model itself; of a model in it, such as keras.applications:NAME without its top; or, in a .keras file, of a
    model around it, such as an export. Raises UserError where the file is damaged or of another model.
    """
    inner = [layer for layer in model.layers if _is_model(layer)]
    reasons = []
    for target in (model, *inner):
        try:
            target.load_weights(path)
        except Exception as error:  # whatever h5py and Keras make of a file of another model
            reasons.append(first_line(error))
            continue
        return []
    if path.suffix == ".keras":
        for values in _values_of_models_in(path):
            if fits(model, classes, values):
                return assign(model, values)
    raise UserError(f"{path} does not hold weights of model {model.name} ({reasons[-1]}): give a file of this model")


def _values_of_models_in(path: Path) -> list[list[np.ndarray]]:
    """Weights of a saved model and of each model in it; none where it cannot be loaded without running code."""
    import keras

    from horovod_flowers.model.keras_internals import all_layers

    try:
        saved = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception:  # damaged, hostile, or of the user's own layers: load_weights has the reason
        return []
    models = [layer for layer in all_layers(saved) if _is_model(layer)]
    return [[np.array(variable) for variable in each.variables] for each in models]


def _is_model(layer: Any) -> bool:
    import keras

    return isinstance(layer, keras.Model)


def fits(model: Any, classes: int, values: Sequence[np.ndarray]) -> bool:
    """Whether values are those of a model's variables, in their order. Those of the last layer, whose last dimension is
    the number of classes, may be for other classes."""
    return misfit(model, classes, values) is None


def misfit(model: Any, classes: int, values: Sequence[np.ndarray]) -> str | None:
    """Why values are not those of a model's variables, in a few words; None where they fit."""
    if len(values) != len(model.variables):
        return f"{len(values)} tensors for {len(model.variables)}"
    units = (classes, 1) if classes == 2 else (classes,)  # one unit serves for two classes
    for variable, value in zip(model.variables, values, strict=True):
        shape = tuple(variable.shape)
        for_classes = shape[-1:] and shape[-1] in units and value.ndim == len(shape) and value.shape[:-1] == shape[:-1]
        if value.shape != shape and not for_classes:
            return f"{value.shape} for {variable.path} {shape}"
    return None


def assign(model: Any, values: Sequence[np.ndarray]) -> list[str]:
    """Give a model's variables values that fit. Those of other classes, and the seeds of random layers, stay as they
    are. Returns a note where some stay."""
    other_classes = []
    for variable, value in zip(model.variables, values, strict=True):
        if value.shape != tuple(variable.shape):
            other_classes.append(variable.path)
        elif "float" in str(variable.dtype):
            variable.assign(value)
    return [f"{', '.join(other_classes)}: begin anew, for other classes"] if other_classes else []
