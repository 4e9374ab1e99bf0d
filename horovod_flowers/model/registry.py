"""Keras models by name. They know nothing of ranks.

A model takes pixels 0..255, float32 [batch, size, size, 3], and gives logits [batch, classes]. It is run once when it
is built: what cannot be trained is refused then, and probabilities become logits.
"""

import contextlib
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from horovod_flowers.model.first_run import first_outputs, pixels
from horovod_flowers.ranks.tensorflow_import import check_keras_settings
from horovod_flowers.runtime.errors import UserError, reason


def flower_cnn(image_size: int, classes: int) -> Any:
    """The flower CNN: three convolutions with 2x2 max pooling, then Dense 512.

    26,310,725 parameters for five classes at 180 pixels; 99.6 % of them in Dense 512.
    """
    import keras
    from keras import layers

    return keras.Sequential(
        [
            layers.Input((image_size, image_size, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(128, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dense(classes),
        ],
        name="flower_cnn",
    )


def flower_resnet(image_size: int, classes: int) -> Any:
    """A small residual network (He et al. 2016, section 3.3): 1,232,101 parameters for five classes.

    Four residual blocks at 1/4 to 1/32 of the image's size, batch normalisation (each rank over its own images; running
    statistics are averaged over ranks), global average pooling instead of a wide Dense layer. It takes images of any
    size, so `image_size` does not change it.
    """
    import keras
    from keras import layers

    inputs = layers.Input((None, None, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = _normalised_conv(x, 32, 5, strides=2)
    x = layers.ReLU()(x)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    for filters, strides in ((32, 1), (64, 2), (128, 2), (256, 2)):
        x = _residual_block(x, filters, strides)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2)(x)
    return keras.Model(inputs, layers.Dense(classes)(x), name="flower_resnet")


def _residual_block(x: Any, filters: int, strides: int) -> Any:
    """Two 3x3 convolutions and a way around them; where it shrinks, by average pooling (He et al. 2019, 4.2)."""
    from keras import layers

    y = layers.ReLU()(_normalised_conv(x, filters, 3, strides))
    y = _normalised_conv(y, filters, 3)
    if strides > 1:
        x = layers.AveragePooling2D(strides, padding="same")(x)
    if x.shape[-1] != filters:
        x = _normalised_conv(x, filters, 1)
    return layers.ReLU()(layers.Add()([x, y]))


def _normalised_conv(x: Any, filters: int, kernel: int, strides: int = 1) -> Any:
    from keras import layers

    options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
    x = layers.Conv2D(filters, kernel, strides, **options)(x)
    return layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM)(x)


BATCH_NORM_MOMENTUM = 0.95
"""Keras' 0.99 remembers some hundred steps, which is several epochs of a few thousand photos."""

REGISTRY: dict[str, Callable[..., Any]] = {"flower_cnn": flower_cnn, "flower_resnet": flower_resnet}


def check_name(name: str) -> None:
    """Refuse a name that is neither registered nor package.module:function (UserError); imports nothing."""
    module, _, function = name.partition(":")
    if name in REGISTRY or (function.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        return
    raise UserError(f"there is no model {name!r}: use {', '.join(REGISTRY)}, or package.module:function for your own")


def build_model(name: str, image_size: int, classes: int) -> Any:
    """Build a model that gives logits [batch, classes]: `build` without its notes."""
    return build(name, image_size, classes)[0]


def build(name: str, image_size: int, classes: int) -> tuple[Any, list[str]]:
    """Build a model and run it once: a model of logits [batch, classes], and what a user should know of it.

    Raises UserError where the user's function cannot be imported, fails, or returns a model that cannot be trained.
    """
    check_name(name)
    builder = _builder(name)
    try:
        model = builder(image_size=image_size, classes=classes)
    except Exception as error:  # the user's code: what it raises is told, not traced
        raise UserError(
            f"model {name} cannot be built at {image_size} pixels and {classes} classes ({reason(error)}): fix the "
            "function, or give it other data"
        ) from error
    # Both import Keras, which this module, as all that commands import, leaves to the start of TensorFlow.
    from horovod_flowers.model.outputs import logits_of
    from horovod_flowers.model.trainable import check_trainable

    check_keras_settings(f"model {name}")
    if not isinstance(model, keras_model()):
        raise UserError(f"model {name} gives {_kind(model)}, no Keras model: {_WANTED}")
    images = pixels(image_size)
    outputs = first_outputs(name, model, images, classes)
    notes = check_trainable(name, model)
    model, note = logits_of(name, model, images, outputs, classes)
    return model, [*notes, *filter(None, [note])]


_WANTED = (
    "write a function, def build(image_size, classes): return keras.Sequential([...]), and give package.module:build"
)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"


def keras_model() -> type:
    """Keras' class of models, imported late."""
    import keras

    return keras.Model


def _application(name: str) -> Callable[..., Any]:
    """A builder of one of Keras' applications, with random weights and a new last layer. Raises UserError."""
    import keras

    construct = getattr(keras.applications, name, None)
    if not callable(construct):
        raise UserError(f"keras.applications has no {name!r}: give a name such as keras.applications:MobileNetV2")
    preprocess = importlib.import_module(construct.__module__).preprocess_input

    def build(image_size: int, classes: int) -> Any:
        shape = (image_size, image_size, 3)
        inner = construct(include_top=False, weights=None, input_shape=shape, pooling="avg", name=APPLICATION)
        inputs = keras.layers.Input(shape)
        return keras.Model(inputs, keras.layers.Dense(classes)(inner(preprocess(inputs))), name=name.lower())

    return build


APPLICATIONS, APPLICATION = "keras.applications", "application"


def _builder(name: str) -> Callable[..., Any]:
    """The function behind a name. Raises UserError where there is none that can be called as a builder is."""
    if name in REGISTRY:
        return REGISTRY[name]
    module, _, function = name.partition(":")
    if module == APPLICATIONS:
        return _application(function)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"model {name} cannot be imported ({error}): give package.module:function and run where Python finds it, "
            "or set PYTHONPATH"
        ) from error
    if isinstance(found, keras_model()):
        raise UserError(f"model {name} is a model that is built already: {_WANTED}")
    if not callable(found):
        raise UserError(f"model {name} is {_kind(found)}, no function: {_WANTED}")
    with contextlib.suppress(ValueError):  # of a few builtins Python does not know the arguments
        signature = inspect.signature(found)
        try:
            signature.bind(image_size=0, classes=0)
        except TypeError as error:
            what = "class" if isinstance(found, type) else "function"
            raise UserError(
                f"model {name} is a {what} that takes {signature}, and it is called with image_size= and classes= "
                f"({error}): {_WANTED}"
            ) from error
    return found
