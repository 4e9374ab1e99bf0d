"""How much each training image counts in the loss: by its class, and by the user's own weights."""

import numpy as np

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.prepared import Prepared
from horovod_flowers.runtime.errors import UserError


def image_weights(prepared: Prepared, training: np.ndarray, config: DataConfig) -> np.ndarray | None:
    """float32 [prepared images], above 0, or None where all count alike.

    With balanced classes an image of a class counts n / (classes x n of the class), over the `training` indices: their
    mean is 1, so that the learning rate keeps its meaning (King and Zeng 2001, as scikit-learn's 'balanced'). Raises
    UserError where a class has no training image.
    """
    if config.class_weights == "none":
        return prepared.weights
    labels = prepared.labels
    counts = np.bincount(labels[training], minlength=len(prepared.class_names))
    if not counts.all():
        name = prepared.class_names[int(counts.argmin())]
        raise UserError(f"data.class_weights is 'balanced' but class {name!r} has no training image: remove its folder")
    weights: np.ndarray = (len(training) / (len(counts) * counts)).astype(np.float32)[labels]
    return weights if prepared.weights is None else weights * prepared.weights
