"""The back end of Keras that this works on."""

import os
import sys
from pathlib import Path

from horovod_flowers.ranks.horovod_build import import_horovod
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import end_job_on_uncaught_errors

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


def check_horovod() -> None:
    """Import Horovod; where it cannot be, one sentence that the script ends with unless it catches it (UserError)."""
    try:
        import_horovod(None)
    except UserError:
        end_job_on_uncaught_errors(Path(sys.argv[0]).name if sys.argv and sys.argv[0] not in ("", "-c") else "python")
        raise
