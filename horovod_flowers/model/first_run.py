"""A model run once before anything is trained: whether it takes the photos, and whether it gives one output per class.

What is wrong with a model is told here, in a sentence that says what to write instead, before a run leaves any file.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from horovod_flowers.runtime.errors import UserError, reason

IMAGES = 4
"""As many as show that an output depends on the image."""


def pixels(image_size: int) -> np.ndarray:
    """float32 [images, image_size, image_size, 3]: noise over the range that training feeds, the same every time."""
    drawn = np.random.default_rng(0).integers(0, 256, (IMAGES, image_size, image_size, 3))
    return drawn.astype(np.float32)


def run(model: Any, images: np.ndarray) -> np.ndarray:
    """float32 [n, units]: what a model answers to n images, as in evaluation."""
    return _to_float32(model(images, training=False))


def _to_float32(outputs: Any) -> np.ndarray:
    from keras import ops

    return np.asarray(ops.convert_to_numpy(ops.cast(outputs, "float32")))


def first_outputs(name: str, model: Any, images: np.ndarray, classes: int) -> np.ndarray:
    """float32 [n, units]: what a model answers to n images. A model that is not built yet is built by it.

    Raises UserError where the model does not take such images, or does not give one row of outputs per image.
    """
    image_size = images.shape[1]
    cannot = f"model {name} does not take images of {image_size}x{image_size} pixels in 3 channels"
    shape = image_shape(model) or images.shape[1:]
    if any(size not in (None, given) for size, given in zip(shape, images.shape[1:], strict=True)):
        raise UserError(f"{cannot}: {_advice(shape)}")
    try:
        outputs = model(images, training=False)
    except Exception as error:  # the user's layers: what they raise is told, not traced
        raise UserError(
            f"{cannot} ({reason(error)}): it has to take float32 (batch, image_size, image_size, 3), pixels 0..255"
        ) from error
    wanted = f"it must give one tensor of shape (batch, {classes}), one output per class"
    if isinstance(outputs, Mapping):
        raise UserError(
            f"model {name} gives a dictionary of outputs ({', '.join(map(str, outputs))}): {wanted}; return "
            "keras.Model(inputs, the one output that tells the classes)"
        )
    if isinstance(outputs, list | tuple):
        raise UserError(
            f"model {name} gives {len(outputs)} outputs: {wanted}; return "
            "keras.Model(inputs, the one output that tells the classes)"
        )
    shape = tuple(getattr(outputs, "shape", ()))
    if len(shape) != 2 or shape[0] != len(images):
        instead = "end it in Flatten() or GlobalAveragePooling2D(), then Dense(classes)"
        if len(shape) == 1:
            instead = "end it in Dense(classes), without argmax or squeeze"
        raise UserError(f"model {name} gives outputs of shape {('batch', *shape[1:])}: {wanted}; {instead}")
    return _to_float32(outputs)


def image_shape(model: Any) -> tuple[int | None, int | None, int | None] | None:
    """The shape of an image that a model says it takes, which Keras itself checks in some kinds of models only."""
    shape = getattr(model, "input_shape", None)
    return shape[1:] if isinstance(shape, tuple) and len(shape) == 4 else None


def _advice(shape: tuple[int | None, ...]) -> str:
    """What to write instead of a model that takes images of another shape."""
    height, width, channels = shape
    build = "build it with Input((image_size, image_size, 3))"
    if channels == 3 and height is not None and height == width:
        return f"it is made for {height}x{width}: {build}, or train with --data.image-size {height}"
    if height == 3:
        return f"it has channels first: {build} and data_format channels_last"
    if channels not in (3, None):
        return f"it takes {channels} channel(s), and photos are RGB: {build}, and convert colours inside"
    return f"it takes {shape}: {build}"
