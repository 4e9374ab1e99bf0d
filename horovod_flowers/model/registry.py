"""Keras models by name. They know nothing of ranks.

A model takes pixels 0..255, float32 [batch, size, size, 3], and gives logits [batch, classes]. It is run once when it
is built: what cannot be trained is refused then, and probabilities become logits.
"""

import contextlib
import importlib
import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from horovod_flowers.model.first_run import first_outputs, pixels
from horovod_flowers.ranks.tensorflow_import import check_keras_settings
from horovod_flowers.runtime.errors import UserError, reason

if TYPE_CHECKING:  # they import Keras
    from horovod_flowers.model.compiled import Compiled
    from horovod_flowers.model.outputs import Ending


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


SAVED = ".keras"
"""How files end that `model.save` writes."""


def check_name(name: str, options: Mapping[str, Any] | None = None) -> None:
    """Refuse a name that is neither registered, nor package.module:function, nor a .keras file, and options that no
    function takes (UserError); imports nothing."""
    module, _, function = name.partition(":")
    of_module = function.isidentifier() and all(part.isidentifier() for part in module.split("."))
    if name not in REGISTRY and not name.endswith(SAVED) and not of_module:
        raise UserError(
            f"there is no model {name!r}: use {', '.join(REGISTRY)}, or package.module:function for your own, or a "
            f"file PATH{SAVED}"
        )
    given = dict(options or {})
    if given and (name in REGISTRY or name.endswith(SAVED)):
        what = "a saved model" if name.endswith(SAVED) else "one of the suite's own"
        raise UserError(
            f"model.options has {', '.join(map(str, given))}, and model {name} is {what}, which takes no options: "
            "leave them out, or give package.module:function"
        )
    wrong = [str(key) for key in given if not str(key).isidentifier() or key in SET_BY_TRAINING]
    if wrong:
        raise UserError(
            f"model.options has {wrong[0]!r}: give names of further arguments of the function; image_size and classes "
            "come from the photos"
        )


SET_BY_TRAINING = ("image_size", "classes")
"""Arguments of every builder."""


def check_file(name: str) -> None:
    """Refuse a name of a saved model that is not there (UserError)."""
    if name.endswith(SAVED) and not Path(name).is_file():
        raise UserError(f"there is no model file {name}: give the path of a file that model.save wrote")


def build_model(name: str, image_size: int, classes: int, options: Mapping[str, Any] | None = None) -> Any:
    """Build a model that gives logits [batch, classes]: `build_whole` without all that is known of it."""
    return build_whole(name, image_size, classes, options).model


def build(name: str, image_size: int, classes: int) -> tuple[Any, list[str]]:
    """A model of logits [batch, classes], and what a user should know of it; see `build_whole`."""
    built = build_whole(name, image_size, classes)
    return built.model, built.notes


@dataclass(frozen=True, eq=False)
class BuiltModel:
    """A model that can be trained, and what is known of it."""

    model: Any
    """Of logits [batch, classes]."""
    notes: list[str]
    """What a user should know of it."""
    ending: "Ending"
    """What it gave before."""
    compiled: "Compiled | None"
    """What it says of its training, where it is compiled."""


def build_whole(name: str, image_size: int, classes: int, options: Mapping[str, Any] | None = None) -> BuiltModel:
    """Build a model and run it once. options: further arguments of the user's function.

    Raises UserError where the user's function cannot be imported, fails, or returns a model that cannot be trained; or
    where a file holds no model, or one with code that is not Keras' own.
    """
    check_name(name, options)
    if name.endswith(SAVED):
        raw, notes, shared = *_saved(name), False
    else:
        raw, notes, shared = _from_module(name, image_size, classes, dict(options or {}))
    # All of them import Keras, which this module, as all that commands import, leaves to the start of TensorFlow.
    from horovod_flowers.model.compiled import Compiled
    from horovod_flowers.model.outputs import logits_of
    from horovod_flowers.model.trainable import check_trainable

    check_keras_settings(f"model {name}")
    if not isinstance(raw, keras_model()):
        raise UserError(f"model {name} gives {_kind(raw)}, no Keras model: {_WANTED}")
    images = pixels(image_size)
    outputs = first_outputs(name, raw, images, classes)
    if (shared or name.endswith(SAVED)) and outputs.shape[1] != classes and (outputs.shape[1], classes) != (1, 2):
        raise UserError(
            f"model {name} tells {outputs.shape[1]} classes apart, and the photos have {classes}: give photos of as "
            "many, or a function that builds a model for their number (--model.weights then starts from this one)"
        )
    notes += check_trainable(name, raw)
    is_compiled = getattr(raw, "compiled", False)
    # One that a module holds is left as it is: a trial of strategies builds it several times.
    own = copied(name, raw) if shared else raw
    model, note, ending = logits_of(name, own, images, outputs, classes)
    compiled = Compiled(name, raw, outputs, ending, classes) if is_compiled else None
    return BuiltModel(model, [*notes, *filter(None, [note])], ending, compiled)


_UNKNOWN = re.compile(r"Could not locate (?P<kind>class|function) '(?P<name>[^']{1,100})'")
"""What Keras says of a class or function that it does not know, at the end of a page."""
_WANTED = (
    "write a function, def build(image_size, classes): return keras.Sequential([...]), and give package.module:build"
)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"


def keras_model() -> type:
    """Keras' class of models, imported late."""
    import keras

    return keras.Model


