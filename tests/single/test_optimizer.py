"""The fused optimizers are Keras' own, in fewer passes over memory."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.model.fused_optimizers import FusedAdam, FusedSGD, fused_form
from horovod_flowers.model.optimizer_class import combine_in_place
from horovod_flowers.recording.of_fit import MarkedUpdate
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.training.optimizer import Clipping, make_optimizer

SHAPES = ((300, 40), (40,), (3, 3, 8, 16), (1,))


def train(optimizer: Any, graph: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Twenty steps with gradients and learning rates that change."""
    random = np.random.default_rng(0)
    variables = [keras.Variable(random.normal(size=shape).astype(np.float32)) for shape in SHAPES]
    optimizer.build(variables)
    apply = tf.function(lambda gradients: optimizer.apply(gradients, variables)) if graph else None
    for step in range(20):
        optimizer.learning_rate.assign(0.01 / (1 + step % 3))
        gradients = [tf.constant(random.normal(size=shape).astype(np.float32)) for shape in SHAPES]
        if apply is None:
            optimizer.apply(gradients, variables)
        else:
            apply(gradients)
    return [v.numpy() for v in variables], [np.asarray(v) for v in optimizer.variables]


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(
    ("fused", "stock", "options"),
    [
        (FusedAdam, keras.optimizers.Adam, {}),
        (FusedAdam, keras.optimizers.Adam, {"beta_1": 0.8, "epsilon": 1e-3, "weight_decay": 0.01, "clipnorm": 1.0}),
        (FusedAdam, keras.optimizers.Adam, {"amsgrad": True}),
        (FusedSGD, keras.optimizers.SGD, {"momentum": 0.9}),
        (FusedSGD, keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
        (FusedSGD, keras.optimizers.SGD, {}),
    ],
)
def test_twenty_steps_equal_keras_own(fused: Any, stock: Any, options: dict[str, Any], graph: bool) -> None:
    weights, state = train(fused(0.01, **options), graph)
    expected_weights, expected_state = train(stock(0.01, **options), graph)
    assert len(state) == len(expected_state)
    for found, expected in zip(weights + state, expected_weights + expected_state, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [keras.optimizers.Adam, keras.optimizers.AdamW, keras.optimizers.SGD])
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2, "use_ema": True}])
def test_a_users_own_optimizer_gets_the_fused_update_and_keeps_its_name(kind: Any, options: dict[str, Any]) -> None:
    optimizer = kind(0.01, weight_decay=0.01, **options)
    combine_in_place(optimizer, MarkedUpdate, fused_form(optimizer))
    assert isinstance(optimizer, FusedSGD if kind is keras.optimizers.SGD else FusedAdam)
    weights, state = train(optimizer, graph=True)
    expected_weights, expected_state = train(kind(0.01, weight_decay=0.01, **options), graph=True)
    for found, expected in zip(weights + state, expected_weights + expected_state, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    written = keras.saving.serialize_keras_object(optimizer)
    assert (written["module"], written["class_name"]) == ("keras.optimizers", kind.__name__)


def test_a_subclass_keeps_its_own_update() -> None:
    class Own(keras.optimizers.Adam):
        """That may update in another way."""

    assert fused_form(Own()) is object
    assert fused_form(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())) is object


def test_the_update_is_one_operation_a_variable() -> None:
    optimizer = make_optimizer(OptimizerConfig())
    variables = [keras.Variable(np.ones(shape, np.float32)) for shape in SHAPES]
    optimizer.build(variables)
    gradients = [tf.ones(shape) for shape in SHAPES]
    graph = tf.function(lambda: optimizer.apply(gradients, variables)).get_concrete_function().graph
    assert [node.type for node in graph.get_operations()].count("ResourceApplyAdam") == len(SHAPES)


@pytest.mark.parametrize("options", [{"global_clipnorm": 0.5}, {"clipnorm": 0.5}, {"global_clipnorm": 1e6}])
def test_clipping_is_keras_own(options: dict[str, Any]) -> None:
    random = np.random.default_rng(1)
    gradients = [tf.constant(random.normal(size=shape).astype(np.float32)) for shape in SHAPES]
    variables = [keras.Variable(np.zeros(shape, np.float32)) for shape in SHAPES]
    stock = keras.optimizers.SGD(1.0, **options)
    stock.apply(gradients, variables)
    clipping = Clipping.of(OptimizerConfig(**options))
    assert clipping is not None
    clipped = clipping.clip(gradients, tf.stack([tf.reduce_sum(gradient**2) for gradient in gradients]))
    for found, variable in zip(clipped, variables, strict=True):
        np.testing.assert_allclose(found, -variable.numpy(), rtol=1e-5, atol=1e-7)


def test_one_way_of_clipping_at_a_time() -> None:
    assert Clipping.of(OptimizerConfig()) is None
    with pytest.raises(UserError, match=r"optimizer.global_clipnorm is 1.0 and optimizer.clipnorm is 2.0: give one"):
        OptimizerConfig(global_clipnorm=1.0, clipnorm=2.0)
