"""A saved model, with its optimizer made a distributed one."""

from collections.abc import Mapping, Sequence
from typing import Any

import h5py  # type: ignore[import-untyped]
import keras
from horovod.tensorflow.compression import Compression

from horovod_flowers.keras.argument_error import ArgumentError
from horovod_flowers.keras.distributed_optimizer import DistributedOptimizer
from horovod_flowers.model.keras_internals import copy_of_unbuilt


def load_model(
    filepath: Any,
    custom_optimizers: Sequence[type] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    compression: Any = Compression.none,
    legacy_opts: bool = False,
) -> Any:
    """Load a model that Keras has saved, whether its optimizer was distributed or not, and distribute its optimizer.

    filepath: a path (.keras or .h5), or an h5py.File of one.
    custom_optimizers: classes of optimizers that the file names and Keras does not know.
    custom_objects: others, by name.
    compression: as of DistributedOptimizer, whose other arguments are as by default.
    legacy_opts: refused (ArgumentError): Keras 3 has no legacy optimizers.
    Raises what keras.saving.load_model does.
    """
    if legacy_opts:
        raise ArgumentError("legacy_opts=True asks for Keras' legacy optimizers, which Keras 3 does not have")
    objects = {kind.__name__: kind for kind in custom_optimizers or ()} | dict(custom_objects or {})
    if type(filepath).__module__.startswith("h5py"):
        filepath = filepath.filename
    model = keras.saving.load_model(filepath, custom_objects=objects)
    if model.optimizer is not None:
        if str(filepath).endswith((".h5", ".hdf5")):
            model.optimizer = _with_state(model, str(filepath))
        model.optimizer = DistributedOptimizer(model.optimizer, compression=compression)
    return model


def _with_state(model: Any, path: str) -> Any:
    """The optimizer of a model that was loaded from HDF5, with its state.

    Keras 3.12 builds it for no weights at all, so that it could not train the model any further.
    """
    optimizer = copy_of_unbuilt(model.optimizer)
    optimizer.build(list(model.trainable_variables))
    with h5py.File(path) as file:
        group = file.get("optimizer_weights")
        if group is not None:
            attributes = [f"weight_names{number}" for number in range(len(group.attrs))]
            chunks = [group.attrs[name] for name in ("weight_names", *attributes) if name in group.attrs]
            values = [
                group[name.decode() if isinstance(name, bytes) else name][()] for names in chunks for name in names
            ]
            for variable, value in zip(optimizer.variables, values, strict=True):
                variable.assign(value)
    return optimizer
