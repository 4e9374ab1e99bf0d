"""Gradients combined over ranks: by an allreduce each, in groups, or as rows of a table."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from zlib import crc32

import horovod.tensorflow as hvd
import keras
import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from horovod_flowers.keras.agreement import Agreement, Kind, agree, kind_of
from horovod_flowers.keras.argument_error import ArgumentError
from horovod_flowers.keras.collectives import OPERATIONS, in_sendable_type


@dataclass(frozen=True)
class Options:
    """As DistributedOptimizer is given them."""

    name: str
    device_dense: str
    device_sparse: str
    compression: Any
    sparse_as_dense: bool
    gradient_predivide_factor: float
    op: Any
    groups: int | list[list[Any]] | None
    process_set: Any

    @property
    def settings(self) -> str:
        """What ranks have to agree on."""
        groups = self.groups if self.groups is None or isinstance(self.groups, int) else len(self.groups)
        compression = getattr(self.compression, "__name__", type(self.compression).__name__)
        return (
            f"op={OPERATIONS[self.op]}, compression={compression}, sparse_as_dense={self.sparse_as_dense}, "
            f"gradient_predivide_factor={self.gradient_predivide_factor:g}, groups={groups}"
        )


def variable_of(variable: Any) -> tf.Variable:
    """The tf.Variable of a Keras variable, or what is one already."""
    return variable.value if isinstance(variable, keras.Variable) else variable


class Reduction:
    """How one optimizer combines its gradients."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._agreements: dict[tuple[Any, ...], Agreement] = {}

    @property
    def combines(self) -> bool:
        """Whether there is any other rank to combine with."""
        process_set = self.options.process_set
        return bool(process_set.included() and (process_set.size() > 1 or _is_elastic()))

    def size(self) -> Any:
        """The number of ranks combined with: a number, or a tensor where it may change."""
        process_set = self.options.process_set
        if _is_elastic():
            return hvd.size_op(process_set_id=process_set.process_set_id)
        return process_set.size() if process_set.included() else 1

    def __call__(self, gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """Those of all ranks, one for each variable; every rank of the process set calls it."""
        if self.options.sparse_as_dense:
            gradients = [dense(gradient) for gradient in gradients]
        if not self.combines or not variables:
            return list(gradients)
        if GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
            raise ArgumentError("jit_compile=True compiles a step by XLA, which has no calls of Horovod: leave it out")
        own = [variable_of(variable) for variable in variables]
        agreement = self._agreement([kind_of(gradient) for gradient in gradients], own)
        prefix = f"{self.options.name}.{self.options.process_set.process_set_id}.{agreement.number}"
        results: list[Any] = [None] * len(own)
        together = []
        for number, (gradient, variable, kind) in enumerate(zip(gradients, own, agreement.kinds, strict=True)):
            if kind == "dense":
                together.append((number, _zeros(variable) if gradient is None else dense(gradient)))
            elif kind == "sparse":
                rows = _no_rows(variable) if gradient is None else gradient
                results[number] = self._of_all_rows(rows, variable, f"{prefix}.{number}")
        for call in self._calls(together, own):
            numbers = [number for number, _ in call]
            combined = self._allreduced([gradient for _, gradient in call], f"{prefix}.{numbers[0]}")
            for number, gradient in zip(numbers, combined, strict=True):
                results[number] = gradient
        return results

    def _agreement(self, kinds: Sequence[Kind], variables: Sequence[tf.Variable]) -> Agreement:
        """The one that covers these gradients, or a new one."""
        key = tuple(variable.ref() for variable in variables)
        if _is_elastic():  # a rank that comes later would be the only one to ask
            names = "/".join(variable.name for variable in variables)
            return Agreement(crc32(names.encode()), tuple(kinds))
        found = self._agreements.get(key)
        if found is None or not all(_fits(own, agreed) for own, agreed in zip(kinds, found.kinds, strict=True)):
            found = agree(self.options.settings, variables, kinds, self.options.process_set)
            self._agreements[key] = found
        return found

    def _calls(
        self, numbered: list[tuple[int, tf.Tensor]], variables: Sequence[tf.Variable]
    ) -> list[list[tuple[int, tf.Tensor]]]:
        """Which gradients are combined in one call."""
        groups = self.options.groups
        if groups is None:
            return [[each] for each in numbered]
        if isinstance(groups, int):
            size, rest = divmod(len(numbered), groups)
            ends = [size * number + min(number, rest) for number in range(groups + 1)]
            parts = [numbered[start:end] for start, end in pairwise(ends)]
            return [part for part in parts if part]
        of_variable = {variables[number].ref(): (number, gradient) for number, gradient in numbered}
        calls = []
        for group in groups:
            references = dict.fromkeys(variable_of(variable).ref() for variable in group)
            calls.append([of_variable.pop(reference) for reference in references if reference in of_variable])
        return [call for call in calls if call] + [[each] for each in of_variable.values()]

    def _allreduced(self, tensors: list[tf.Tensor], name: str) -> list[tf.Tensor]:
        options = self.options
        before = after = 1.0
        if options.op == hvd.Average:
            before, after = 1.0 / options.gradient_predivide_factor, options.gradient_predivide_factor
        arguments: dict[str, Any] = {
            "op": options.op,
            "device_dense": options.device_dense,
            "compression": options.compression,
            "prescale_factor": before,
            "postscale_factor": after,
            "process_set": options.process_set,
            "name": name,
            "ignore_name_scope": True,  # else ranks that have traced other functions before wait for each other
        }
        if len(tensors) == 1:
            return [in_sendable_type(tensors[0], lambda sent: hvd.allreduce(sent, **arguments))]
        types = [tensor.dtype for tensor in tensors]
        sent = [tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor for tensor in tensors]
        found = hvd.grouped_allreduce(sent, **arguments)
        return [tf.cast(tensor, dtype) for tensor, dtype in zip(found, types, strict=True)]

    def _of_all_rows(self, rows: tf.IndexedSlices, variable: tf.Variable, name: str) -> tf.IndexedSlices:
        """The rows of all ranks one after the other, a row as often as it was found."""
        options = self.options

        def gathered(values: tf.Tensor) -> tf.Tensor:
            sent, context = options.compression.compress(values)
            found = hvd.allgather(sent, name=f"{name}.values", process_set=options.process_set, ignore_name_scope=True)
            return options.compression.decompress(found, context)

        with tf.device(options.device_sparse):
            values = in_sendable_type(rows.values, gathered)
            indices = hvd.allgather(
                tf.cast(rows.indices, tf.int64),
                name=f"{name}.indices",
                process_set=options.process_set,
                ignore_name_scope=True,
            )
            if options.op == hvd.Average:
                values = values / tf.cast(self.size(), values.dtype)
        return tf.IndexedSlices(values, indices, dense_shape=tf.shape(variable, out_type=tf.int64))


def dense(gradient: Any) -> Any:
    """A gradient with a value for every element; None stays None."""
    return tf.convert_to_tensor(gradient) if isinstance(gradient, tf.IndexedSlices) else gradient


def _fits(own: Kind, agreed: Kind) -> bool:
    return own in ("none", agreed) or agreed == "dense"


def _zeros(variable: tf.Variable) -> tf.Tensor:
    return tf.zeros(variable.shape, variable.dtype)


def _no_rows(variable: tf.Variable) -> tf.IndexedSlices:
    return tf.IndexedSlices(tf.zeros((0, *variable.shape[1:]), variable.dtype), tf.zeros((0,), tf.int64))


def _is_elastic() -> bool:
    return os.environ.get("HOROVOD_ELASTIC") == "1"
