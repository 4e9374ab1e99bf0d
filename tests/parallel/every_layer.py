"""A program for N ranks: trains models in which every layer of keras.layers that has weights has a branch, under every
strategy and, on rank 0, alone on the same global batches; writes by how much weights differ.

    mpirun -np N python -m tests.parallel.every_layer OUTPUT.json

Each layer comes as it is, and once more with each constraint, regularizer and activity regularizer that it takes.
Meshes are left to strategies_against_one_rank.py, which has four ranks for them.
"""

import dataclasses
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.config.run import RunConfig
from horovod_flowers.launch.job_environment import JobEnvironment
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.single_process import SingleProcess
from horovod_flowers.ranks.startup import connect, start_horovod, start_tensorflow
from horovod_flowers.runtime.exit import error_boundary
from tests.parallel.noise_batches import batch_of

SIZE, CLASSES, IMAGES, STEPS = 8, 4, 8, 2
STRATEGIES = (
    {"strategy": "allreduce", "dense_gradients": "factors"},
    {"strategy": "sharded", "dense_gradients": "factors"},
    {"strategy": "tensor"},
)
SMALLEST_DIVIDED = 16
"""Elements of a weight that 'sharded' divides here, so that it divides small ones."""
BRANCHES = 32
"""Of one model."""
WIDE_UNITS = 20
"""Of a Dense layer that every model has beside them."""

Shape = tuple[int, ...]
IMAGE, SEQUENCE, VECTOR, VOLUME, FRAMES = (8, 8, 3), (8, 24), (48,), (4, 4, 4, 3), (3, 4, 4, 4)
"""What comes into a layer for each image."""

NOT_FOR_PHOTOS = {
    "JaxLayer": "another framework's",
    "FlaxLayer": "another framework's",
    "TorchModuleWrapper": "another framework's",
    "TFSMLayer": "a file's",
    "InputLayer": "the inputs of every model here",
    "Layer": "the base of all",
    "Wrapper": "a base",
    "GRUCell": "in RNN",
    "LSTMCell": "in RNN",
    "SimpleRNNCell": "in RNN",
    "StackedRNNCells": "in RNN",
    "CategoryEncoding": "of integers",
    "Discretization": "gives integers",
    "Equalization": "Keras 3.12 does not take it into a functional model",
    "HashedCrossing": "of integers",
    "Hashing": "of integers",
    "IntegerLookup": "of integers",
    "MaxNumBoundingBoxes": "of boxes",
    "StringLookup": "of words",
    "TextVectorization": "of words",
}
"""Layers that no model of photos has, or not by themselves."""


HAVING_WEIGHTS = (
    *("RNN", "Bidirectional", "SpectralNormalization", "TimeDistributed", "Attention", "AdditiveAttention"),
    *("Normalization", "STFTSpectrogram", "MelSpectrogram"),
)
"""Of those whose arguments do not tell."""


