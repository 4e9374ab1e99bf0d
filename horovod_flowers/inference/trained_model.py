"""A trained model, ready to classify: from a checkpoint of a run. It knows nothing of ranks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from horovod_flowers.config.command_line import build
from horovod_flowers.config.run import RunConfig
from horovod_flowers.config.yaml_file import options_in
from horovod_flowers.runlog.reading.run import check_of_run
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runtime.errors import UserError

Checkpoint = Literal["best", "last"]


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """What tells flowers apart."""

    class_names: tuple[str, ...]
    image_size: int
    """Height and width in pixels of the images that it takes."""
    probabilities: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    """From uint8 [n, image_size, image_size, 3] RGB to float32 [n, classes] that add up to 1."""
    source: str
    """What it was loaded from, for messages."""
    keras_model: Any = field(repr=False)
    """From pixels 0..255, float32 [n, size, size, 3], to logits [n, classes]; None where a SavedModel was loaded."""


def read_run_config(folder: RunFolder) -> RunConfig:
    """The options of a run. Raises UserError where there is none."""
    if not folder.config.exists():
        raise UserError(f"there is no run {folder.path}: train one, or give the folder of one")
    config = build(RunConfig, options_in(folder.config))
    if config.emulate.profile is not None:
        raise UserError(
            f"run {folder.path} is emulated: it has learned nothing and keeps no weights; give a run that was trained"
        )
    return config


def load_run(folder: RunFolder, which: Checkpoint, config: RunConfig) -> TrainedModel:
    """Load a run's best or last checkpoint; TensorFlow must have been started.

    Raises UserError where the checkpoint is missing, damaged or of another training than the run.
    """
    import tensorflow as tf

    from horovod_flowers.checkpoint.format import DamagedError, load_averaged, read_progress
    from horovod_flowers.checkpoint.model_state import ModelState
    from horovod_flowers.model.registry import SAVED, build_model

    path = folder.checkpoints / f"{which}.safetensors"
    try:
        progress = read_progress(path)
        check_of_run(folder, path, progress)
        class_names = progress.class_names
        kept = config.model.name.endswith(SAVED) and folder.model.is_file()
        source = str(folder.model) if kept else config.model.name
        model = build_model(source, config.data.image_size, len(class_names), config.model.options)
        state = ModelState.on_one_rank(model)
        state.share(load_averaged(path, state.shapes))
    except DamagedError as error:
        other = "last" if which == "best" else "best"
        raise UserError(f"{error}: take the other one with --checkpoint {other}") from error
    forward = tf.function(lambda images: model(tf.cast(images, tf.float32), training=False), autograph=False)
    return TrainedModel(
        class_names=class_names,
        image_size=config.data.image_size,
        # Outside of the graph, which may be rewritten to compute in 16 bits.
        probabilities=lambda images: tf.nn.softmax(tf.cast(forward(tf.constant(images)), tf.float32)).numpy(),
        source=str(path),
        keras_model=model,
    )
