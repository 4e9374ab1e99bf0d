"""The running average of the weights, weight decay, label smoothing: against their formulas."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from horovod_flowers.checkpoint.format import SavedProgress, load_averaged, save_checkpoint
from horovod_flowers.checkpoint.model_state import ModelState
from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.data.batches import Batch
from horovod_flowers.strategy.allreduce import OneRank
from horovod_flowers.strategy.layout import Groups
from horovod_flowers.training.optimizer import build_over, make_optimizer
from horovod_flowers.training.step import TrainingStep, Update
from horovod_flowers.training.weight_average import WeightAverage


def small_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.layers.Input((8, 8, 3)), *layers, keras.layers.Dense(3)])


def batch(seed: int) -> Batch:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    return Batch(images, random.integers(0, 3, 6).astype(np.int32), np.ones(6, np.float32), 6, np.arange(6))


def test_the_average_follows_its_formula_and_gives_the_weights_back() -> None:
    model, strategy = small_model(), OneRank(Groups())
    state, optimizer = ModelState(model, strategy), make_optimizer(OptimizerConfig())
    build_over(optimizer, strategy.optimizer_variables, [part.shape for part in strategy.parts])
    average = WeightAverage(strategy, state.statistics, 0.15)
    average.begin()
    assert [variable.path.rsplit("/")[-1] for variable in state.statistics] == ["moving_mean", "moving_variance"]
    averaged = [*strategy.optimizer_variables, *state.statistics]
    expected = [np.array(variable) for variable in averaged]
    step = TrainingStep(model, optimizer, strategy, 1, "fp32", average=average)
    for number in range(1, 5):
        step(batch(number), 0.05, Update(6))
        decay = min(0.15, (1 + number) / (10 + number))
        expected = [decay * old + (1 - decay) * np.array(new) for old, new in zip(expected, averaged, strict=True)]
    for found, wanted in zip(average.variables, expected, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-6)
    weights = [np.array(variable) for variable in averaged]
    with average.in_place_of_weights():
        for variable, wanted in zip(averaged, expected, strict=True):
            np.testing.assert_allclose(np.array(variable), wanted, rtol=1e-5, atol=1e-6)
    assert all(np.array_equal(np.array(now), before) for now, before in zip(averaged, weights, strict=True))


def test_who_predicts_from_a_checkpoint_gets_the_averages(tmp_path: Path) -> None:
    model, strategy = small_model(), OneRank(Groups())
    state = ModelState(model, strategy)
    average = WeightAverage(strategy, state.statistics, 0.5)
    state.add_average(average.variables)
    state.share(None)
    for variable in average.variables:
        variable.assign(tf.fill(variable.shape, 7.0))
    tensors = state.collect()
    assert tensors is not None
    progress = SavedProgress(
        epochs_done=1,
        steps_done=1,
        training_seconds=1.0,
        model="m",
        class_names=("a", "b", "c"),
        data_digest="digest",
        validation_accuracy=0.5,
        best_validation_accuracy=0.5,
        best_epoch=1,
    )
    save_checkpoint(tmp_path / "checkpoints", tensors, progress)
    other = ModelState.on_one_rank(small_model())
    found = load_averaged(tmp_path / "checkpoints" / "best.safetensors", other.shapes)
    assert found.keys() == other.shapes.keys()
    assert all((value == 7).all() for value in found.values())


def test_weight_decay_shrinks_kernels_alone() -> None:
    model = small_model()
    variables = model.trainable_variables
    before = [np.array(variable) for variable in variables]
    optimizer = make_optimizer(OptimizerConfig(name="sgd", momentum=0.0, learning_rate=0.5, weight_decay=0.1))
    build_over(optimizer, variables, [tuple(variable.shape) for variable in variables])
    optimizer.apply([tf.zeros(variable.shape) for variable in variables], variables)
    for variable, old in zip(variables, before, strict=True):
        wanted = old * (1 - 0.5 * 0.1) if variable.path.endswith("kernel") else old
        np.testing.assert_allclose(np.array(variable), wanted, rtol=1e-6)


def test_smoothed_labels_give_keras_loss() -> None:
    model, strategy = small_model(), OneRank(Groups())
    ModelState(model, strategy)
    step = TrainingStep(model, make_optimizer(OptimizerConfig()), strategy, 1, "fp32", label_smoothing=0.2)
    one = batch(0)
    shares = np.array([1 / 6, 1.0], np.float32)
    loss_sum, _, _ = step.local_gradients(one.images, one.labels, one.weights, shares)
    logits = model(one.images.astype(np.float32), training=True)
    wanted = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)(
        keras.ops.one_hot(one.labels, 3), logits
    )
    assert float(loss_sum) / 6 == pytest.approx(float(wanted), rel=1e-5)
