"""Runs as training leaves them, made without training: random weights, large enough for answers that differ."""

from pathlib import Path
from typing import Any

from horovod_flowers.checkpoint.format import SavedProgress, save_checkpoint
from horovod_flowers.checkpoint.model_state import ModelState
from horovod_flowers.config.command_line import to_yaml
from horovod_flowers.config.data import DataConfig
from horovod_flowers.config.run import ModelConfig, RunConfig
from horovod_flowers.model.registry import build_model
from horovod_flowers.runlog.run_folder import RunFolder

CLASSES = ("daisy", "rosé", "tulip")


def make_run(
    path: Path,
    model: str = "flower_cnn",
    image_size: int = 32,
    seed: int = 1,
    classes: tuple[str, ...] = CLASSES,
) -> RunFolder:
    """A run folder with its configuration and a best and last checkpoint after epoch 4."""
    import keras

    keras.utils.set_random_seed(seed)
    config = RunConfig(name=path.name, data=DataConfig(image_size=image_size), model=ModelConfig(name=model))
    state = ModelState.on_one_rank(build_model(model, image_size, len(classes)))
    tensors = state.collect()
    assert tensors is not None
    floats = {name: value * (2 if value.dtype == "float32" else 1) for name, value in tensors.items()}
    path.mkdir(parents=True)
    folder = RunFolder(path)
    folder.config.write_text(to_yaml(config), encoding="utf-8")
    progress = SavedProgress(
        epochs_done=4,
        steps_done=40,
        training_seconds=9.5,
        model=model,
        class_names=classes,
        data_digest="0123abcd",
        validation_accuracy=0.75,
        best_validation_accuracy=0.75,
        best_epoch=4,
    )
    save_checkpoint(folder.checkpoints, floats, progress)
    return folder


def of_any_size(image_size: int, classes: int) -> Any:
    """A user's model that itself takes any size, with statistics of batches and an average over the image."""
    from keras import Input, Model, layers

    images = Input((None, None, 3))
    x = layers.Conv2D(8, 3, use_bias=False)(layers.Rescaling(1 / 127.5, -1)(images))
    x = layers.Add()([x, layers.DepthwiseConv2D(3, padding="same")(layers.BatchNormalization()(x))])
    x = layers.GlobalAveragePooling2D()(layers.Activation("gelu")(x))
    return Model(images, layers.Dense(classes)(layers.Dropout(0.5)(x)), name="of_any_size")


def with_lambda(image_size: int, classes: int) -> Any:
    """A user's model with code of its own inside."""
    from keras import Sequential, layers

    halves = layers.Lambda(lambda pixels: pixels / 2)
    return Sequential([layers.Input((image_size, image_size, 3)), halves, layers.Flatten(), layers.Dense(classes)])


def with_own_layer(image_size: int, classes: int) -> Any:
    """A user's model with a layer that only its own module knows."""
    from keras import Sequential, layers

    class Halves(layers.Layer):
        def call(self, pixels: Any) -> Any:
            return pixels / 2

    return Sequential([layers.Input((image_size, image_size, 3)), Halves(), layers.Flatten(), layers.Dense(classes)])


def that_cannot_be_described(image_size: int, classes: int) -> Any:
    """A user's model with a layer that does not tell how it was made."""
    from keras import Sequential, layers

    class Scaled(layers.Layer):
        def __init__(self, by: Any) -> None:
            super().__init__()
            self.by = by

        def call(self, pixels: Any) -> Any:
            return pixels * self.by

    scaled = Scaled(object)
    scaled.by = 0.5
    return Sequential([layers.Input((image_size, image_size, 3)), scaled, layers.Flatten(), layers.Dense(classes)])
