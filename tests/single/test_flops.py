"""Floating-point operations of a step, counted by hand for each kind of product, and what leaves no number."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from tensorflow.python.framework import op_def_registry

from horovod_flowers.model.flops.operations import FREE, PRODUCTS
from horovod_flowers.model.flops.step_flops import StepFlops, count_step
from horovod_flowers.model.registry import flower_cnn
from tests.parallel.every_layer import one_of_each

IMAGES = 2


def count(model: Any, *shapes: Sequence[int | None], loss: Callable[..., Any] | None = None) -> StepFlops:
    """Of a model that is given IMAGES rows of these shapes; `loss`: of its outputs."""

    def of_step(*batch: Any) -> Any:
        outputs = model(batch[0] if len(batch) == 1 else list(batch), training=True)
        return [outputs if loss is None else loss(outputs), *model.losses]

    return count_step(model, of_step, [tf.TensorSpec((IMAGES, *shape)) for shape in shapes], IMAGES)


def of_layers(shape: Sequence[int | None], *own: Any) -> StepFlops:
    return count(keras.Sequential([keras.Input(shape), *own]), shape)


@pytest.mark.parametrize(
    ("make", "shape", "products"),
    [
        # 2 x rows x inputs x outputs
        (lambda: layers.Dense(5), (7,), 2 * 2 * 7 * 5),
        (lambda: layers.Dense(5), (3, 7), 2 * (2 * 3) * 7 * 5),
        (lambda: layers.EinsumDense("abc,cd->abd", (3, 4)), (3, 7), 2 * 2 * 3 * 7 * 4),
        # 2 x rows x positions x window x channels of a group x filters
        (lambda: layers.Conv2D(6, 3), (9, 8, 4), 2 * 2 * (7 * 6) * 9 * 4 * 6),
        (lambda: layers.Conv2D(6, 3, padding="same"), (9, 8, 4), 2 * 2 * (9 * 8) * 9 * 4 * 6),
        (lambda: layers.Conv2D(6, (3, 2), strides=2, padding="same"), (9, 8, 4), 2 * 2 * (5 * 4) * 6 * 4 * 6),
        (lambda: layers.Conv2D(6, 3, groups=2), (9, 8, 4), 2 * 2 * (7 * 6) * 9 * (4 // 2) * 6),
        (lambda: layers.Conv2D(6, 3, dilation_rate=2), (9, 8, 4), 2 * 2 * (5 * 4) * 9 * 4 * 6),
        (lambda: layers.DepthwiseConv2D(3, dilation_rate=2), (9, 8, 4), 2 * 2 * (5 * 4) * 9 * 4),
        (lambda: layers.Conv1D(6, 3, padding="causal"), (9, 4), 2 * 2 * 9 * 3 * 4 * 6),
        (lambda: layers.Conv3D(6, 2), (4, 4, 4, 3), 2 * 2 * 27 * 8 * 3 * 6),
        (lambda: layers.DepthwiseConv2D(3), (9, 8, 4), 2 * 2 * (7 * 6) * 9 * 4),
        (lambda: layers.DepthwiseConv2D(3, strides=2, depth_multiplier=3), (9, 8, 4), 2 * 2 * (4 * 3) * 9 * (4 * 3)),
        # what is spread is the input: each of its elements meets the window and each filter
        (lambda: layers.Conv2DTranspose(6, 3, strides=2), (5, 4, 3), 2 * 2 * (5 * 4 * 3) * 9 * 6),
        (lambda: layers.Conv3DTranspose(6, 2), (2, 2, 2, 3), 2 * 2 * (8 * 3) * 8 * 6),
        (layers.MaxPooling2D, (8, 8, 4), 0),
        (layers.LayerNormalization, (8,), 0),
    ],
)
def test_one_layer_takes_what_is_counted_by_hand(
    make: Callable[[], Any], shape: tuple[int, ...], products: int
) -> None:
    """Its input has no gradient here, behind another trained layer it has: twice or three times the forward pass."""
    alone = of_layers(shape, make())
    assert (alone.forward, alone.backward, alone.images) == (products, products, IMAGES)
    behind = of_layers(shape, layers.LayerNormalization(), make())
    assert (behind.forward, behind.backward) == (products, 2 * products)
    frozen = make()
    frozen.trainable = False
    assert of_layers(shape, frozen).backward == 0
    assert of_layers(shape, layers.LayerNormalization(), frozen).backward == products


def test_the_flower_cnn_takes_what_is_counted_by_hand() -> None:
    model = flower_cnn(180, 5)
    convolutions = [2 * 178**2 * 32 * 9 * 3, 2 * 87**2 * 64 * 9 * 32, 2 * 41**2 * 128 * 9 * 64]
    dense = [2 * (20 * 20 * 128) * 512, 2 * 512 * 5]
    found = count(model, (180, 180, 3))
    forward = IMAGES * sum([*convolutions, *dense])
    assert found.forward == forward
    assert found.backward == 2 * forward - IMAGES * convolutions[0]  # of the photos there is no gradient


def test_a_separable_convolution_is_a_depthwise_one_and_one_of_single_pixels() -> None:
    found = of_layers((9, 8, 4), layers.SeparableConv2D(5, 3))
    depthwise, single = 2 * 2 * (7 * 6) * 9 * 4, 2 * 2 * (7 * 6) * 4 * 5
    assert (found.forward, found.backward) == (depthwise + single, depthwise + 2 * single)


def test_attention_is_four_projections_and_two_products_of_a_sequence_with_itself() -> None:
    inputs = keras.Input((6, 8))
    found = count(keras.Model(inputs, layers.MultiHeadAttention(2, 4)(inputs, inputs)), (6, 8))
    projection, scores = 2 * (2 * 6) * 8 * (2 * 4), 2 * 2 * 2 * 6 * 6 * 4
    assert found.forward == 4 * projection + 2 * scores
    # The photos' side of three projections has no gradient.
    assert found.backward == (3 + 2) * projection + 2 * 2 * scores


@pytest.mark.parametrize("unrolled", [False, True])
@pytest.mark.parametrize(("kind", "gates"), [(layers.LSTM, 4), (layers.GRU, 3), (layers.SimpleRNN, 1)])
def test_a_recurrent_layer_takes_its_products_once_a_step(kind: Any, gates: int, unrolled: bool) -> None:
    found = of_layers((7, 5), kind(4, unroll=unrolled), layers.Dense(3))
    inputs, states, dense = 2 * 2 * 7 * 5 * 4 * gates, 2 * 2 * 7 * 4 * 4 * gates, 2 * 2 * 4 * 3
    assert found.forward == inputs + states + dense
    if not unrolled:  # else the first step's states are zeros, whose product has no gradient
        assert found.backward == inputs + 2 * states + 2 * dense


def test_what_has_no_gradient_and_what_nothing_uses_does_not_count() -> None:
    inputs = keras.Input((8,))
    hidden = layers.Dense(8)(inputs)
    stopped = layers.Lambda(ops.stop_gradient)(hidden)
    once = 2 * 2 * 8 * 8
    assert count(keras.Model(inputs, layers.Dense(8)(stopped)), (8,)).backward == once  # of the second kernel alone
    ints = layers.Lambda(lambda x: ops.cast(x, "int32"))(hidden)
    found = count(keras.Model(inputs, layers.Embedding(10, 3)(ints)), (8,))
    assert (found.forward, found.backward) == (once, 0)
    both = keras.Model(inputs, [layers.Dense(8)(hidden), layers.Dense(80)(hidden)])
    found = count(both, (8,), loss=lambda outputs: outputs[0])
    assert (found.forward, found.backward) == (2 * once, 3 * once)


def test_losses_that_are_products_count() -> None:
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, kernel_regularizer="orthogonal_regularizer")])
    assert count(model, (8,)).forward == 2 * 2 * 8 * 4 + 2 * 8 * 4 * 8
    found = count(model, (8,), loss=lambda outputs: outputs @ ops.transpose(outputs))
    assert found.forward == 2 * 2 * 8 * 4 + 2 * 8 * 4 * 8 + 2 * 2 * 4 * 2


def test_what_is_computed_again_in_the_backward_pass_does_not_count() -> None:
    plain = of_layers((9, 8, 4), layers.Conv2D(6, 3), layers.Conv2D(6, 3))
    with keras.RematScope(mode="full"):
        again = [layers.Conv2D(6, 3), layers.Conv2D(6, 3)]
    assert of_layers((9, 8, 4), *again) == plain


class Doing(layers.Layer):
    """Does what it is told."""

    def __init__(self, doing: Callable[[Any], Any]) -> None:
        super().__init__()
        self.doing = doing
        self.kernel = self.add_weight(shape=(8, 8))

    def call(self, inputs: Any) -> Any:
        return self.doing(inputs @ self.kernel)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


def own_gradient(x: Any) -> Any:
    @tf.custom_gradient
    def squared(x: Any) -> Any:
        return x @ tf.ones((8, 8)), lambda upstream: upstream

    return squared(x)


def until_small(x: Any) -> Any:
    return tf.while_loop(lambda y: tf.reduce_max(y) > 1, lambda y: (y @ tf.ones((8, 8)) / 99,), [x])[0]


def one_side(x: Any) -> Any:
    return tf.cond(tf.reduce_sum(x) > 0, lambda: x @ tf.ones((8, 8)), lambda: x)


@pytest.mark.parametrize(
    ("doing", "why"),
    [
        (lambda x: tf.cast(tf.abs(tf.signal.rfft(x))[:, :4], tf.float32), "RFFT"),
        (lambda x: tf.linalg.inv(tf.linalg.diag(x)), "MatrixInverse"),
        (lambda x: tf.ensure_shape(tf.numpy_function(np.square, [x], tf.float32), x.shape), "PyFunc"),
        (own_gradient, "products with a gradient of their own (tf.custom_gradient)"),
        (until_small, "a loop of a length that is not known before it is computed"),
        (one_side, "a branch whose sides take different products"),
        (lambda x: tf.boolean_mask(x, x[:, 0] > 0) @ tf.ones((8, 8)), "MatMul of a shape that is not known before"),
        (lambda x: x / 0 if bool(x[0, 0] > 0) else x, "its graph, which could not be traced ("),
    ],
)  # fmt: skip
def test_what_is_not_counted_leaves_no_number_and_is_named(doing: Callable[[Any], Any], why: str) -> None:
    inputs = keras.Input((8,))
    model = keras.Model(inputs, Doing(doing)(inputs))
    found = count(model, (8,))
    assert (found.forward, found.backward) == (None, None)
    assert len(found.not_counted) == 1
    assert found.not_counted[0].startswith(why)


def test_loops_and_branches_that_are_known_before_count() -> None:
    def turns(x: Any) -> Any:
        def turn(number: Any, y: Any) -> Any:
            return number + 2, tf.while_loop(lambda k, _: k > 0, lambda k, z: (k - 1, z @ tf.ones((8, 8))), [3, y])[1]

        return tf.while_loop(lambda number, _: number < tf.shape(x)[0] * 5, turn, [0, x])[1]

    inputs = keras.Input((8,))
    once = 2 * 2 * 8 * 8
    found = count(keras.Model(inputs, Doing(turns)(inputs)), (8,))
    assert (found.forward, found.backward) == ((1 + 5 * 3) * once, (1 + 5 * 3) * once)
    twice = Doing(lambda x: tf.cond(tf.constant(True), lambda: x @ tf.ones((8, 8)), lambda: x))
    assert count(keras.Model(inputs, twice(inputs)), (8,)).forward == 2 * once
    same = Doing(tf.function(lambda x: tf.cond(x[0, 0] > 0, lambda: x @ tf.ones((8, 8)), lambda: x @ tf.eye(8))))
    assert count(keras.Model(inputs, same(inputs)), (8,)).forward == 2 * once


def test_the_operations_are_tensorflows() -> None:
    assert not [name for name in {*FREE, *PRODUCTS} if op_def_registry.get(name) is None]
    assert not FREE & PRODUCTS.keys()


def test_counting_leaves_a_model_as_it_was() -> None:
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(8, activity_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
        ]
    )
    before = [np.array(variable) for variable in model.variables]
    count(model, (8,))
    assert all(np.array_equal(one, other) for one, other in zip(before, model.variables, strict=True))
    assert not model.losses


@pytest.mark.slow
def test_every_layer_takes_what_its_traced_backward_pass_does() -> None:
    """Against the products of the gradients that TensorFlow makes, one by one, loops unrolled."""
    found, unlike = {}, {}
    for name, (given, make) in one_of_each().items():
        recurrent = name in ("GRU", "LSTM", "SimpleRNN", "RNN", "Bidirectional") or name.startswith("ConvLSTM")
        shape = (2, *given[1:]) if recurrent else given
        inputs = keras.Input(shape, batch_size=IMAGES)
        outputs = make(**({"unroll": True} if recurrent else {}))(layers.Dense(shape[-1])(inputs))
        model = keras.Model(inputs, outputs)
        found[name] = counted = count(model, shape)
        if counted.forward is not None and counted.backward is not None:
            traced = products_of_traced_gradients(model, tf.TensorSpec((IMAGES, *shape)))
            if traced != counted.forward + counted.backward:
                unlike[name] = (counted, traced)
    assert not unlike
    without = {name: counted.not_counted for name, counted in found.items() if counted.forward is None}
    assert without == {
        "MelSpectrogram": ("RFFT",),
        "SpectralNormalization": ("a branch whose sides take different products",),
    }


def products_of_traced_gradients(model: Any, spec: Any) -> float:
    def step(batch: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum(tf.cast(model(batch, training=True), tf.float32) ** 2), *model.losses])
        return loss, [each for each in tape.gradient(loss, model.trainable_variables) if each is not None]

    graph = tf.function(step, autograph=False).get_concrete_function(spec).graph
    seen, waiting, total = set[str](), [tensor.op for tensor in graph.outputs], 0.0
    while waiting:
        operation = waiting.pop()
        if operation.name not in seen:
            seen.add(operation.name)
            waiting += [tensor.op for tensor in operation.inputs]
            total += product_of(operation)
    return total


def product_of(operation: Any) -> float:
    """Of the forward or backward pass."""
    kind, result = operation.type, [tensor.shape for tensor in operation.outputs[:1]]
    shapes = [tensor.shape for tensor in operation.inputs]
    if kind in ("MatMul", "BatchMatMulV2"):
        first = "transpose_a" if kind == "MatMul" else "adj_x"
        return 2.0 * math.prod(result[0]) * shapes[0][-2 if operation.get_attr(first) else -1]
    if kind == "Einsum" and len(shapes) == 2:
        words = operation.get_attr("equation").decode().split("->")[0].split(",")
        sizes = {
            index: size
            for word, shape in zip(words, shapes, strict=True)
            for index, size in zip(word, shape, strict=True)
        }
        return 2.0 * math.prod(sizes.values())
    if kind in ("While", "StatelessWhile", "PartitionedCall", "StatefulPartitionedCall"):
        raise AssertionError(f"{operation.name} is not looked into")
    window = -2 if kind.startswith("Depthwise") else -1
    if kind in ("Conv2D", "Conv3D", "DepthwiseConv2dNative"):
        return 2.0 * math.prod(result[0]) * math.prod(shapes[1][:window])
    if kind.startswith(("Conv2DBackprop", "Conv3DBackprop", "DepthwiseConv2dNativeBackprop")):
        kernel = result[0] if "Filter" in kind else shapes[1]
        return 2.0 * math.prod(shapes[2]) * math.prod(kernel[:window])
    return 0.0