def one_of_each() -> dict[str, tuple[Shape, Callable[..., Any]]]:
    """Each layer by the name of its class: what comes in, and how it is made, further arguments given."""
    from keras import layers

    def of(kind: Any, **arguments: Any) -> Callable[..., Any]:
        return partial(kind, **arguments)

    def merged(kind: Any, **arguments: Any) -> Callable[..., Any]:
        def make(**further: Any) -> Any:
            layer = kind(**arguments, **further)
            return lambda inputs: layer([inputs, inputs * inputs])

        return make

    def attended(kind: Any, **arguments: Any) -> Callable[..., Any]:
        def make(**further: Any) -> Any:
            layer = kind(**arguments, **further)
            return lambda inputs: layer(inputs, inputs)

        return make

    def on_integers(kind: Any, **arguments: Any) -> Callable[..., Any]:
        def make(**further: Any) -> Any:
            layer = kind(input_dim=11, output_dim=5, **arguments, **further)
            return lambda inputs: layer(layers.Lambda(to_integers, dtype="float32")(inputs))

        return make

    dense = partial(layers.Dense, 24)
    kinds: dict[str, tuple[Shape, Callable[..., Any]]] = {
        "Activation": (VECTOR, of(layers.Activation, activation="tanh")),
        "ActivityRegularization": (VECTOR, of(layers.ActivityRegularization, l1=0.01, l2=0.01)),
        "AdditiveAttention": (SEQUENCE, merged(layers.AdditiveAttention)),
        "Attention": (SEQUENCE, merged(layers.Attention, use_scale=True)),
        "BatchNormalization": (IMAGE, of(layers.BatchNormalization, synchronized=True)),
        "Bidirectional": (SEQUENCE, lambda **further: layers.Bidirectional(layers.GRU(4, **further))),
        "CenterCrop": (IMAGE, of(layers.CenterCrop, height=4, width=4)),
        "Dense": (VECTOR, of(layers.Dense, units=24, activation="tanh")),
        "EinsumDense": (
            SEQUENCE,
            of(layers.EinsumDense, equation="abc,cd->abd", output_shape=(8, 4), bias_axes="d"),
        ),
        "Dot": (VECTOR, merged(layers.Dot, axes=-1)),
        "Embedding": (VECTOR, on_integers(layers.Embedding)),
        "ReversibleEmbedding": (VECTOR, on_integers(layers.ReversibleEmbedding)),
        "GroupNormalization": (IMAGE, of(layers.GroupNormalization, groups=3)),
        "GroupQueryAttention": (
            SEQUENCE,
            attended(layers.GroupQueryAttention, head_dim=4, num_query_heads=2, num_key_value_heads=1),
        ),
        "Lambda": (VECTOR, of(layers.Lambda, function=to_squares)),
        "Masking": (SEQUENCE, of(layers.Masking)),
        "MelSpectrogram": (
            VECTOR,
            of(layers.MelSpectrogram, sequence_length=16, fft_length=16, sequence_stride=8, num_mel_bins=4),
        ),
        "STFTSpectrogram": (
            SEQUENCE,
            of(layers.STFTSpectrogram, mode="psd", frame_length=4, frame_step=2, fft_length=4),
        ),
        "MultiHeadAttention": (SEQUENCE, attended(layers.MultiHeadAttention, num_heads=2, key_dim=4)),
        "Normalization": (VECTOR, of(layers.Normalization, mean=0.5, variance=2.0)),
        "Permute": (SEQUENCE, of(layers.Permute, dims=(2, 1))),
        "Pipeline": (IMAGE, lambda **further: layers.Pipeline([layers.Rescaling(0.5)], **further)),
        "RNN": (
            SEQUENCE,
            lambda **further: layers.RNN(layers.StackedRNNCells([layers.GRUCell(4), layers.LSTMCell(4)]), **further),
        ),
        "RepeatVector": (VECTOR, of(layers.RepeatVector, n=2)),
        "Rescaling": (VECTOR, of(layers.Rescaling, scale=0.5)),
        "Reshape": (VECTOR, of(layers.Reshape, target_shape=(6, 8))),
        "Resizing": (IMAGE, of(layers.Resizing, height=4, width=4)),
        "SpectralNormalization": (VECTOR, lambda **further: layers.SpectralNormalization(dense(), **further)),
        "TimeDistributed": (SEQUENCE, lambda **further: layers.TimeDistributed(dense(), **further)),
        "AutoContrast": (IMAGE, of(layers.AutoContrast, value_range=(0, 1))),
    }
    for name in ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"):
        kinds[name] = (VECTOR, merged(getattr(layers, name)))
    for name in ("ELU", "LeakyReLU", "PReLU", "ReLU", "Softmax", "Flatten", "Identity"):
        kinds[name] = (SEQUENCE, of(getattr(layers, name)))
    for name in ("LayerNormalization", "RMSNormalization", "UnitNormalization"):
        kinds[name] = (SEQUENCE, of(getattr(layers, name)))
    for name in ("GRU", "LSTM", "SimpleRNN"):
        kinds[name] = (SEQUENCE, of(getattr(layers, name), units=4))
    for axes, shape in ((1, SEQUENCE), (2, IMAGE), (3, VOLUME)):
        for name in ("Conv{}D", "Conv{}DTranspose", "SeparableConv{}D"):
            if (kind := getattr(layers, name.format(axes), None)) is not None:
                kinds[name.format(axes)] = (shape, of(kind, filters=4, kernel_size=2))
        if (kind := getattr(layers, f"DepthwiseConv{axes}D", None)) is not None:
            kinds[f"DepthwiseConv{axes}D"] = (shape, of(kind, kernel_size=2))
        for name in ("MaxPooling{}D", "AveragePooling{}D"):
            kinds[name.format(axes)] = (shape, of(getattr(layers, name.format(axes)), pool_size=2))
        for name in ("GlobalMaxPooling{}D", "GlobalAveragePooling{}D"):
            kinds[name.format(axes)] = (shape, of(getattr(layers, name.format(axes))))
        for name in ("Cropping{}D", "UpSampling{}D", "ZeroPadding{}D"):
            kinds[name.format(axes)] = (shape, of(getattr(layers, name.format(axes))))
    for axes, shape in ((1, (3, 4, 16)), (2, FRAMES)):
        kinds[f"ConvLSTM{axes}D"] = (shape, of(getattr(layers, f"ConvLSTM{axes}D"), filters=2, kernel_size=2))
    kinds["ConvLSTM3D"] = ((3, 2, 2, 4, 4), of(layers.ConvLSTM3D, filters=2, kernel_size=2))
    return kinds


