"""Values combined over ranks, outside of an optimizer."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import horovod.tensorflow as hvd
import keras
import tensorflow as tf
from horovod.tensorflow.compression import Compression
from horovod.tensorflow.mpi_ops import _allreduce, global_process_set

from horovod_flowers.keras.argument_error import ArgumentError

OPERATIONS = {hvd.Average: "Average", hvd.Sum: "Sum", hvd.Adasum: "Adasum", hvd.Min: "Min", hvd.Max: "Max"}
OPERATIONS |= {hvd.Product: "Product"}


def allreduce(
    value: Any,
    name: str | None = None,
    average: bool | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    op: Any = None,
    compression: Any = Compression.none,
) -> Any:
    """Combine a value over the ranks: the result, on every rank, has its shape and type.

    value: tensor, variable, array or number, of the same shape and type on all ranks.
    name: of the call; needed only where two calls are under way at once.
    average: deprecated; True for op=Average, False for op=Sum.
    prescale_factor, postscale_factor: multiply the value before, and the result.
    op: Average (default), Sum, Min, Max, Product or Adasum (MPI, a power of two ranks).
    compression: of what is sent: Compression.none or Compression.fp16.
    Raises ArgumentError for what cannot work.
    """
    if average is not None:
        if op is not None:
            raise ArgumentError("allreduce is given both average and op: give op alone")
        warnings.warn("average is deprecated: give op=hvd.Average or op=hvd.Sum", DeprecationWarning, stacklevel=2)
        op = hvd.Average if average else hvd.Sum
    op = hvd.Average if op is None else op
    if op not in OPERATIONS:
        raise ArgumentError(f"op is {op!r}, and may be one of hvd.{', hvd.'.join(OPERATIONS.values())}")
    tensor = tensor_of(value)
    if op == hvd.Adasum:
        return _adasum(tensor, name, prescale_factor, postscale_factor, compression)

    def call(sent: Any) -> Any:
        return hvd.allreduce(
            sent,
            op=op,
            **named("allreduce", name),
            prescale_factor=prescale_factor,
            postscale_factor=postscale_factor,
            compression=compression,
        )

    return in_sendable_type(tensor, call)


def allgather(value: Any, name: str | None = None) -> Any:
    """The ranks' values one after the other along the first dimension, which alone may differ; on every rank."""
    return in_sendable_type(tensor_of(value), lambda sent: hvd.allgather(sent, **named("allgather", name)))


def broadcast(value: Any, root_rank: int, name: str | None = None) -> Any:
    """The value of the root rank, on every rank; all have the same shape and type."""
    check_root(root_rank)
    return in_sendable_type(tensor_of(value), lambda sent: hvd.broadcast(sent, root_rank, **named("broadcast", name)))


def reducescatter(value: Any, name: str | None = None, op: Any = hvd.Average) -> Any:
    """This rank's part, by the first dimension, of the value combined over the ranks by Average or Sum."""
    if op not in (hvd.Average, hvd.Sum):
        raise ArgumentError(f"op is {OPERATIONS.get(op, repr(op))}, and reducescatter knows hvd.Average and hvd.Sum")
    return in_sendable_type(
        tensor_of(value), lambda sent: hvd.reducescatter(sent, op=op, **named("reducescatter", name))
    )


def broadcast_global_variables(root_rank: int) -> None:
    """Refused in TensorFlow 2, as Horovod does, which has no list of all variables (ArgumentError)."""
    if tf.executing_eagerly():
        raise ArgumentError(
            "broadcast_global_variables is of TensorFlow 1, which kept a list of all variables: use "
            "hvd.callbacks.BroadcastGlobalVariablesCallback(0), or "
            "hvd.broadcast_variables(model.weights + model.optimizer.variables, root_rank=0)"
        )
    hvd.broadcast_global_variables(root_rank)


def broadcast_object(
    obj: Any, root_rank: int = 0, session: Any = None, name: str | None = None, process_set: Any = global_process_set
) -> Any:
    """The root rank's object, on every rank: anything that cloudpickle can send.

    session: of TensorFlow 1; refused (ArgumentError).
    """
    if session is not None:
        raise ArgumentError("session is of TensorFlow 1: leave it out")
    check_root(root_rank, process_set)
    return hvd.broadcast_object(obj, root_rank, name=name, process_set=process_set)


