"""DistributedOptimizer: any Keras optimizer, whose gradients are combined over ranks."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import horovod.tensorflow as hvd
import keras
import tensorflow as tf
from horovod.tensorflow.compression import Compression
from horovod.tensorflow.mpi_ops import ProcessSet, global_process_set

from horovod_flowers.keras.argument_error import ArgumentError
from horovod_flowers.keras.backward_passes import Exchange
from horovod_flowers.keras.collectives import OPERATIONS
from horovod_flowers.keras.gradient_reduction import Options, Reduction
from horovod_flowers.model.optimizer_class import combining_copy


def DistributedOptimizer(
    optimizer: Any,
    name: str | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    sparse_as_dense: bool = False,
    gradient_predivide_factor: float = 1.0,
    op: Any = hvd.Average,
    backward_passes_per_step: int = 1,
    average_aggregated_gradients: bool = False,
    num_groups: int = 0,
    groups: Any = None,
    process_set: Any = global_process_set,
    scale_local_gradients: bool = True,
) -> Any:
    """A copy of a Keras optimizer that combines gradients over ranks before it updates any weights.

    Clipping, averages, weight decay, schedules and gradient_accumulation_steps act on the combined gradients. Saved
    models and checkpoints name the optimizer's own class, and load with and without this package.

    optimizer: of Keras 3; its settings are taken over, and its state where it has one.
    name: begins the names of the collective calls; DistributedADAM for ADAM where it is None.
    device_dense, device_sparse: device of TensorFlow that combines gradients and their rows.
    compression: of what is sent: Compression.none, Compression.fp16 or a class with `compress` and `decompress`.
    sparse_as_dense: combine tf.IndexedSlices (gradients of embeddings) as dense gradients, not as gathered rows.
    gradient_predivide_factor: f divides gradients before they are summed, and ranks/f divides the sum; Average alone.
    op: Average or Sum.
    backward_passes_per_step: N adds up the gradients of N calls on each rank, then combines them and updates. The
        calls between count in `iterations`, by which schedules go; the update itself counts updates.
    average_aggregated_gradients: divide such a sum by N.
    num_groups: deprecated; groups.
    groups: number of calls to put gradients into, or lists of variables whose gradients go together.
    process_set: ranks to combine with; a rank that is not in it updates with its own gradients.
    scale_local_gradients: divide the gradients of local variables (`register_local_var`) by the number of ranks.
    Raises ArgumentError for what cannot work, UserError for an optimizer that is none of Keras 3 or combines already.
    """
    if num_groups != 0:
        warnings.warn("num_groups is deprecated: give groups", DeprecationWarning, stacklevel=2)
        if groups is None:
            groups = num_groups
    return _distributed(
        optimizer,
        Options(
            name=name or f"Distributed{type(optimizer).__name__}",
            device_dense=device_dense,
            device_sparse=device_sparse,
            compression=compression,
            sparse_as_dense=sparse_as_dense,
            gradient_predivide_factor=gradient_predivide_factor,
            op=op,
            groups=groups,
            process_set=process_set,
        ),
        passes=_checked_passes(backward_passes_per_step, optimizer),
        average_passes=average_aggregated_gradients,
        scale_local_gradients=scale_local_gradients,
    )


def PartialDistributedOptimizer(
    optimizer: Any,
    name: str | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = Compression.none,
    sparse_as_dense: bool = False,
    gradient_predivide_factor: float = 1.0,
    op: Any = hvd.Average,
    groups: Any = None,
    process_set: Any = global_process_set,
    local_layers: Any = None,
    scale_local_gradients: bool = True,
) -> Any:
    """A DistributedOptimizer that leaves the gradients of some layers to each rank.

    local_layers: a layer or several, built or not. Other arguments and errors: as of DistributedOptimizer.
    """
    if local_layers is None:
        local_layers = []
    elif isinstance(local_layers, keras.Layer):
        local_layers = [local_layers]
    elif not isinstance(local_layers, Iterable):
        raise ArgumentError(f"local_layers is {local_layers!r}: give a layer of Keras, or a list of them")
    local_layers = list(local_layers)
    for layer in local_layers:
        if not isinstance(layer, keras.Layer):
            raise ArgumentError(f"local_layers has {layer!r} in it, which is no layer of Keras 3")
    return _distributed(
        optimizer,
        Options(
            name=name or f"Distributed{type(optimizer).__name__}",
            device_dense=device_dense,
            device_sparse=device_sparse,
            compression=compression,
            sparse_as_dense=sparse_as_dense,
            gradient_predivide_factor=gradient_predivide_factor,
            op=op,
            groups=groups,
            process_set=process_set,
        ),
        scale_local_gradients=scale_local_gradients,
        local_layers=local_layers,
    )


def _distributed(
    optimizer: Any,
    options: Options,
    passes: int = 1,
    average_passes: bool = False,
    scale_local_gradients: bool = True,
    local_layers: Sequence[Any] = (),
) -> Any:
    """A copy of the optimizer that combines gradients. options: as the user gave them."""
    if not hvd.is_initialized():
        raise ArgumentError("Horovod has not been started: call hvd.init() first")
    checked = replace(
        options,
        device_dense=_checked_device("device_dense", options.device_dense),
        device_sparse=_checked_device("device_sparse", options.device_sparse),
        compression=_checked_compression(options.compression),
        gradient_predivide_factor=_checked_factor(options.gradient_predivide_factor, options.op),
        op=_checked_operation(options.op),
        groups=_checked_groups(options.groups),
        process_set=_checked_process_set(options.process_set),
    )

    def exchange() -> Exchange:
        return Exchange(Reduction(checked), passes, average_passes, scale_local_gradients, local_layers)

    return combining_copy(optimizer, exchange, _HorovodOptimizer)


class _Callable(list[Any]):
    """Keras 2 had a method `variables`, Keras 3 a property."""

    def __call__(self) -> list[Any]:
        return self


class _HorovodOptimizer:
    """What a distributed optimizer has of its own beside the user's."""

    _combining: Exchange
    learning_rate: Any

    @property
    def process_set(self) -> Any:
        """The ranks to combine with."""
        return self._combining.reduction.options.process_set

    @property
    def variables(self) -> _Callable:
        """Of the optimizer, as Keras gives them; may be called, as in Keras 2."""
        return _Callable(super().variables)  # type: ignore[misc]

    @property
    def iterations(self) -> Any:
        """How often the optimizer was called; while it updates, how often it has updated."""
        counted = super().iterations  # type: ignore[misc]
        exchange = self._combining
        return counted // exchange.passes if exchange.counts_updates else counted

    @property
    def lr(self) -> Any:
        """The learning rate, as Keras 2 named it."""
        return self.learning_rate

    @lr.setter
    def lr(self, rate: Any) -> None:
        self.learning_rate = rate

    def register_local_var(self, var: Any) -> None:
        """Leave the gradients of a variable to this rank; before the first step."""
        if not isinstance(var, keras.Variable | tf.Variable):
            raise ArgumentError(f"register_local_var was given {var!r}, which is no variable")
        self._combining.register_local([var])


