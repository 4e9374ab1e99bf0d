"""The graph of a function as TensorFlow traced it: operations, what goes into each, and shapes where they are known."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry  # the names of an operation's outputs are told nowhere else

Reference = tuple[str, int]
"""An output of an operation: its name, and which of its outputs."""
Shape = tuple[int | None, ...] | None

ARGUMENT = "argument"
"""In place of the type of an operation: what a function is given."""
BRANCHES = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})
"""Operations whose first input chooses the function that the others are given to."""
_CARRYING = frozenset({*(tf.float16, tf.bfloat16, tf.float32, tf.float64), *(tf.complex64, tf.complex128)})
"""Types of numbers that have a gradient."""
_HOLDING = frozenset({tf.resource, tf.variant})
"""Handles of variables, and lists of tensors: what they hold has one."""


@dataclass(frozen=True)
class Operation:
    """One operation of a graph."""

    name: str
    kind: str
    """Such as MatMul."""
    inputs: tuple[Reference, ...]
    attributes: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    """Of its outputs."""
    types: tuple[Any, ...]
    """Of its outputs: tf.DType."""
    chosen: str | None = None
    """The function that a branch calls whose choice is known."""

    def carries(self, output: int) -> bool:
        """Whether an output may have a gradient: whole numbers have none."""
        return output >= len(self.types) or self.types[output] in _CARRYING or self.types[output] in _HOLDING

    def called(self, attribute: str) -> str:
        """The name of the function that it calls."""
        return self.chosen or str(self.attributes[attribute].func.name)


def branches_of(operation: Operation) -> list[str]:
    """The functions among which one of BRANCHES chooses."""
    if operation.kind in ("If", "StatelessIf"):
        return [operation.called("then_branch"), operation.called("else_branch")]
    return [function.name for function in operation.attributes["branches"].list.func]


class FunctionGraph:
    """One function: what it is given, its operations in an order in which they can be computed, what it returns."""

    def __init__(self, operations: Sequence[Operation], arguments: Sequence[str], results: Sequence[Reference]) -> None:
        self.arguments, self.results = tuple(arguments), tuple(results)
        self._operations = {operation.name: operation for operation in operations}

    def __getitem__(self, name: str) -> Operation:
        return self._operations[name]

    def with_operations(self, operations: Sequence[Operation]) -> "FunctionGraph":
        """The same, with some operations in place of those of their names."""
        return FunctionGraph([*self._operations.values(), *operations], self.arguments, self.results)

    def shape(self, reference: Reference) -> Shape:
        """Of an output of an operation, or of an argument; None where its rank is not known."""
        name, place = reference
        shapes = self._operations[name].shapes
        return shapes[place] if place < len(shapes) else None

    def takers(self, name: str) -> list[Operation]:
        """The operations that take an output of this one."""
        return [self._operations[each] for each in self._takers.get(name, ())]

    @cached_property
    def _takers(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for operation in self._operations.values():
            for name, _ in operation.inputs:
                found.setdefault(name, []).append(operation.name)
        return found

    @cached_property
    def in_order(self) -> tuple[Operation, ...]:
        """Each behind those that go into it."""
        found: dict[str, None] = {}
        for first in self._operations:
            waiting = [first]
            while waiting:  # a call for each level would be too deep in long graphs
                name = waiting[-1]
                missing = [other for other, _ in self._operations[name].inputs if other not in found]
                if name in found or not missing:
                    found.setdefault(waiting.pop(), None)
                else:
                    waiting += missing
        return tuple(self._operations[name] for name in found)


@dataclass(frozen=True)
class TracedGraph:
    """What was traced, with the functions that it calls."""

    main: FunctionGraph
    functions: Mapping[str, FunctionGraph]


def traced(concrete: Any) -> TracedGraph:
    """The graph of a concrete function (tf.function's get_concrete_function)."""
    graph = concrete.graph
    definition = graph.as_graph_def(add_shapes=True)
    arguments = [tensor.op.name for tensor in graph.inputs]
    operations = [_operation(node, _whole_graphs, set(arguments)) for node in definition.node]
    main = FunctionGraph(operations, arguments, [(tensor.op.name, tensor.value_index) for tensor in graph.outputs])
    return TracedGraph(main, {each.signature.name: _function(each) for each in definition.library.function})


def _function(definition: Any) -> FunctionGraph:
    arguments = [each.name for each in definition.signature.input_arg]
    nodes = {node.name: node for node in definition.node_def}
    given = [
        Operation(each.name, ARGUMENT, (), {}, tuple(_shapes(definition.arg_attr[place])), (tf.as_dtype(each.type),))
        for place, each in enumerate(definition.signature.input_arg)
    ]

    def reference(word: str) -> Reference:
        name, *rest = word.split(":")
        if not rest:
            return name, 0
        output, place = rest[0], int(rest[-1])
        before = 0
        for own, types in _outputs(nodes[name]):
            if own == output:
                break
            before += len(types)
        return name, before + place

    operations = [_operation(node, reference, set()) for node in definition.node_def]
    results = [reference(definition.ret[each.name]) for each in definition.signature.output_arg]
    return FunctionGraph([*given, *operations], arguments, results)


def _whole_graphs(word: str) -> Reference:
    name, _, place = word.partition(":")
    return name, int(place or 0)


def _operation(node: Any, reference: Any, arguments: set[str]) -> Operation:
    inputs = tuple(reference(word) for word in node.input if not word.startswith("^"))
    types = tuple(each for _, types in _outputs(node) for each in types)
    kind = ARGUMENT if node.name in arguments else str(node.op)
    return Operation(node.name, kind, inputs, node.attr, tuple(_shapes(node)), types)


def _shapes(node: Any) -> Iterator[Shape]:
    for shape in node.attr["_output_shapes"].list.shape:
        yield None if shape.unknown_rank else tuple(None if each.size < 0 else int(each.size) for each in shape.dim)


def _outputs(node: Any) -> Iterator[tuple[str, list[Any]]]:
    """The names of a node's outputs, and the types of each."""
    definition = op_def_registry.get(node.op)
    for output in definition.output_arg if definition is not None else ():
        if output.type_list_attr:
            types = list(node.attr[output.type_list_attr].list.type)
        else:
            of_one = output.type or node.attr[output.type_attr].type
            types = [of_one] * (node.attr[output.number_attr].i if output.number_attr else 1)
        yield output.name, [tf.as_dtype(each) if each else None for each in types]
