"""Exported models: what describes them, and how they are loaded back.

    EXPORT/model.json     what it is, where it comes from, checksums of the other files
    EXPORT/model.keras    plain Keras layers; the same description inside the zip, without checksums
    EXPORT/saved_model/   TensorFlow's SavedModel; the same description in assets.extra/

Files may come from strangers. A .keras file is read in Keras's safe mode, which takes Keras's own layers only; of a
SavedModel, which is a program, only operations that compute are accepted, none that reaches files, network or Python.
"""

import hashlib
import json
import zipfile
import zlib
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from horovod_flowers.inference.trained_model import TrainedModel
from horovod_flowers.runlog.records import Count, Positive, Share
from horovod_flowers.runtime.errors import UserError, first_line

FORMAT, SCHEMA = "horovod_flowers export", 1
KERAS_FILE, SAVED_MODEL, MANIFEST = "model.keras", "saved_model", "model.json"
MEMBER = "horovod_flowers.json"
"""The description inside a .keras file, and in assets.extra/ of a SavedModel."""
IMAGES, PHOTOS, CLASS_NAMES = "serving_default", "photos", "class_names"
"""Signatures of the SavedModel."""
_MOST_DESCRIPTION_BYTES = 2**20
_AGAIN = "export the run again"


class Checked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Largest differences that were found when the files were loaded back, in another process, before they appeared."""

    native: float
    """Of probabilities, to the run's checkpoint, for images of the size that it was trained at."""
    other_sizes: float
    """Of probabilities, to the exported model before it was written, for images of other sizes."""
    resized_levels: float
    """Of pixels 0..255, to photos as prepare resizes them."""


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an exported model is and where it comes from."""

    format: str
    schema: int
    class_names: Annotated[list[str], msgspec.Meta(min_length=1)]
    image_size: Positive
    """Height and width in pixels that images are resized to, inside."""
    parameters: Count
    model: str
    run: str
    checkpoint: str
    epoch: Count
    validation_accuracy: Share | None
    data_digest: str
    commit: str | None
    """Of the code that trained; with versions and start of the run, null where the run does not record it."""
    versions: dict[str, str] | None
    started_utc: str | None
    exported_utc: str
    exported_with: dict[str, str]
    files: dict[str, str] | None = None
    """SHA-256 of each file of the export by its path there; null inside the files themselves."""
    checked: Checked | None = None
    """Null inside the files themselves."""


def load_exported(path: Path) -> TrainedModel:
    """Load an export: its folder, its .keras file or its saved_model folder, wherever these were copied to.

    TensorFlow must have been started. The loaded model takes images of any height and width; its `keras_model` is None
    where it was loaded from a SavedModel. Raises UserError where the files are missing, damaged or something else.
    """
    if path.is_dir():
        if (path / "saved_model.pb").exists():
            return _load_saved_model(path)
        return _load_folder(path)
    if not path.exists():
        raise UserError(f"there is no exported model {path}: give a folder that horovod_flowers.export wrote")
    return _load_keras(path)


def sha256(path: Path) -> str:
    """Of a file's contents, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def read_description(contents: bytes, source: Path) -> Description:
    """Check a description. Raises UserError where it is damaged, from another version, or no description at all."""
    try:
        found = msgspec.json.decode(contents, type=Description)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(f"{source} does not describe an exported model ({error}): {_AGAIN}") from error
    if (found.format, found.schema) != (FORMAT, SCHEMA):
        raise UserError(
            f"{source} describes {found.format!r}, schema {found.schema}, and this version reads {FORMAT!r}, schema "
            f"{SCHEMA}: {_AGAIN}, or use the version that wrote it"
        )
    return found


def _read_description_file(path: Path) -> Description:
    try:
        with open(path, "rb") as file:
            contents = file.read(_MOST_DESCRIPTION_BYTES)
    except OSError as error:
        raise UserError(
            f"{path.name} in {path.parent} cannot be read ({error.strerror or error}): give a folder that "
            "horovod_flowers.export wrote"
        ) from error
    return read_description(contents, path)


def _load_folder(folder: Path) -> TrainedModel:
    files = _read_description_file(folder / MANIFEST).files or {}
    path = folder / KERAS_FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no {KERAS_FILE}: {_AGAIN}")
    if sha256(path) != files.get(KERAS_FILE):
        raise UserError(f"{path} is damaged (its SHA-256 is not the one in {MANIFEST}): {_AGAIN}")
    return _load_keras(path)


def _load_keras(path: Path) -> TrainedModel:
    import keras
    import tensorflow as tf

    description = _description_in_keras_file(path)
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever Keras, zip and HDF5 make of a broken or hostile file
        raise UserError(f"{path} cannot be loaded ({first_line(error)}): {_AGAIN}") from error
    layers = getattr(model, "layers", [])
    shapes = (getattr(model, "input_shape", None), getattr(model, "output_shape", None))
    if len(layers) != 4 or shapes != ((None, None, None, 3), (None, len(description.class_names))):
        raise UserError(
            f"{path} holds no classifier of images of any size into {len(description.class_names)} classes: {_AGAIN}"
        )
    forward = tf.function(
        lambda images: model(tf.cast(images, tf.float32), training=False), reduce_retracing=True, autograph=False
    )
    return TrainedModel(
        class_names=tuple(description.class_names),
        image_size=description.image_size,
        probabilities=lambda images: forward(tf.constant(images)).numpy(),
        source=str(path),
        keras_model=layers[2],  # between the resizing and the softmax
    )


def _description_in_keras_file(path: Path) -> Description:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(MEMBER) as member:
            return read_description(member.read(_MOST_DESCRIPTION_BYTES), path)
    except KeyError as error:
        raise UserError(
            f"{path} names no classes (it has no member {MEMBER}): give a file that horovod_flowers.export wrote"
        ) from error
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path} is damaged or no .keras file ({first_line(error)}): {_AGAIN}") from error


def _load_saved_model(folder: Path) -> TrainedModel:
    import tensorflow as tf

    description = _read_description_file(folder / "assets.extra" / MEMBER)
    from horovod_flowers.inference.export.operations import refused_operation

    try:
        if (refused := refused_operation((folder / "saved_model.pb").read_bytes())) is not None:
            raise UserError(
                f"{folder} has the operation {refused}, which is not on the list of operations that only "
                "compute: load the .keras file of the same export instead"
            )
        loaded = tf.saved_model.load(str(folder))
        classify = loaded.signatures[IMAGES]
        answered = classify.structured_outputs["probabilities"].shape.as_list()
    except UserError:
        raise
    except Exception as error:  # whatever TensorFlow makes of a broken or hostile file
        raise UserError(f"{folder} cannot be loaded ({first_line(error)}): {_AGAIN}") from error
    if answered != [None, len(description.class_names)]:
        raise UserError(f"{folder} does not give probabilities of {len(description.class_names)} classes: {_AGAIN}")

    def probabilities(images: np.ndarray) -> np.ndarray:
        # `loaded` is held on to: its variables live as long as it does.
        return loaded.signatures[IMAGES](images=tf.constant(images, tf.float32))["probabilities"].numpy()

    return TrainedModel(tuple(description.class_names), description.image_size, probabilities, str(folder), None)


def to_json(description: Description) -> bytes:
    """Indented, with a line's end."""
    return json.dumps(msgspec.to_builtins(description), indent=1, ensure_ascii=False).encode() + b"\n"