def _checked_device(argument: str, device: str) -> str:
    try:
        kind = tf.DeviceSpec.from_string(device or "").device_type
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"{argument} is {device!r}, which is no device of TensorFlow such as '/cpu:0'") from error
    if kind is not None and not tf.config.list_logical_devices(kind):
        raise ArgumentError(f"{argument} is {device!r}, and TensorFlow finds no {kind} here: leave it out")
    return device or ""


def _checked_compression(compression: Any) -> Any:
    if not (callable(getattr(compression, "compress", None)) and callable(getattr(compression, "decompress", None))):
        raise ArgumentError(
            f"compression is {compression!r}: give hvd.Compression.none, hvd.Compression.fp16, or a class with "
            "compress and decompress"
        )
    return compression


def _checked_factor(factor: float, op: Any) -> float:
    if not isinstance(factor, int | float) or not (math.isfinite(factor) and factor > 0):
        raise ArgumentError(f"gradient_predivide_factor is {factor!r}, and has to be a number above 0")
    if factor != 1 and op != hvd.Average:
        raise ArgumentError("gradient_predivide_factor splits an average: use it with op=hvd.Average")
    if factor != 1 and hvd.rocm_built():
        raise ArgumentError("gradient_predivide_factor does not work where Horovod was built with ROCm")
    return float(factor)


def _checked_operation(op: Any) -> Any:
    if op == hvd.Adasum:
        raise ArgumentError(
            "op=hvd.Adasum combines whole updates, and a Keras optimizer makes them of combined gradients: use "
            "op=hvd.Average or op=hvd.Sum (hvd.allreduce takes op=hvd.Adasum)"
        )
    if op not in (hvd.Average, hvd.Sum):
        raise ArgumentError(f"op is {OPERATIONS.get(op, repr(op))}: give hvd.Average or hvd.Sum")
    return op


def _checked_groups(groups: Any) -> int | list[list[Any]] | None:
    if groups is None:
        return None
    if isinstance(groups, int) and not isinstance(groups, bool) and groups > 0:
        return groups
    lists = isinstance(groups, list | tuple) and all(isinstance(group, list | tuple) for group in groups)
    if lists and all(isinstance(each, keras.Variable | tf.Variable) for group in groups for each in group):
        return [list(group) for group in groups]
    raise ArgumentError(f"groups is {groups!r}: give a number above 0, or a list of lists of variables")


def _checked_process_set(process_set: Any) -> Any:
    if not isinstance(process_set, ProcessSet):
        raise ArgumentError(f"process_set is {process_set!r}: give an hvd.ProcessSet")
    if process_set.process_set_id is None:
        raise ArgumentError(
            f"process_set {process_set} is not known to Horovod: give it to hvd.init(process_sets=[...]), or to "
            "hvd.add_process_set"
        )
    return process_set


def _checked_passes(passes: int, optimizer: Any) -> int:
    if not isinstance(passes, int) or isinstance(passes, bool) or passes < 1:
        raise ArgumentError(f"backward_passes_per_step is {passes!r}, and has to be a whole number from 1")
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if passes > 1 and getattr(inner, "gradient_accumulation_steps", None):
        raise ArgumentError(
            f"backward_passes_per_step={passes} and the optimizer's gradient_accumulation_steps="
            f"{inner.gradient_accumulation_steps} both add up gradients: use one of them"
        )
    return passes
