"""What cannot work on several ranks: refused in one sentence before anything is trained."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from horovod_flowers.model.keras_internals import all_layers
from horovod_flowers.model.optimizer_class import combining_of
from horovod_flowers.runtime.errors import UserError

STRATEGIES = ("allreduce", "sharded", "tensor", "mesh", "auto", "none")


def check_asked(model: Any, strategy: str) -> None:
    """What `distribute` was given. Raises UserError."""
    if strategy not in STRATEGIES:
        raise UserError(f"strategy {strategy!r} is unknown: one of {', '.join(STRATEGIES)}")
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        raise UserError(f"distribute takes a keras.Model of Keras 3, and was given {kind}")
    if not model.compiled:
        raise UserError(f"model {model.name} is not compiled: call compile(optimizer, loss, ...) before distribute")


def check_can_train(model: Any, size: int) -> None:
    """What `size` ranks cannot train. Raises UserError."""
    others = [name for name, found in _optimizers(vars(model)) if found is not model.optimizer]
    if others and size > 1:
        raise UserError(
            f"model {model.name} has more than one optimizer ({', '.join(['optimizer', *others])}): one train_step "
            "with several optimizers cannot be distributed; train the parts as models of their own, or use a loop of "
            "your own with horovod_flowers.keras.DistributedOptimizer"
        )
    if model.optimizer is None:
        raise UserError(f"model {model.name} was compiled without an optimizer: give compile one")
    combining = combining_of(model.optimizer)
    if combining is not None and type(combining).__module__.rpartition(".")[0] != __package__:
        raise UserError(
            f"model {model.name} was compiled with hvd.DistributedOptimizer, which combines gradients itself: compile "
            "it with the optimizer alone, or leave out distribute"
        )
    if size > 1 and model.jit_compile and not tf.config.list_logical_devices("GPU"):
        raise UserError(
            f"model {model.name} was compiled with jit_compile=True, and XLA on a CPU cannot call MPI (and computes "
            "slower there): compile it with jit_compile=False, or leave it at 'auto'"
        )
    _check_layers(model)


def _optimizers(attributes: Mapping[str, Any], depth: int = 2) -> Iterator[tuple[str, Any]]:
    """The optimizers among the attributes of a model, in lists and dictionaries, too."""
    for name, value in attributes.items():
        if isinstance(value, keras.optimizers.Optimizer):
            yield str(name), value
        elif depth and isinstance(value, list | tuple):
            yield from _optimizers({f"{name}[{number}]": each for number, each in enumerate(value)}, depth - 1)
        elif depth and isinstance(value, dict) and not str(name).startswith("_"):
            yield from _optimizers({f"{name}[{key!r}]": each for key, each in value.items()}, depth - 1)


def _check_layers(model: Any) -> None:
    for variable in model.trainable_variables:
        if variable.overwrite_with_gradient:
            raise UserError(
                f"{variable.path} belongs to a layer that is quantized to float8 in training: what Keras calls the "
                "gradients of its scales are no gradients, and cannot be averaged over ranks; build the model without "
                "quantize('float8')"
            )
    for layer in all_layers(model):
        if getattr(layer, "stateful", False) and isinstance(layer, keras.layers.RNN):
            raise UserError(
                f"layer {layer.name} is stateful: it keeps a state for each place in the batch, and the rows of a "
                "batch go to other ranks; leave out stateful=True, or train on one rank"
            )