def to_integers(inputs: Any) -> Any:
    """Pixels to 0..10."""
    from keras import ops

    return ops.cast(inputs * 10, "int32")


def to_squares(inputs: Any) -> Any:
    """A function of a user's."""
    return inputs * inputs


def every_class() -> dict[str, Any]:
    """The layers that Keras exports, by the names that their classes have."""
    import keras

    kinds = [kind for kind in vars(keras.layers).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, keras.layers.Layer)]
    names = {name: kind for name, kind in vars(keras.layers).items() if kind in kinds}
    # Aliases such as Convolution2D and MaxPool2D are left out.
    return {name: kind for name, kind in names.items() if name == exported_name(kind, names)}


def exported_name(kind: Any, names: dict[str, Any]) -> str:
    """The name of a class under keras.layers: its own if it is exported under that."""
    return kind.__name__ if kind.__name__ in names else next(name for name, each in names.items() if each is kind)


def penalised(kind: Any, layer_class: Any) -> Any:
    """A layer with everything that it takes of constraints and regularizers."""
    from keras import constraints, regularizers

    known = inspect.signature(layer_class.__init__).parameters
    further: dict[str, Any] = {"activity_regularizer": regularizers.L1L2(0.001, 0.01)}
    for name in known:
        if name.endswith("_constraint"):
            further[name] = constraints.MaxNorm(0.3, axis=-1)
        elif name.endswith("_regularizer") and name != "activity_regularizer":
            further[name] = regularizers.L2(0.01)
    return kind(**further)


def readout(width: int, number: int) -> Any:
    """A layer without weights that gives each branch its say: fixed random numbers times its outputs."""
    import keras
    from keras import ops

    matrix = np.random.default_rng(number).normal(size=(width, CLASSES)).astype(np.float32) / np.sqrt(width)
    return keras.layers.Lambda(lambda inputs: ops.tanh(ops.matmul(inputs, matrix)), name=f"readout_{number}")


@dataclasses.dataclass(frozen=True)
class BranchOf:
    """A layer of a model: its class, and whether it has penalties."""

    layer: str
    penalised: bool


def all_branches() -> list[BranchOf]:
    """Each layer that may have weights or that adds penalties, as it is and with all that it takes of them."""
    names = [name for name in one_of_each() if has_weights(name) or name == "ActivityRegularization"]
    both = [BranchOf(name, penalties) for penalties in (False, True) for name in names]
    return [branch for branch in both if branch != BranchOf("ActivityRegularization", penalised=True)]


def has_weights(name: str) -> bool:
    """Whether a class of layers may have weights, as far as its arguments tell."""
    known = inspect.signature(every_class()[name].__init__).parameters
    return name in HAVING_WEIGHTS or any(each.endswith("_initializer") for each in known)


