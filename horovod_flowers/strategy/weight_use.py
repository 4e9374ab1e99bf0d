"""What a model does with its weights in a training step, and so which of them may be divided over ranks.

A part of a weight can be updated where it lies only if nothing else looks at the whole weight or writes to it: a
constraint such as MaxNorm, a wrapper such as SpectralNormalization, a layer of the user's that assigns in its call. The
model's own graph tells: its forward pass is traced once, and every operation that takes a weight's handle is looked at.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import tensorflow as tf

from horovod_flowers.model.keras_internals import is_rematerialised, keeps_call

READS = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape"})
"""Operations that take the handle of a variable and leave the variable as it is."""
ALIASES = frozenset({"Identity"})
"""Operations that hand the handle on."""
VECTORISED_LOOP = "loop_body"
"""The name scope in which tf.vectorized_map traces what it vectorises."""


def image_inputs(image_size: int, images: int) -> tf.TensorSpec:
    """Of a model of images: `images` of them, [image_size, image_size, 3] each."""
    return tf.TensorSpec((images, image_size, image_size, 3), tf.float32)


class WeightUse:
    """How each weight of a model is used in the forward pass of a training step."""

    def __init__(self, model: Any, inputs: Any, layers: Sequence[Any] = ()) -> None:
        """Trace it. Nothing is computed and no variable changes.

        inputs: what the model is called with, a tf.TensorSpec or a structure of them (`image_inputs`).
        layers: those whose own use of their kernel is told from other uses.
        """
        self._calls: dict[int, list[tuple[int, int]]] = {id(layer): [] for layer in layers}
        self._vectorised: set[int] = set()
        self._trained = {id(variable) for variable in model.trainable_variables}
        with self._recorded(layers):
            # As the training step does it, and as unconverted.
            function = tf.function(lambda batch: model(batch, training=True), autograph=False)
            self._graph = function.get_concrete_function(inputs).graph
        self._places = {operation.name: place for place, operation in enumerate(self._graph.get_operations())}
        self._functions: dict[str, Any] = {}

    @contextmanager
    def _recorded(self, layers: Sequence[Any]) -> Iterator[None]:
        """Note between which operations each call of these layers lies."""
        own = [layer for layer in layers if keeps_call(layer)]
        for layer in own:
            vars(layer)["call"] = self._recording(layer, layer.call)
        try:
            yield
        finally:
            for layer in own:
                del vars(layer)["call"]

    def _recording(self, layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def recorded(*args: Any, **options: Any) -> Any:
            graph = tf.compat.v1.get_default_graph()
            if VECTORISED_LOOP in graph.get_name_scope():
                self._vectorised.add(id(layer))
            first = len(graph.get_operations())
            outputs = call(*args, **options)
            self._calls[id(layer)].append((first, len(graph.get_operations())))
            return outputs

        return recorded

    def why_whole(self, variable: Any) -> str | None:
        """Why a weight (a Keras variable) has to be whole on every rank, in a few words; None if it may be divided."""
        if variable.constraint is not None:
            return f"constraint {type(variable.constraint).__name__}"
        if any(not self._reads(operation, handle) for operation, handle in self._takers(variable)):
            return "assigned in a call"
        return None

    def why_not_taken_over(self, layer: Any) -> str | None:
        """Why the product of a Dense layer has to be left to itself, in a few words; None if it may be taken over.

        Beyond what keeps its kernel whole: somebody else reads the kernel too, such as a layer that shares it, or the
        layer is called where no collective call can be made.
        """
        kernel = layer.kernel
        checks: dict[str, Callable[[], bool]] = {
            "not trained": lambda: id(kernel) not in self._trained,
            "a regularizer that was set afterwards": lambda: kernel.regularizer is not layer.kernel_regularizer,
            "a call of its own": lambda: not keeps_call(layer),
            "computed again in the backward pass": lambda: is_rematerialised(layer),
            "called in a vectorised loop": lambda: id(layer) in self._vectorised,
            "its kernel is read elsewhere, too": lambda: self._is_read_elsewhere(layer),
        }
        return self.why_whole(kernel) or next((reason for reason, holds in checks.items() if holds()), None)

    def _is_read_elsewhere(self, layer: Any) -> bool:
        """Than in calls of the layer, at the top level of the graph."""
        calls = self._calls[id(layer)]
        for operation, _ in self._takers(layer.kernel):
            place = self._places[operation.name]
            if operation.type != "ReadVariableOp" or not any(first <= place < end for first, end in calls):
                return True
        return False

    def _takers(self, variable: Any) -> Iterator[tuple[Any, Any]]:
        """Operations of the graph that take the variable's handle, and the tensor that it is to them."""
        handles = [inner for outer, inner in self._graph.captures if outer is variable.value.handle]
        while handles:
            handle = handles.pop()
            for operation in handle.consumers():
                if operation.type in ALIASES:
                    handles += operation.outputs
                else:
                    yield operation, handle

    def _reads(self, operation: Any, handle: Any) -> bool:
        """Whether an operation does nothing but read a variable, in the functions that it calls neither."""
        if operation.type in READS:
            return True
        places = [place for place, tensor in enumerate(operation.inputs) if tensor is handle]
        return self._node_reads(operation.node_def, places)

    def _node_reads(self, node: Any, places: Sequence[int]) -> bool:
        """The same of a node's inputs at some places: the arguments of the functions that it calls."""
        if node.op in READS:
            return True
        called = [
            function.name
            for attribute in node.attr.values()
            for function in (attribute.func, *attribute.list.func)
            if function.name
        ]
        if not called or node.op not in CALLING:
            return False
        skipped = CALLING[node.op]
        return all(self._function_reads(name, place - skipped) for name in called for place in places)

    def _function_reads(self, name: str, argument: int) -> bool:
        if not self._functions:
            library = self._graph.as_graph_def().library
            self._functions = {function.signature.name: function for function in library.function}
        function = self._functions.get(name)
        if function is None or argument < 0:
            return False
        handles, before = {function.signature.input_arg[argument].name}, 0
        while len(handles) > before:  # nodes stand in any order
            before = len(handles)
            aliases = (node for node in function.node_def if node.op in ALIASES)
            handles |= {node.name for node in aliases if any(_tensor(word) in handles for word in node.input)}
        for node in function.node_def:
            places = [place for place, word in enumerate(node.input) if _tensor(word) in handles]
            if places and node.op not in ALIASES and not self._node_reads(node, places):
                return False
        return True


CALLING = {
    **dict.fromkeys(("PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile"), 0),
    **dict.fromkeys(("If", "StatelessIf", "Case", "StatelessCase"), 1),
}
"""Operations that call functions, and how many of their inputs come before the functions' arguments."""


def _tensor(word: str) -> str:
    """Of an input of a node in a function: 'argument', 'node:output:0' or '^control' -> the argument or node."""
    return word.partition(":")[0]