def broadcast_variables(
    variables: Sequence[Any], root_rank: int, process_set: Any = global_process_set, inplace: bool = False
) -> None:
    """Overwrite Keras variables or tf.Variables with those of the root rank.

    inplace: has no effect: each is assigned once.
    """
    check_root(root_rank, process_set)
    if process_set.size() == 1 or not process_set.included():
        return
    of_type: dict[Any, list[Any]] = {}
    for variable in variables:
        of_type.setdefault(tensor_of(variable).dtype, []).append(variable)
    for kind, some in of_type.items():  # all of a type in one call
        tensors = [tensor_of(variable) for variable in some]
        sent = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)
        name = f"horovod_flowers.keras.broadcast.{kind.name}"

        def call(flat: Any, name: str = name) -> Any:
            return hvd.broadcast(flat, root_rank, name=name, process_set=process_set, ignore_name_scope=True)

        parts = tf.split(in_sendable_type(sent, call), [tensor.shape.num_elements() for tensor in tensors])
        for variable, tensor, part in zip(some, tensors, parts, strict=True):
            variable.assign(tf.reshape(part, tensor.shape))


def check_root(root_rank: int, process_set: Any = global_process_set) -> None:
    """Refuse a rank that is not there (ArgumentError)."""
    ranks = process_set.ranks if process_set.ranks is not None else range(hvd.size())
    if root_rank not in ranks:
        raise ArgumentError(f"root_rank is {root_rank!r}, and the ranks are {', '.join(map(str, ranks))}")


def tensor_of(value: Any) -> Any:
    """A tensor of what Keras and TensorFlow take for one; tf.IndexedSlices stay what they are."""
    if isinstance(value, tf.IndexedSlices):
        return value
    return tf.convert_to_tensor(value.value if isinstance(value, keras.Variable) else value)


_calls: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""How many calls without a name a graph of TensorFlow has."""


def named(what: str, name: str | None) -> dict[str, Any]:
    """The name of a call, as arguments. Horovod would name calls of a graph by their tensors, which may be called
    otherwise on other ranks: they would wait for each other."""
    if name is not None or tf.executing_eagerly():
        return {"name": name}
    graph = tf.compat.v1.get_default_graph()
    _calls[graph] = number = _calls.get(graph, 0) + 1
    return {"name": f"horovod_flowers.keras.{what}.{number}", "ignore_name_scope": True}


_SENT_AS = {tf.bfloat16: tf.float32, tf.uint16: tf.int32, tf.uint32: tf.int64}
"""By type that Horovod does not send: one that it does, and that holds every value of it."""


def in_sendable_type(tensor: Any, call: Callable[[Any], Any]) -> Any:
    """What a call makes of the tensor, which goes there and back in another type if Horovod does not send its own."""
    sent = _SENT_AS.get(tensor.dtype)
    return call(tensor) if sent is None else tf.cast(call(tf.cast(tensor, sent)), tensor.dtype)


def _adasum(tensor: Any, name: str | None, before: float, after: float, compression: Any) -> Any:
    """hvd.allreduce would ask for the device of a tensor, which one of a graph has not."""
    if isinstance(tensor, tf.IndexedSlices):
        raise ArgumentError("op=hvd.Adasum does not take tf.IndexedSlices: give tf.convert_to_tensor of them")
    ranks = hvd.size()
    if ranks & (ranks - 1):
        raise ArgumentError(f"op=hvd.Adasum needs a power of two ranks, and there are {ranks}: use op=hvd.Average")
    if ranks == 1:
        return tensor * tf.cast(before * after, tensor.dtype)
    if not hvd.mpi_enabled():
        raise ArgumentError("op=hvd.Adasum needs MPI, and these ranks talk through Gloo: start them with mpirun")

    def call(sent: Any) -> Any:
        compressed, context = compression.compress(sent)
        found = _allreduce(
            compressed, op=hvd.Adasum, prescale_factor=before, postscale_factor=after, **named("adasum", name)
        )
        return compression.decompress(found, context)

    return in_sendable_type(tensor, call)