def gain(name: str) -> Any:
    """A layer with one weight a channel, in which the gradients that a layer passes on show."""
    import keras

    class Gain(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.factors = self.add_weight(shape=(shape[-1],), name="factors", initializer="ones")

        def call(self, inputs: Any) -> Any:
            return inputs * self.factors

    return Gain(name=name)


def build(branches: list[BranchOf]) -> tuple[Any, list[str]]:
    """A model of these branches, and the names of its variables as built."""
    import keras
    from keras import layers

    keras.backend.clear_session()  # names count from the first model
    keras.utils.set_random_seed(0)
    inputs = layers.Input((SIZE, SIZE, 3))
    scaled = layers.Rescaling(1 / 255)(inputs)
    flat = layers.Flatten()(scaled)
    kinds, classes = one_of_each(), every_class()
    # For 'tensor' to divide.
    wide = layers.Dense(WIDE_UNITS, activation="tanh", name="wide")(flat)
    outputs = [readout(WIDE_UNITS, len(branches))(wide)]
    for number, branch in enumerate(branches):
        shape, kind = kinds[branch.layer]
        length = int(np.prod(shape))
        cut = layers.Lambda(lambda pixels, length=length: pixels[:, :length], output_shape=(length,))(flat)
        into = layers.Reshape(shape)(cut) if len(shape) > 1 else cut
        if "Embedding" not in branch.layer:  # it takes no gradients further
            into = gain(f"before_{number}")(into)
        layer = penalised(kind, classes[branch.layer]) if branch.penalised else kind()
        out = layers.Flatten()(layer(into))
        outputs.append(readout(out.shape[-1], number)(out))
    model = keras.Model(inputs, layers.Add()(outputs))
    return model, [variable.path for variable in model.variables]


def train(branches: list[BranchOf], config: RunConfig, ranks: Ranks) -> tuple[dict[str, np.ndarray], list[str]]:
    """The weights after some steps, on rank 0, by the variables' names; and what the strategy notes."""
    from horovod_flowers.checkpoint.model_state import ModelState
    from horovod_flowers.strategy.choice import make_strategy
    from horovod_flowers.training.optimizer import build_over, make_optimizer
    from horovod_flowers.training.step import TrainingStep, Update

    model, paths = build(branches)
    strategy = make_strategy(config.strategy, config, ranks, "fp32", model, SIZE)
    state, optimizer = ModelState(model, strategy), make_optimizer(config.optimizer)
    build_over(optimizer, strategy.optimizer_variables, [part.shape for part in strategy.parts])
    state.add_optimizer(optimizer)
    state.share(None)
    step = TrainingStep(model, optimizer, strategy, ranks.size, "fp32")
    for number in range(STEPS):
        step(
            batch_of(number, ranks.rank, ranks.size, images=IMAGES, pixels=SIZE, classes=CLASSES),
            0.01,
            Update(IMAGES - 1),
        )
    collected = state.collect() or {}
    by_path = {f"{k} {path}": collected[f"weight.{k:04d}"] for k, path in enumerate(paths) if collected}
    return by_path, strategy.notes


def worst(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, float]:
    """Relative differences of tensors, the largest first."""
    assert one.keys() == other.keys()
    found = {}
    for name, value in one.items():
        norm = float(np.linalg.norm(value.astype(np.float64)))
        found[name] = float(np.linalg.norm(value.astype(np.float64) - other[name])) / max(norm, 1e-3)
    return dict(sorted(found.items(), key=lambda entry: -entry[1])[:8])


def groups(branches: list[BranchOf]) -> Iterator[list[BranchOf]]:
    for first in range(0, len(branches), BRANCHES):
        yield branches[first : first + BRANCHES]


def main() -> None:
    with error_boundary("layers"):
        ranks = connect(JobEnvironment.from_environment(os.environ), 1, "auto")
        start_tensorflow(ranks, 1)
        import tensorflow as tf

        from horovod_flowers.strategy import choice

        # Most of the time of this program is the making of graphs.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        choice.SMALLEST_DIVIDED = SMALLEST_DIVIDED
        base = RunConfig(shard_above=500, optimizer=OptimizerConfig(name="sgd", momentum=0.5))
        ranks = start_horovod(ranks, base.horovod, 1)
        alone = Ranks(0, 1, 0, 1, "single", SingleProcess())
        found = []
        for group in groups(all_branches()):
            expected = train(group, base, alone)[0] if ranks.rank == 0 else {}
            for options in STRATEGIES:
                chosen = dataclasses.replace(base, **options)  # type: ignore[arg-type]
                weights, notes = train(group, chosen, ranks)
                if ranks.rank == 0:
                    names = sorted({branch.layer for branch in group})
                    case = " ".join(options.values())
                    found.append({"layers": names, "case": case, "worst": worst(expected, weights), "notes": notes})
        if ranks.rank == 0:
            Path(sys.argv[1]).write_text(json.dumps(found))
        ranks.barrier()


if __name__ == "__main__":
    main()
