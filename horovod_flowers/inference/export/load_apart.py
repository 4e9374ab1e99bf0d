"""Load an export as somebody else would, in a process that cannot import horovod_flowers nor the model's own code.

Run by its path, not imported: python load_apart.py PARENT EXPORT TRIAL [PACKAGE...]. PARENT is the process that starts
it, with which it ends; TRIAL holds images-K.npy (uint8 [n, h, w, 3]) and photo-K.png. Writes keras-K.npy, served-K.npy
and photos.npy (probabilities [n, classes]) and names.json beside them, or what went wrong into error.txt.
"""

import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

UNUSED = ("IPython", "scipy", "matplotlib", "sklearn")
"""As horovod_flowers.ranks.tensorflow_import: what Keras and TensorFlow import in case it is asked for."""


def main(export: Path, trial: Path, packages: list[str]) -> None:
    """Answer every image of the trial with both artefacts."""
    sys.path.pop(0)  # this file's folder
    sys.modules.update(dict.fromkeys(["horovod_flowers", *packages]))  # type: ignore[arg-type]  # None stops an import
    with quick_imports():
        import keras
        import numpy as np
        import tensorflow as tf

    model = keras.models.load_model(export / "model.keras")
    served = tf.saved_model.load(str(export / "saved_model")).signatures
    for path in sorted(trial.glob("images-*.npy")):
        images = np.load(path, allow_pickle=False)
        number = path.stem.partition("-")[2]
        np.save(trial / f"keras-{number}.npy", model.predict(images, verbose=0))
        answer = served["serving_default"](images=tf.constant(images, tf.float32))
        np.save(trial / f"served-{number}.npy", answer["probabilities"].numpy())
    photos = [path.read_bytes() for path in sorted(trial.glob("photo-*.png"))]
    answer = served["photos"](photos=tf.constant(photos))
    np.save(trial / "photos.npy", answer["probabilities"].numpy())
    every = served["class_names"]()["class_names"].numpy()
    names = {"every": every, "predicted": answer["class_name"].numpy()}
    decoded = {key: [name.decode() for name in values] for key, values in names.items()}
    (trial / "names.json").write_text(json.dumps(decoded), encoding="utf-8")


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Import in little more than half the time; what is left out can be imported afterwards."""
    hidden = [name for name in UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None stops an import
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        for name in hidden:
            del sys.modules[name]


def end_with_parent(parent: int) -> None:
    """As horovod_flowers.runtime.parent_death, which cannot be imported here."""
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    try:
        main(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    except Exception as error:
        message = " ".join(str(error).split())
        Path(sys.argv[3], "error.txt").write_text(f"{type(error).__name__}: {message}", encoding="utf-8")
        raise