def _from_module(name: str, image_size: int, classes: int, options: dict[str, Any]) -> tuple[Any, list[str], bool]:
    """What the function of a name returns, or the model that it names; notes; whether it is one that the module
    keeps. Raises UserError."""
    found = _builder(name, options)
    if isinstance(found, keras_model()):
        return found, [f"model {name} is built already: a copy of it, with the weights that it has"], True
    try:
        return found(image_size=image_size, classes=classes, **options), [], False
    except Exception as error:  # the user's code: what it raises is told, not traced
        with_options = f" with {', '.join(f'{key}={value!r}' for key, value in options.items())}" if options else ""
        raise UserError(
            f"model {name} cannot be built at {image_size} pixels and {classes} classes{with_options} "
            f"({reason(error)}): fix the function, or give it other data"
        ) from error


def _saved(name: str) -> tuple[Any, list[str]]:
    """The model in a file, of Keras' own layers, and a note. Runs no code of the file. Raises UserError."""
    import keras

    check_file(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an optimizer's state, which begins anew
            model = keras.models.load_model(name, safe_mode=True)
    except Exception as error:  # damaged, of layers that are the user's, or of code
        own = _UNKNOWN.search(str(error))
        told = reason(error)
        if own is not None:
            told = f"its {own['kind']} {own['name']} is not one of Keras' own"
        elif "`Lambda`" in str(error):
            told = "its Lambda layer holds code, which is not run"
        raise UserError(
            f"model file {name} cannot be loaded ({told}): give a file that model.save wrote of Keras' own layers, "
            "losses and metrics, or package.module:function, whose function loads it"
        ) from error
    return model, [f"model from {name}, with the weights that it has"]


def copied(name: str, model: Any) -> Any:
    """A model of the same layers and weights that shares none of them. Raises UserError where Keras can make none."""
    import keras

    from horovod_flowers.model.keras_internals import all_layers

    try:
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        for one, other in zip(all_layers(copy), all_layers(model), strict=True):
            one.trainable = other.trainable
    except Exception as error:  # a subclassed model without get_config, or not built
        raise UserError(
            f"model {name} is built already and cannot be copied ({reason(error)}): give a function that builds it, "
            "def build(image_size, classes)"
        ) from error
    return copy


def _application(name: str, options: dict[str, Any]) -> Callable[..., Any]:
    """A builder of one of Keras' applications, with random weights and a new last layer. Raises UserError."""
    import keras

    construct = getattr(keras.applications, name, None)
    if not callable(construct):
        raise UserError(f"keras.applications has no {name!r}: give a name such as keras.applications:MobileNetV2")
    preprocess = importlib.import_module(construct.__module__).preprocess_input
    own = {"include_top": False, "weights": None, "pooling": "avg", "name": APPLICATION}
    known = set(inspect.signature(construct).parameters)
    further = sorted(known - own.keys() - {"input_tensor", "input_shape", "classes", "classifier_activation"})
    for option in options:
        if option not in further:
            raise UserError(
                f"model.options has {option!r}, which model {APPLICATIONS}:{name} does not take: it takes "
                f"{', '.join(further) or 'none'}"
            )

    def build(image_size: int, classes: int, **options: Any) -> Any:
        shape = (image_size, image_size, 3)
        inner = construct(input_shape=shape, **own, **options)
        inputs = keras.layers.Input(shape)
        return keras.Model(inputs, keras.layers.Dense(classes)(inner(preprocess(inputs))), name=name.lower())

    return build


APPLICATIONS, APPLICATION = "keras.applications", "application"


def _builder(name: str, options: dict[str, Any]) -> Any:
    """The function behind a name, or a model that is built already.

    Raises UserError where there is neither, or the function cannot be called as a builder is, with these options.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    module, _, function = name.partition(":")
    if module == APPLICATIONS:
        return _application(function, options)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"model {name} cannot be imported ({error}): give package.module:function and run where Python finds it, "
            "or set PYTHONPATH"
        ) from error
    if isinstance(found, keras_model()):
        if options:
            raise UserError(
                f"model.options has {', '.join(options)}, and model {name} is built already: leave them out, or "
                f"{_WANTED}"
            )
        return found
    if not callable(found):
        raise UserError(f"model {name} is {_kind(found)}, no function: {_WANTED}")
    with contextlib.suppress(ValueError):  # of a few builtins Python does not know the arguments
        _check_arguments(name, found, inspect.signature(found), options)
    return found


def _check_arguments(name: str, found: Any, signature: inspect.Signature, options: dict[str, Any]) -> None:
    """Refuse a function that takes other arguments (UserError)."""
    try:
        signature.bind(image_size=0, classes=0, **options)
    except TypeError as error:
        told = f"model {name} is a {'class' if isinstance(found, type) else 'function'} that takes {signature}"
        parameters = signature.parameters.values()
        by_name = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        any_name = any(each.kind is each.VAR_KEYWORD for each in parameters)
        names = {each.name for each in by_name}
        unknown = [option for option in options if option not in names and not any_name]
        given = {*SET_BY_TRAINING, *options}
        missing = [each.name for each in by_name if each.default is each.empty and each.name not in given]
        if any_name or set(SET_BY_TRAINING) <= names:
            if unknown:
                raise UserError(f"{told}, and model.options has {unknown[0]!r}: give names of its arguments") from error
            if missing:
                raise UserError(
                    f"{told}: give {', '.join(missing)}, too, such as --model.options.{missing[0]} VALUE"
                ) from error
        raise UserError(f"{told}, and it is called with image_size= and classes= ({error}): {_WANTED}") from error
