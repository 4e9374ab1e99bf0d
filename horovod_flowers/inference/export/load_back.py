"""Compare an export with the run that it is made from, before anybody sees it."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from horovod_flowers.data import synthetic
from horovod_flowers.data.decoding import decode_photo
from horovod_flowers.inference.export.exported import Checked
from horovod_flowers.inference.trained_model import TrainedModel
from horovod_flowers.model.trainable import compute_types
from horovod_flowers.ranks.tensorflow_import import set_keras_variables
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.files import temporary_folder

TOLERANCE, TOLERANCE_OF_16_BITS = 1e-4, 2e-2
"""Of probabilities. The same sums in another order differ by 1e-7 to 1e-5; a weight in the wrong place by much more.
Where layers compute in bfloat16 themselves, which keeps 8 bits, roundings differ that much more."""
LEVELS = 1.1
"""Of pixels 0..255: prepared ones are rounded twice, by half a level for each direction, exported ones not at all."""
IMAGES_OF_A_SIZE = 6
TIMEOUT_SECONDS = 900
_SEED = 20_011  # of the drawn flowers: any images do, the same on every machine


def compare(folder: Path, model: TrainedModel, whole: Any, name: str) -> Checked:
    """Load both artefacts of `folder` in a process of their own, and compare what they answer.

    model: of the run; whole: the same with its preprocessing, in memory; name: of the model, for messages. Images of
    the size that it was trained at must get the run's probabilities, others those of `whole`, whose resizing must agree
    with `decode_photo`. Raises UserError where an artefact does not load, or answers otherwise.
    """
    size = model.image_size
    native, larger, smaller = (_drawn(h, w) for h, w in ((size, size), (5 * size // 4, 3 * size // 2), _smaller(size)))
    expected = [model.probabilities(native), _answer(whole, larger), _answer(whole, smaller)]
    levels = max(_levels(whole, images, size) for images in (native, larger, smaller))
    with temporary_folder("export") as trial:
        for number, images in enumerate((native, larger, smaller)):
            np.save(trial / f"images-{number}.npy", images)
        for number, image in enumerate((*native, *larger)):
            (trial / f"photo-{number:03d}.png").write_bytes(_png(image))
        _load_apart(folder, trial, name)
        of_sizes = [
            max(_apart(trial / f"{kind}-{number}.npy", probabilities) for kind in ("keras", "served"))
            for number, probabilities in enumerate(expected)
        ]
        of_photos = _apart(trial / "photos.npy", np.concatenate(expected[:2]))
        names = json.loads((trial / "names.json").read_text(encoding="utf-8"))
    checked = Checked(native=of_sizes[0], other_sizes=max(*of_sizes[1:], of_photos), resized_levels=levels)
    tolerance = TOLERANCE if compute_types(model.keras_model) <= {"float32"} else TOLERANCE_OF_16_BITS
    wrong_names = names["every"] != list(model.class_names) or len(names["predicted"]) != 2 * IMAGES_OF_A_SIZE
    if not (checked.native <= tolerance and checked.other_sizes <= tolerance and levels <= LEVELS) or wrong_names:
        raise UserError(
            f"the exported files do not reproduce {model.source} (probabilities differ by {checked.native:.2g} at "
            f"{size} pixels and {checked.other_sizes:.2g} at other sizes, {tolerance} is allowed; resized pixels by "
            f"{levels:.2g} levels, {LEVELS} is allowed): nothing was exported"
        )
    return checked


def _smaller(size: int) -> tuple[int, int]:
    return max(1, 3 * size // 5), max(1, 4 * size // 5)


def _drawn(height: int, width: int) -> np.ndarray:
    """uint8 [n, height, width, 3], parts of drawn flowers."""
    drawn = [synthetic.draw(_SEED, number, max(height, width, 24)) for number in range(IMAGES_OF_A_SIZE)]
    return np.stack([image[:height, :width] for image in drawn])


def _answer(whole: Any, images: np.ndarray) -> np.ndarray:
    return np.asarray(whole(images.astype(np.float32), training=False))


def _levels(whole: Any, images: np.ndarray, size: int) -> float:
    """The largest difference of a resized pixel to one that `decode_photo` gives."""
    resized = np.asarray(whole.layers[1](images.astype(np.float32)))
    prepared = np.stack([decode_photo(_png(image), size) for image in images])
    return float(np.abs(resized - prepared).max())


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    contents = io.BytesIO()
    Image.fromarray(image).save(contents, "PNG")
    return contents.getvalue()


def _apart(path: Path, expected: np.ndarray) -> float:
    """The largest difference of a stored answer; infinite where it has another shape or is not finite."""
    found = np.load(path, allow_pickle=False)
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max())


def _load_apart(folder: Path, trial: Path, name: str) -> None:
    """Raises UserError with what the other process says where it fails."""
    module, colon, _ = name.partition(":")
    packages = [module.partition(".")[0]] if colon else []
    script = Path(__file__).with_name("load_apart.py")
    words = [sys.executable, str(script), str(os.getpid()), str(folder), str(trial), *packages]
    # The model's own code may have set variables of Keras; a file of the user's in KERAS_HOME has nothing to say here.
    # What TensorFlow leaves among temporary files where it is killed goes with the trial.
    variables = {**os.environ, "KERAS_HOME": str(trial), "TMPDIR": str(trial)}
    set_keras_variables(variables)
    try:
        ended = subprocess.run(words, env=variables, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
        status = f"status {ended.returncode}"
    except subprocess.TimeoutExpired:
        status = f"nothing after {TIMEOUT_SECONDS} s"
    reason = trial / "error.txt"
    if reason.exists() or not (trial / "names.json").exists():
        said = reason.read_text(encoding="utf-8") if reason.exists() else status
        short = said if len(said) <= 240 else f"{said[:239]}…"
        raise UserError(
            f"model {name} was written but does not load without its own code ({short}): build it from Keras's own "
            "layers, without Lambda; nothing was exported"
        )
