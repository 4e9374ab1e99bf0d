"""A way through a traced forward pass: what it takes, and what its backward pass will.

Three ways through each function. Forwards: what depends on a trained weight. Backwards: where the loss' gradient
arrives. Then each product is counted: once, and once more for each of its factors that depends on a trained weight, if
a gradient arrives at its result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from horovod_flowers.model.flops.constants import Constants, turns, unchanged, without_known_branches
from horovod_flowers.model.flops.function_graph import (
    ARGUMENT,
    BRANCHES,
    FunctionGraph,
    Operation,
    Reference,
    TracedGraph,
    branches_of,
)
from horovod_flowers.model.flops.operations import ASSIGNING, BLOCKING, FREE, PRODUCTS, parts_of

LOOPS = frozenset({"While", "StatelessWhile"})
CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
OWN_GRADIENT = "_gradient_op_type"
"""Attribute of an IdentityN behind a tf.custom_gradient."""

Flags = tuple[bool, ...]
Known = dict[int, np.ndarray]


@dataclass(frozen=True)
class Counted:
    """Floating-point operations of a function, and what of it could not be counted, in words."""

    forward: float = 0.0
    backward: float = 0.0
    left: frozenset[str] = frozenset()

    def __add__(self, other: "Counted") -> "Counted":
        return Counted(self.forward + other.forward, self.backward + other.backward, self.left | other.left)

    def times(self, turns: int) -> "Counted":
        """Of so many turns of a loop."""
        return Counted(self.forward * turns, self.backward * turns, self.left)

    @property
    def nothing(self) -> bool:
        """Whether there is no product, and nothing unknown, in it."""
        return not (self.forward or self.left)


class Walk:
    """Ways through one traced graph."""

    def __init__(self, graph: TracedGraph, recomputes: bool = False) -> None:
        """`recomputes`: whether its own gradients (tf.custom_gradient) are recomputation, which changes none."""
        self._graph, self._recomputes = without_known_branches(graph), recomputes
        self._carried: dict[tuple[int, Flags], dict[Reference, bool]] = {}
        self._received: dict[tuple[int, Flags], set[Reference]] = {}

    def count(self, trained: Flags) -> Counted:
        """What the whole graph takes. `trained`: whether each of its arguments is the handle of a trained weight."""
        main = self._graph.main
        return self._count(main, trained, (True,) * len(main.results), set(range(len(main.results))), {})

    def _carries(self, function: FunctionGraph, given: Flags) -> dict[Reference, bool]:
        """Whether each output in a function depends on a trained weight such that it has a gradient."""
        key = (id(function), given)
        if key not in self._carried:
            found: dict[Reference, bool] = {}
            for operation in function.in_order:
                if operation.kind == ARGUMENT:
                    found[operation.name, 0] = given[function.arguments.index(operation.name)]
                    continue
                inputs = tuple(found[each] for each in operation.inputs)
                for place, carried in enumerate(self._outputs_carry(operation, inputs)):
                    found[operation.name, place] = carried and operation.carries(place)
            self._carried[key] = found
        return self._carried[key]

    def _outputs_carry(self, operation: Operation, inputs: Flags) -> Flags:
        if operation.kind in LOOPS:
            return self._loop_carries(operation, inputs)
        if operation.kind in CALLS | BRANCHES:
            given = inputs[1:] if operation.kind in BRANCHES else inputs
            every = [self._results_carry(function, given) for function in self._called(operation)]
            return tuple(any(each) for each in zip(*every, strict=True))
        flows = any(inputs) and operation.kind not in BLOCKING
        return (flows,) * max(1, len(operation.types))

    def _results_carry(self, function: FunctionGraph, given: Flags) -> Flags:
        found = self._carries(function, given)
        return tuple(found[each] for each in function.results)

    def _loop_carries(self, loop: Operation, inputs: Flags) -> Flags:
        """What is carried into any turn."""
        (body,) = self._called(loop)
        before, after = inputs, _either(inputs, self._results_carry(body, inputs))
        while before != after:
            before, after = after, _either(after, self._results_carry(body, after))
        return after

    def _receives(self, function: FunctionGraph, arrives: Flags) -> set[Reference]:
        """The outputs in a function at which a gradient arrives, given at which of its results one does."""
        key = (id(function), arrives)
        if key not in self._received:
            found = {each for each, arrived in zip(function.results, arrives, strict=True) if arrived}
            for operation in reversed(function.in_order):
                outputs = _flags(operation, found)
                if any(outputs) and operation.kind != ARGUMENT:
                    inputs = self._inputs_receive(operation, outputs)
                    found |= {each for each, flows in zip(operation.inputs, inputs, strict=True) if flows}
            self._received[key] = found
        return self._received[key]

    def _inputs_receive(self, operation: Operation, outputs: Flags) -> Flags:
        if operation.kind in LOOPS:
            return self._loop_receives(operation, outputs)
        if operation.kind in CALLS | BRANCHES:
            every = [self._arguments_receive(function, outputs) for function in self._called(operation)]
            found = tuple(any(each) for each in zip(*every, strict=True))
            return (False, *found) if operation.kind in BRANCHES else found
        return (operation.kind not in BLOCKING,) * len(operation.inputs)

    def _arguments_receive(self, function: FunctionGraph, arrives: Flags) -> Flags:
        found = self._receives(function, arrives)
        return tuple((name, 0) in found for name in function.arguments)

    def _loop_receives(self, loop: Operation, outputs: Flags) -> Flags:
        (body,) = self._called(loop)
        before, after = outputs, _either(outputs, self._arguments_receive(body, outputs))
        while before != after:
            before, after = after, _either(after, self._arguments_receive(body, after))
        return after

    def _called(self, operation: Operation) -> list[FunctionGraph]:
        """The functions that an operation calls, of a loop its body."""
        return [self._graph.functions[name] for name in _names(operation)]

    def _count(self, function: FunctionGraph, given: Flags, arrives: Flags, wanted: set[int], known: Known) -> Counted:
        """`wanted`: places of the results that are used; `known`: values of arguments, by their places."""
        carries, receives = self._carries(function, given), self._receives(function, arrives)
        constants = Constants(function, known)
        needed = _needed(function, wanted)
        found = Counted()
        for operation in function.in_order:
            used = needed.get(operation.name)
            if used is None or operation.kind == ARGUMENT:
                continue
            inputs = tuple(carries[each] for each in operation.inputs)
            outputs = _flags(operation, receives)
            found += self._take(function, operation, inputs, outputs, used, constants)
            if operation.kind == "IdentityN" and OWN_GRADIENT in operation.attributes and any(inputs) and any(outputs):
                found += self._own_gradient(function, operation)
        return found

    def _take(
        self,
        function: FunctionGraph,
        operation: Operation,
        inputs: Flags,
        outputs: Flags,
        used: set[int],
        constants: Constants,
    ) -> Counted:
        """One operation, whose inputs carry a gradient or do not, and at whose outputs one arrives or does not."""
        if operation.kind in PRODUCTS and len(operation.inputs) > max(PRODUCTS[operation.kind].factors):
            return _count_product(operation, function, inputs, any(outputs))
        if operation.kind in LOOPS | CALLS | BRANCHES:
            pairs = ((place, constants.value(each)) for place, each in enumerate(operation.inputs))
            known = {place: value for place, value in pairs if value is not None}
            if operation.kind in LOOPS:
                return self._count_loop(operation, inputs, outputs, known)
            return self._count_calls(operation, inputs, outputs, used, known)
        if operation.kind in FREE or operation.kind == "Einsum":  # of one input: a transposition, or a sum
            return Counted()
        return Counted(left=frozenset({operation.kind}))

    def _count_calls(
        self, operation: Operation, inputs: Flags, outputs: Flags, used: set[int], known: Known
    ) -> Counted:
        """A function, or the one of several that a branch chooses: these have to take the same."""
        if operation.kind in BRANCHES:
            inputs, known = inputs[1:], {place - 1: value for place, value in known.items() if place}
        first, *others = (self._count(each, inputs, outputs, used, known) for each in self._called(operation))
        if all(each == first for each in others):
            return first
        return Counted(left=frozenset({"a branch whose sides take different products"}))

    def _count_loop(self, loop: Operation, inputs: Flags, outputs: Flags, values: Known) -> Counted:
        (body,) = self._called(loop)
        condition = self._graph.functions[loop.called("cond")]
        carries, receives = self._loop_carries(loop, inputs), self._loop_receives(loop, outputs)
        kept = {place: values[place] for place in unchanged(body) if place in values}
        every = set(range(len(body.results)))
        one_turn = self._count(body, carries, receives, every, kept)
        one_turn += self._count(condition, carries, (False,), {0}, kept)
        if one_turn.nothing:
            return one_turn
        count = turns(self._graph, loop, values)
        if count is None:
            return one_turn + Counted(left=frozenset({"a loop of a length that is not known before it is computed"}))
        return one_turn.times(count)

    def _own_gradient(self, function: FunctionGraph, behind: Operation) -> Counted:
        """Products whose gradient is not theirs but one that somebody wrote (tf.custom_gradient)."""
        if self._recomputes:
            return Counted()
        within = _between(function, [name for name, _ in behind.inputs])
        kinds = [function[name].kind for name in within]
        if not any(kind in PRODUCTS or kind in LOOPS | CALLS | BRANCHES for kind in kinds):
            return Counted()
        return Counted(left=frozenset({"products with a gradient of their own (tf.custom_gradient)"}))


def _count_product(operation: Operation, function: FunctionGraph, carries: Flags, arrives: bool) -> Counted:
    parts = parts_of(operation, function)
    if parts is None:
        return Counted(left=frozenset({f"{operation.kind} of a shape that is not known before it is computed"}))
    return Counted(parts.forward, parts.forward * arrives * sum(carries[place] for place in parts.factors))


def _names(operation: Operation) -> list[str]:
    if operation.kind in LOOPS:
        return [operation.called("body")]
    return [operation.called("f")] if operation.kind in CALLS else branches_of(operation)


def _either(one: Flags, other: Flags) -> Flags:
    return tuple(first or second for first, second in zip(one, other, strict=True))


def _flags(operation: Operation, found: set[Reference]) -> Flags:
    places = range(max(1, len(operation.types)))
    return tuple((operation.name, place) in found and operation.carries(place) for place in places)


def _needed(function: FunctionGraph, wanted: set[int]) -> dict[str, set[int]]:
    """The operations that are computed for these results, and which of their outputs are used."""
    found: dict[str, set[int]] = {}
    waiting: list[Reference] = [function.results[place] for place in wanted]
    waiting += [(each.name, 0) for each in function.in_order if each.kind in ASSIGNING or _does_unknown(each)]
    while waiting:
        name, place = waiting.pop()
        if name not in found:
            found[name] = set()
            waiting += function[name].inputs
        found[name].add(place)
    return found


def _does_unknown(operation: Operation) -> bool:
    """Whether it is computed for what it does, such as a call into Python."""
    return operation.kind in ("PyFunc", "EagerPyFunc", "PyFuncStateless")


def _between(function: FunctionGraph, names: Sequence[str]) -> set[str]:
    """Operations that depend on one of these, and are another one or go into it."""
    ends = set(names)
    behind: set[str] = set()
    for operation in function.in_order:
        if any(other in ends or other in behind for other, _ in operation.inputs):
            behind.add(operation.name)
    before, waiting = set[str](), list(names)
    while waiting:
        for other, _ in function[waiting.pop()].inputs:
            if other not in before:
                before.add(other)
                waiting.append(other)
    return behind & (before | ends)
