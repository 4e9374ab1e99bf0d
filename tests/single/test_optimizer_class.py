"""An optimizer whose updates begin with something else is in all other ways the one that the user chose."""

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from horovod_flowers.model.optimizer_class import (
    Combining,
    Gradients,
    Update,
    combine_in_place,
    combining_copy,
    combining_of,
    remove_combining,
)
from horovod_flowers.runtime.errors import UserError

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {"amsgrad": True},
    "AdamW": {"weight_decay": 0.1},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "Nadam": {},
    "Adagrad": {},
    "Adadelta": {"learning_rate": 1.0},
    "Adamax": {},
    "Adafactor": {},
    "Ftrl": {"l1_regularization_strength": 0.01},
    "Lion": {},
    "Lamb": {},
    "Muon": {},
}


class Doubled(Combining):
    """In place of other ranks."""

    def __init__(self) -> None:
        self.calls = 0

    def apply(self, optimizer: Any, gradients: Gradients, variables: Sequence[Any], update: Update) -> None:
        """Twice the gradients."""
        self.calls += 1
        update([None if gradient is None else 2 * gradient for gradient in gradients], variables)


def optimizer(name: str, **others: Any) -> Any:
    return getattr(keras.optimizers, name)(**OPTIMIZERS[name] | others)


def variables() -> list[keras.Variable]:
    numbers = np.random.default_rng(1)
    return [keras.Variable(numbers.normal(size=shape).astype(np.float32)) for shape in ((3, 4), (4,))]


def trained(which: Any, times: float, steps: int = 4) -> list[np.ndarray]:
    weights = variables()
    numbers = np.random.default_rng(2)
    for _ in range(steps):
        gradients = [tf.constant(times * numbers.normal(size=tuple(v.shape)), tf.float32) for v in weights]
        which.apply_gradients(zip(gradients, weights, strict=True))
    return [np.array(weight) for weight in weights]


def assert_equal(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_these_are_the_optimizers_of_keras() -> None:
    found = {name for name in dir(keras.optimizers) if isinstance(getattr(keras.optimizers, name), type)}
    assert found - {"Optimizer", "LossScaleOptimizer"} == set(OPTIMIZERS)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "Muon"])  # which runs with a Combining only
def test_the_user_s_optimizer_gets_the_combined_gradients(name: str) -> None:
    for settings in ({}, {"global_clipnorm": 0.5}, {"use_ema": True}, {"gradient_accumulation_steps": 2}):
        expected = trained(optimizer(name, **settings), 2)
        assert_equal(trained(combining_copy(optimizer(name, **settings), Doubled), 1), expected)
        in_place = optimizer(name, **settings)
        combine_in_place(in_place, Doubled)
        assert_equal(trained(in_place, 1), expected)


@pytest.mark.parametrize("name", [*OPTIMIZERS, "LossScaleOptimizer"])
def test_it_is_written_as_the_user_s_class(name: str, tmp_path: Path) -> None:
    own: Any = keras.optimizers.LossScaleOptimizer(optimizer("Adam")) if name not in OPTIMIZERS else optimizer(name)
    combining = combining_copy(own, Doubled)
    assert isinstance(combining, getattr(keras.optimizers, name))
    assert keras.saving.serialize_keras_object(combining) == keras.saving.serialize_keras_object(own)
    assert keras.optimizers.serialize(combining) == keras.optimizers.serialize(own)
    again = type(combining).from_config(combining.get_config())
    assert again.get_config() == own.get_config()
    assert isinstance(combining_of(again), Doubled)

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(combining, "mse")
    model.train_on_batch(np.ones((4, 3)), np.ones((4, 2)))
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is getattr(keras.optimizers, name)
    assert combining_of(loaded.optimizer) is None
    assert_equal([np.array(v) for v in loaded.optimizer.variables], [np.array(v) for v in combining.variables])
    combine_in_place(loaded.optimizer, Doubled)  # the saved model's is a copy
    for which in (model, loaded):
        which.train_on_batch(np.ones((4, 3)), np.zeros((4, 2)))
    assert_equal(loaded.get_weights(), model.get_weights())


@keras.saving.register_keras_serializable(package="tests")
class Registered(keras.optimizers.SGD):
    """Of a user's own, known to Keras."""


class NotRegistered(keras.optimizers.SGD):
    """Of a user's own, which Keras has to be given."""


@pytest.mark.parametrize("kind", [Registered, NotRegistered])
def test_a_user_s_own_class_is_written_as_itself(kind: Any, tmp_path: Path) -> None:
    own = kind(0.5, momentum=0.5)
    combining = combining_copy(own, Doubled)
    assert keras.saving.serialize_keras_object(combining) == keras.saving.serialize_keras_object(own)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(combining, "mse")
    model.train_on_batch(np.ones((4, 3)), np.ones((4, 2)))
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.models.load_model(tmp_path / "model.keras", custom_objects={kind.__name__: kind})
    assert type(loaded.optimizer) is kind
    assert_equal([np.array(v) for v in loaded.optimizer.variables], [np.array(v) for v in combining.variables])


