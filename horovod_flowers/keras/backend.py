"""The back end of Keras that this works on."""

import os
import sys

from horovod_flowers.runtime.errors import UserError

BACKEND = "tensorflow"


def check_backend() -> None:
    """Refuse other back ends than TensorFlow (UserError); let Keras start on it where it has not been imported yet."""
    keras = sys.modules.get("keras")
    found = os.environ.get("KERAS_BACKEND") or BACKEND
    if keras is not None and hasattr(keras, "config"):
        found = keras.config.backend()
    if found != BACKEND:
        raise UserError(
            f"Keras' back end is {found} (KERAS_BACKEND), and horovod_flowers.keras works with {BACKEND} only: set "
            f"KERAS_BACKEND={BACKEND} before Keras is imported"
        )
    os.environ["KERAS_BACKEND"] = BACKEND  # it counts more than Keras' file of settings
