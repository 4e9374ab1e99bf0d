"""Small whole numbers in a traced graph that are known without computing it: how often a loop runs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from horovod_flowers.model.flops.function_graph import (
    ARGUMENT,
    BRANCHES,
    FunctionGraph,
    Operation,
    Reference,
    TracedGraph,
    branches_of,
)

MOST_TURNS = 1_000_000
"""Of a loop that is followed."""
MOST_ELEMENTS = 64
"""Of a value that is looked at: what counts turns is small."""
Known = Mapping[int, np.ndarray]
"""Values of a function's arguments, by their places."""

_OPERATORS: Mapping[str, Callable[..., Any]] = {
    "Identity": lambda value: value,
    **dict.fromkeys(("Add", "AddV2"), np.add),
    "Sub": np.subtract,
    "Mul": np.multiply,
    "FloorDiv": np.floor_divide,
    "Neg": np.negative,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Less": np.less,
    "LessEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterEqual": np.greater_equal,
    "Equal": np.equal,
    "NotEqual": np.not_equal,
    "LogicalAnd": np.logical_and,
    "LogicalOr": np.logical_or,
    "LogicalNot": np.logical_not,
    "Max": lambda value, axes: _over(np.max, value, axes),
    "Min": lambda value, axes: _over(np.min, value, axes),
    "Prod": lambda value, axes: _over(np.prod, value, axes),
    "Range": np.arange,
    "Reshape": np.reshape,
}


def _over(reduce: Callable[..., Any], value: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return np.asarray(reduce(value, axis=tuple(np.ravel(axes).tolist())))


class Constants:
    """What is known of the values in one function, given what is known of its arguments."""

    def __init__(self, function: FunctionGraph, known: Known) -> None:
        self._function, self._known = function, known
        self._found: dict[Reference, np.ndarray | None] = {}

    def value(self, reference: Reference) -> np.ndarray | None:
        """Of an output; None where it is not known."""
        if reference not in self._found:
            self._found[reference] = None  # while it is looked for
            self._found[reference] = self._worked_out(self._function[reference[0]], reference[1])
        return self._found[reference]

    def _worked_out(self, operation: Operation, output: int) -> np.ndarray | None:
        if operation.kind == ARGUMENT:
            return self._known.get(self._function.arguments.index(operation.name))
        kind = operation.types[output] if output < len(operation.types) else None
        if output > 0 or kind is None or not (kind.is_integer or kind.is_bool):
            return None
        if operation.kind in ("Const", "Shape"):
            return _constant(operation) if operation.kind == "Const" else self._shape(operation.inputs[0])
        return self._computed(operation) if operation.kind in (*_OPERATORS, *_OF_OPERATION) else None

    def _shape(self, reference: Reference) -> np.ndarray | None:
        shape = self._function.shape(reference)
        return None if shape is None or None in shape else np.array(shape, np.int64)

    def _computed(self, operation: Operation) -> np.ndarray | None:
        inputs = [value for each in operation.inputs if (value := self.value(each)) is not None]
        if len(inputs) < len(operation.inputs) or any(value.size > MOST_ELEMENTS for value in inputs):
            return None
        if operation.kind in _OF_OPERATION:
            return _OF_OPERATION[operation.kind](operation, *inputs)
        return np.asarray(_OPERATORS[operation.kind](*inputs))


def _constant(operation: Operation) -> np.ndarray | None:
    tensor = operation.attributes["value"].tensor
    elements = math.prod(each.size for each in tensor.tensor_shape.dim)
    return np.asarray(tf.make_ndarray(tensor)) if elements <= MOST_ELEMENTS else None


def _cast(operation: Operation, value: np.ndarray) -> np.ndarray:
    return value.astype(tf.as_dtype(operation.attributes["DstT"].type).as_numpy_dtype)


def _sliced(
    operation: Operation, value: np.ndarray, begin: np.ndarray, end: np.ndarray, strides: np.ndarray
) -> np.ndarray | None:
    """One element of a vector: of a shape, say."""
    if value.ndim != 1 or operation.attributes["shrink_axis_mask"].i != 1:
        return None
    return np.asarray(value[int(begin[0])])


_OF_OPERATION: Mapping[str, Callable[..., np.ndarray | None]] = {
    "Cast": _cast,
    "Pack": lambda _, *values: np.stack(values),
    "StridedSlice": _sliced,
}
"""Those whose attributes count."""


def without_known_branches(graph: TracedGraph) -> TracedGraph:
    """The same, with a call of the function that is chosen wherever that is known."""
    functions = {name: _without_known_branches(function) for name, function in graph.functions.items()}
    return TracedGraph(_without_known_branches(graph.main), functions)


def _without_known_branches(function: FunctionGraph) -> FunctionGraph:
    constants = Constants(function, {})
    found = []
    for operation in function.in_order:
        chosen = constants.value(operation.inputs[0]) if operation.kind in BRANCHES else None
        if chosen is not None:
            names = branches_of(operation)
            taken = (0 if chosen else 1) if len(names) == 2 and "If" in operation.kind else int(chosen)
            name = names[taken if 0 <= taken < len(names) else -1]  # as TensorFlow's Case does
            found.append(replace(operation, kind="PartitionedCall", inputs=operation.inputs[1:], chosen=name))
    return function.with_operations(found) if found else function


def turns(graph: TracedGraph, loop: Operation, given: Known) -> int | None:
    """How often a loop (While) runs whose arguments begin with these values; None where that is not known."""
    condition, body = (graph.functions.get(loop.called(name)) for name in ("cond", "body"))
    if condition is None or body is None:
        return None
    values = dict(given)
    counted = _deciding(condition, body)
    for turn in range(MOST_TURNS):
        goes_on = Constants(condition, values).value(condition.results[0])
        if goes_on is None:
            return None
        if not goes_on:
            return turn
        after = Constants(body, values)
        found = {place: after.value(body.results[place]) for place in counted}
        values = {place: value for place, value in found.items() if value is not None}
    return None


def _deciding(condition: FunctionGraph, body: FunctionGraph) -> set[int]:
    """The places of the arguments on which it depends whether a loop goes on."""
    found: set[int] = set()
    new = _arguments_behind(condition, condition.results[0])
    while new - found:
        found |= new
        new = set().union(*(_arguments_behind(body, body.results[place]) for place in found))
    return found


def _arguments_behind(function: FunctionGraph, reference: Reference) -> set[int]:
    names, waiting = set[str](), [reference[0]]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += [other for other, _ in function[name].inputs]
    return {place for place, name in enumerate(function.arguments) if name in names}


def unchanged(function: FunctionGraph) -> set[int]:
    """The places of a loop's arguments that every turn leaves as they are."""
    found = set()
    for place, result in enumerate(function.results):
        name, output = result
        while function[name].kind == "Identity":
            name, output = function[name].inputs[0]
        if output == 0 and place < len(function.arguments) and name == function.arguments[place]:
            found.add(place)
    return found