def test_tensorflow_s_checkpoints_hold_what_they_hold_without(tmp_path: Path) -> None:
    plain, combining = optimizer("Adam"), combining_copy(optimizer("Adam"), Doubled)
    trained(combining, 1)
    path = tf.train.Checkpoint(optimizer=combining).write(str(tmp_path / "checkpoint"))
    trained(plain, 5)
    tf.train.Checkpoint(optimizer=plain).read(path).assert_consumed()
    assert_equal([np.array(v) for v in plain.variables], [np.array(v) for v in combining.variables])


def test_muon_runs() -> None:
    """A step of its own formula: Newton-Schulz of the gradient, with the momentum of the first step."""
    own = keras.optimizers.Muon(0.5, nesterov=False, exclude_embeddings=True)
    combine_in_place(own, Doubled)
    weight = keras.Variable(np.zeros((3, 2), np.float32))
    gradient = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)
    own.apply([tf.constant(gradient)], [weight])
    step = own.zeropower_via_newtonschulz5(tf.constant(2 * gradient), own.ns_steps)
    np.testing.assert_allclose(np.array(weight), -0.5 * 1.5**0.5 * np.array(step), rtol=1e-5)


def test_state_and_settings_are_kept() -> None:
    own = keras.optimizers.AdamW(0.5)
    own.exclude_from_weight_decay(var_names=["variable"])
    weights = variables()
    own.apply([tf.ones_like(weight) for weight in weights], weights)
    own.learning_rate = 0.25
    copy = combining_copy(own, Doubled)
    assert copy is not own
    assert combining_of(own) is None
    assert_equal([np.array(v) for v in copy.variables], [np.array(v) for v in own.variables])
    assert copy.built
    assert (float(copy.learning_rate), int(copy.iterations)) == (0.25, 1)
    assert copy._exclude_from_weight_decay_pattern == own._exclude_from_weight_decay_pattern
    before = list(own.variables)
    combine_in_place(own, Doubled)
    assert all(one is other for one, other in zip(own.variables, before, strict=True))
    remove_combining(own)
    assert type(own) is keras.optimizers.AdamW


def test_a_learning_rate_that_no_file_could_name_is_kept() -> None:
    def rate() -> float:
        return 0.125

    copy = combining_copy(keras.optimizers.SGD(rate), Doubled)
    assert copy.learning_rate == 0.125


def test_it_combines_once() -> None:
    own = keras.optimizers.SGD()
    combine_in_place(own, Doubled)
    for again in (own, keras.optimizers.LossScaleOptimizer(own)):
        with pytest.raises(UserError, match="combines gradients over ranks already: wrap it once"):
            combining_copy(again, Doubled)
    with pytest.raises(UserError, match="is no optimizer of Keras 3"):
        combining_copy("sgd", Doubled)


class OverBothRanks(Doubled):
    """The other rank has an infinite gradient in the first update."""

    def apply(self, optimizer: Any, gradients: Gradients, variables: Sequence[Any], update: Update) -> None:
        """The sum over both."""
        self.calls += 1
        others = float("inf") if self.calls == 1 else 1.0
        update([gradient + others for gradient in gradients], variables)


@pytest.mark.parametrize("outside", [True, False])
def test_gradients_are_combined_before_loss_scaling_looks_for_infinite_ones(outside: bool) -> None:
    inner = keras.optimizers.SGD(1.0)
    if outside:
        scaled: Any = combining_copy(keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0), OverBothRanks)
    else:  # as model.compile does for mixed_float16
        scaled = keras.optimizers.LossScaleOptimizer(combining_copy(inner, OverBothRanks), initial_scale=4.0)
    weight = keras.Variable([0.0])
    found = []
    for _ in range(2):
        scaled.apply([tf.constant([3.0])], [weight])
        found.append((float(weight[0]), float(scaled.dynamic_scale), int(scaled.iterations)))
    # (3 + 1) / 2, once the scale is halved.
    assert found == [(0.0, 2.0, 0), (-2.0, 2.0, 1)]
    combining = combining_of(scaled)
    assert isinstance(combining, OverBothRanks)
    assert combining.calls == 2


def test_missing_and_sparse_gradients_come_as_they_are() -> None:
    seen: list[Any] = []

    class Seen(Combining):
        def apply(self, optimizer: Any, gradients: Gradients, variables: Sequence[Any], update: Update) -> None:
            seen.extend(zip(gradients, variables, strict=True))
            update(gradients, variables)

    own = keras.optimizers.SGD(1.0)
    combine_in_place(own, Seen)
    weights = variables()
    rows = tf.IndexedSlices(tf.ones((2, 4)), tf.constant([0, 0]), tf.constant([3, 4]))
    before = np.array(weights[0])
    own.build(weights)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        own.apply([rows, None])
    assert seen == [(rows, weights[0]), (None, weights[1])]
    np.testing.assert_allclose(np.array(weights[0]) - before, [[-2] * 4, [0] * 4, [0] * 4], atol=1e-6)


def test_a_model_that_an_optimizer_combined_gradients_for_is_given_up_with_it() -> None:
    """Though Keras keeps the optimizer's class."""

    def used() -> tuple[weakref.ref[Doubled], type]:
        held, which = Doubled(), optimizer("SGD")
        combine_in_place(which, lambda: held)
        trained(which, 1.0)
        return weakref.ref(held), type(which)

    gone, kind = used()
    gc.collect()
    assert gone() is None
    with pytest.raises(UserError, match="the model is gone for which this optimizer \\(SGD\\) combined gradients"):
        trained(kind(), 1.0)
