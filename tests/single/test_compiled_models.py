"""Compiled models: their losses are Keras' own, to rounding; what cannot be followed is refused in a sentence."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from horovod_flowers.checkpoint.model_state import ModelState
from horovod_flowers.config.keras_arguments import OF_WHOLE_WEIGHTS, OPTIMIZER_CLASSES
from horovod_flowers.config.losses import LOSSES
from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.config.run import ModelConfig, RunConfig
from horovod_flowers.model.freezing import freeze
from horovod_flowers.model.loss import loss_by_name
from horovod_flowers.model.metrics import CompiledMetrics
from horovod_flowers.model.registry import build_whole
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.strategy.allreduce import OneRank
from horovod_flowers.strategy.layout import Groups
from horovod_flowers.training.learning_rate import KerasSchedule
from horovod_flowers.training.optimizer import (
    Clipping,
    acts_on_elements,
    build_over,
    make_optimizer,
    optimizer_like,
)
from horovod_flowers.training.recipe import Recipe, recipe_of
from horovod_flowers.training.resume import check_continues, read_config
from horovod_flowers.training.weight_average import KerasAverage, WeightAverage
from tests.single import compiled_models
from tests.single.compiled_models import REFUSED, REFUSED_OF_TWO_CLASSES
from tests.single.recorded_runs import write_run

SIZE = 32
IMAGES = np.random.default_rng(3).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.float32)
MODULE = compiled_models.__name__


def recipe(name: str, classes: int = 5, overrides: str = "", **options: Any) -> Recipe:
    config = RunConfig(model=ModelConfig(f"{MODULE}:{name}", overrides=overrides), **options)
    return recipe_of(config, build_whole(config.model.name, SIZE, classes), classes, weighted=False, divided=False)


ONE_HOT = ("scheduled", "own_parts", "focal", "added_up", "one_sum")


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        *((name, 5) for name in ("clipped", *ONE_HOT, "one_number", "by_name", "without_loss")),
        ("unit", 2),
        ("unit_of_logits", 2),
    ],
)
def test_the_gradients_of_a_compiled_loss_are_keras_own(name: str, classes: int) -> None:
    """Of what Keras computes from the model as it was compiled, on four images."""
    raw = getattr(compiled_models, name)(SIZE, classes)
    if name == "without_loss":
        raw.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.arange(4, dtype=np.int32) % classes
    truth: Any = keras.utils.to_categorical(labels, classes) if name in ONE_HOT else labels
    truth = labels[:, None].astype(np.float32) if classes == 2 else truth
    with tf.GradientTape() as tape:
        loss = raw.compute_loss(IMAGES, tf.constant(truth), raw(IMAGES, training=True))
    wanted = tape.gradient(loss, [variable.value for variable in raw.trainable_variables])

    built = build_whole(f"{MODULE}:{name}", SIZE, classes)
    chosen = recipe(name, classes)
    with tf.GradientTape() as tape:
        losses = chosen.loss.of_images(labels, built.model(IMAGES, training=True))
        total = tf.reduce_sum(losses) if chosen.loss.added_up else tf.reduce_mean(losses)
    found = tape.gradient(total, [variable.value for variable in built.model.trainable_variables])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [*REFUSED, *REFUSED_OF_TWO_CLASSES])
def test_what_a_model_is_compiled_with_is_followed_or_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(UserError) as error:
        recipe(name, 2 if name in REFUSED_OF_TWO_CLASSES else 5)
    said, wanted = str(error.value), {**REFUSED, **REFUSED_OF_TWO_CLASSES}[name]
    assert fnmatch(said, f"*{wanted.replace('[', '[[]')}*"), said
    assert "\n" not in said


class Shrinking(keras.optimizers.SGD):
    """Looks at the norm of a whole weight."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign_sub(variable, learning_rate * gradient / (1 + tf.norm(variable)))


def test_an_optimizer_of_ones_own_is_tried_out_for_looking_at_whole_weights() -> None:
    assert acts_on_elements(compiled_models.Signs(0.1))
    assert not acts_on_elements(Shrinking(0.1))


@pytest.mark.parametrize("name", [name for name in OPTIMIZER_CLASSES if name not in OF_WHOLE_WEIGHTS])
def test_optimizers_that_ranks_divide_update_each_element_by_itself(name: str) -> None:
    """Three updates of a weight, and of its two halves."""
    random = np.random.default_rng(0)
    values, *gradients = (random.normal(size=(6, 4)).astype(np.float32) for _ in range(4))

    def updated(rows: slice) -> np.ndarray:
        decay = {"weight_decay": 0.1, "learning_rate": 0.01}
        optimizer = make_optimizer(OptimizerConfig(name=name, **decay))  # type: ignore[arg-type]
        variable = keras.Variable(values[rows])
        build_over(optimizer, [variable], [values.shape])
        for gradient in gradients:
            optimizer.apply([tf.constant(gradient[rows])], [variable])
        return np.asarray(variable)

    parts = np.concatenate([updated(slice(2)), updated(slice(2, 6))])
    np.testing.assert_allclose(parts, updated(slice(6)), rtol=1e-5, atol=1e-6)


def test_keras_muon_updates_as_its_formula_has_it() -> None:
    """It fails on TensorFlow as it is; here a kernel moves along a matrix that is nearly orthogonal."""
    optimizer = make_optimizer(OptimizerConfig(name="muon", learning_rate=0.1))
    kernel, bias = keras.Variable(np.zeros((4, 4), np.float32)), keras.Variable(np.zeros(4, np.float32))
    build_over(optimizer, [kernel, bias], [(4, 4), (4,)])
    gradient = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    optimizer.apply([tf.constant(gradient), tf.ones(4)], [kernel, bias])
    singular = np.linalg.svd(np.asarray(kernel) / 0.1, compute_uv=False)
    assert (np.abs(singular - 1) < 0.4).all()
    np.testing.assert_allclose(bias, -0.1 * 0.1, rtol=1e-4)  # Adam's first step, a tenth of the rate


def measured(*metrics: Any, labels: Any = "integers", ending: Any = "logits", classes: int = 5) -> CompiledMetrics:
    return CompiledMetrics([(metric.name, metric, False) for metric in metrics], ending, labels, classes)


ADDITIVE = [
    lambda: (keras.metrics.SparseCategoricalAccuracy(), "integers"),
    lambda: (keras.metrics.SparseCategoricalCrossentropy(from_logits=True), "integers"),
    lambda: (keras.metrics.F1Score(), "one-hot"),
    lambda: (keras.metrics.AUC(20, from_logits=True, multi_label=True, num_labels=5), "one-hot"),
    lambda: (keras.metrics.RootMeanSquaredError(), "one-hot"),
    lambda: (keras.metrics.CosineSimilarity(), "one-hot"),
    lambda: (keras.metrics.R2Score(), "one-hot"),
    lambda: (keras.metrics.PrecisionAtRecall(0.5), "one-hot"),
    lambda: (keras.metrics.OneHotMeanIoU(5), "one-hot"),
    lambda: (keras.metrics.MeanMetricWrapper(keras.losses.hinge, name="by_function"), "one-hot"),
]


@pytest.mark.parametrize("make", ADDITIVE)
def test_metrics_of_two_ranks_are_those_of_one(make: Any) -> None:
    """Sums of two halves, one with an image that does not count, give what all images in one give."""
    random = np.random.default_rng(7)
    labels, logits = random.integers(0, 5, 9).astype(np.int32), random.normal(size=(9, 5)).astype(np.float32)

    def after(rows: slice, counts: np.ndarray) -> tuple[CompiledMetrics, np.ndarray]:
        metric, form = make()
        found = measured(metric, labels=form)
        tf.function(found.update)(labels[rows], tf.constant(logits[rows]), tf.constant(counts, tf.float32))
        return found, found.sums(found.states())

    whole, all_sums = after(slice(9), np.array([1, 1, 1, 1, 1, 1, 1, 1, 0]))
    _, first = after(slice(4), np.ones(4))
    _, second = after(slice(4, 9), np.array([1, 1, 1, 1, 0]))
    _, none = after(slice(8, 9), np.zeros(1))
    assert (none == 0).all()
    expected = whole.results(all_sums)
    assert expected
    assert whole.results(first + second) == pytest.approx(expected, rel=1e-5)


def test_metrics_that_share_a_name_are_told_apart() -> None:
    accuracy = keras.metrics.SparseCategoricalAccuracy
    assert measured(accuracy(name="a"), accuracy(name="a")).names == ["a", "a_1"]
    weighing = CompiledMetrics([("a", accuracy(), False), ("a", accuracy(), True)], "logits", "integers", 5)
    assert weighing.names == ["a", "weighted_a"]  # as Keras has it


def test_a_function_is_given_further_arguments_or_the_mistake_is_told() -> None:
    assert build_whole(f"{MODULE}:wider", SIZE, 5, {"width": 7}).model.get_layer("wide").units == 7
    for options, sentence in {
        (): "activation: str = 'softmax') -> Any: give width, too, such as --model.options.width VALUE",
        ("widht",): "and model.options has 'widht': give names of its arguments",
        ("width", "units"): "and model.options has 'units': give names of its arguments",
    }.items():
        with pytest.raises(UserError) as error:
            build_whole(f"{MODULE}:wider", SIZE, 5, dict.fromkeys(options, 3))
        assert sentence in str(error.value)


def test_a_model_that_is_built_already_is_copied() -> None:
    first, second = (build_whole(f"{MODULE}:INSTANCE", SIZE, 5) for _ in range(2))
    assert first.model is not second.model
    first.model.variables[0].assign(first.model.variables[0] * 0)
    np.testing.assert_array_equal(second.model.variables[0], compiled_models.INSTANCE.variables[0])
    assert compiled_models.INSTANCE.layers[-1].activation is keras.activations.softmax
    with pytest.raises(UserError, match="tells 5 classes apart, and the photos have 3: give photos of as many, or a "):
        build_whole(f"{MODULE}:INSTANCE", SIZE, 3)


def test_a_saved_model_of_code_is_refused_and_none_of_it_is_run(tmp_path: Path) -> None:
    class Unknown(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs

    shape = keras.layers.Input((SIZE, SIZE, 3))
    for name, layer, sentence in (
        ("a", Unknown(), "its class Unknown is not one of Keras' own): give a file that model.save wrote"),
        ("b", keras.layers.Lambda(lambda x: x), "its Lambda layer holds code, which is not run): give a file"),
    ):
        file = tmp_path / f"{name}.keras"
        keras.Sequential([shape, layer, keras.layers.Flatten(), keras.layers.Dense(5)]).save(file)
        with pytest.raises(UserError) as error:
            build_whole(str(file), SIZE, 5)
        assert sentence in str(error.value)
    (tmp_path / "c.keras").write_text("no model")
    with pytest.raises(UserError, match="cannot be loaded"):
        build_whole(str(tmp_path / "c.keras"), SIZE, 5)


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ("wide", ["head/kernel", "head/bias"]),
        ("w?de, head/kernel", ["head/bias"]),
        ("*/bias", ["wide/kernel", "head/kernel"]),
        ("sequential*/head", ["wide/kernel", "wide/bias"]),
    ],
)
def test_layers_and_weights_are_frozen_by_patterns(patterns: str, left: list[str]) -> None:
    keras.backend.clear_session()
    model = compiled_models.network(SIZE, 5)
    (note,) = freeze(model, patterns)
    assert ["/".join(variable.path.split("/")[-2:]) for variable in model.trainable_variables] == left
    weights = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert f"{weights:,} weights in {len(left)} tensor" in note


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        (
            "wide,conv*",
            "model.freeze is 'conv*', which matches no layer or weight: layers with weights are wide, head; g",
        ),
        ("*", "model.freeze is '*', which freezes every weight: leave something to train"),
        (" ,", "model.freeze is ' ,': give names of layers or weights, or patterns, or leave it out"),
    ],
)
def test_a_pattern_that_freezes_nothing_or_all_is_refused(patterns: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        freeze(compiled_models.network(SIZE, 5), patterns)
    assert sentence in str(error.value)


def test_a_frozen_batch_normalisation_keeps_its_statistics() -> None:
    layers = keras.layers
    model = keras.Sequential([layers.Input((4,)), layers.Dense(3), layers.BatchNormalization(name="norm")])
    freeze(model, "norm")
    model(np.ones((2, 4), np.float32) * 7, training=True)
    np.testing.assert_array_equal(model.get_layer("norm").moving_mean, 0)
    # A mean over three ranks of what nothing moves would move it by rounding.
    averaged = [variable.name for variable in ModelState.on_one_rank(model).statistics]
    assert averaged == ["moving_mean", "moving_variance"]


@pytest.mark.parametrize(
    ("overrides", "options", "sentence"),
    [
        ("optimizer.momentum", {"optimizer": OptimizerConfig(momentum=0.5)}, "optimizer.momentum is given, and model "),
        ("optimizer.decay", {"optimizer": OptimizerConfig(decay="cosine")}, "with a learning rate that follows Piecew"),
        ("loss_options", {}, "is compiled with a loss of its own: add --loss, or leave them out"),
    ],
)
def test_options_that_a_compiled_model_cannot_follow_are_refused(
    overrides: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as error:
        recipe("scheduled", overrides=overrides, **options)
    assert sentence in str(error.value)


def test_options_that_are_given_go_before_a_compiled_model() -> None:
    given = "label_smoothing,optimizer.clipnorm,optimizer.scaling,optimizer.weight_decay"
    options = OptimizerConfig(clipnorm=2.0, weight_decay=0.2, scaling="linear")
    found = recipe("focal", overrides=given, optimizer=options, label_smoothing=0.3)
    assert (found.clipping, found.optimizer.weight_decay) == (Clipping(2.0, together=False), 0.2)
    assert found.learning_rate(64, 10, 1).at(9) == pytest.approx(2 * 0.003)
    assert recipe("focal").learning_rate(64, 10, 1).at(0) == pytest.approx(0.003)
    assert recipe("focal").clipping == Clipping(0.02, together=False)
    assert recipe("one_number").clipping == Clipping(0.01, together=False, by_value=True)
    other = recipe("scheduled", overrides="optimizer.name")
    assert type(other.optimizer).__name__ == "FusedAdam"
    assert "--optimizer.name adam instead of its optimizer AdamW" in other.notes[0]


def test_a_trial_of_strategies_leaves_out_those_that_divide_what_an_optimizer_looks_at() -> None:
    built = build_whole(f"{MODULE}:wider", SIZE, 5, {"width": 8})
    config = RunConfig(strategy="auto", optimizer=OptimizerConfig(name="lamb"))
    assert recipe_of(config, built, 5, weighted=False, divided=False).optimizer.name == "lamb"
    with pytest.raises(UserError, match="optimizer lamb looks at whole weights, and this strategy divides them"):
        recipe_of(config, built, 5, weighted=False, divided=True)


SCHEDULES = [
    keras.optimizers.schedules.CosineDecay(0.1, 10, warmup_target=0.2, warmup_steps=3),
    keras.optimizers.schedules.CosineDecayRestarts(0.1, 4),
    keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5, staircase=True),
    keras.optimizers.schedules.InverseTimeDecay(0.1, 3, 0.5),
    keras.optimizers.schedules.PiecewiseConstantDecay([2, 5], [0.3, 0.2, 0.1]),
    keras.optimizers.schedules.PolynomialDecay(0.1, 8, 0.01, power=2),
    compiled_models.Halving(),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_schedules_of_keras_count_updates(schedule: Any) -> None:
    """As an optimizer evaluates them; an epoch of seven steps has three updates of three steps."""
    every, third = KerasSchedule(schedule, 7, 1), KerasSchedule(schedule, 7, 3)
    assert [every.at(step) for step in range(14)] == [float(schedule(tf.constant(step))) for step in range(14)]
    updates = [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4, 4, 5]
    assert [third.at(step) for step in range(14)] == [every.at(update) for update in updates]


def stored_run(folder: Path, **model: Any) -> None:
    """The options of a run that is there."""
    write_run(folder / "a", 1, [[1], [400]], config=RunConfig(global_batch=64, model=ModelConfig(**model)))


def resumed_options(folder: Path, *words: str) -> RunConfig:
    return read_config(["--runs-dir", str(folder), "--name", "a", "--resume", "--epochs", "3", *words], 0)


@pytest.mark.parametrize(
    ("stored", "words", "overrides"),
    [
        (None, ["--optimizer.learning-rate", "0.1"], None),  # its model was not compiled
        ("nothing", [], "nothing"),
        ("loss", [], "loss"),
        ("loss", ["--optimizer.clipnorm", "1"], "loss,optimizer.clipnorm"),
        ("older", [], "label_smoothing,loss,optimizer.name"),  # compile was not looked at
    ],
)
def test_what_went_before_a_compiled_model_stays_where_a_run_is_resumed(
    tmp_path: Path, stored: str | None, words: list[str], overrides: str | None
) -> None:
    stored_run(tmp_path, name="a.b:c", overrides=stored)
    if stored == "older":
        config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
        del config["model"]["overrides"]
        (tmp_path / "a" / "config.yaml").write_text(yaml.safe_dump(config))
    resumed = resumed_options(tmp_path, *words)
    assert resumed.model.overrides == overrides
    if not words:
        check_continues(RunFolder(tmp_path / "a"), resumed, 1)


def test_another_option_before_a_compiled_model_is_another_training(tmp_path: Path) -> None:
    stored_run(tmp_path, name="a.b:c", overrides="nothing")
    resumed = resumed_options(tmp_path, "--optimizer.learning-rate", "0.001")  # its default, which was not used
    with pytest.raises(UserError, match="in place of optimizer.learning_rate: leave out --optimizer.learning-rate to"):
        check_continues(RunFolder(tmp_path / "a"), resumed, 1)


def test_options_that_are_given_are_known_of_models_that_may_be_compiled() -> None:
    words = ["--optimizer.learning-rate", "0.001", "--epochs", "2"]
    assert read_config(words, 0).model.overrides is None
    for name in ("a.b:c", "m.keras"):
        assert read_config(["--model.name", name, *words], 0).model.overrides == "optimizer.learning_rate"
        assert read_config(["--model.name", name], 0).model.overrides == "nothing"
        given = ("--model.name", name, "--preset", "accurate", "--model.overrides", "loss")
        found = read_config(given, 0).model.overrides
        assert found is not None
        assert {"loss", "label_smoothing", "optimizer.weight_decay"} < set(found.split(","))


def test_what_the_log_has_of_a_sum_is_said() -> None:
    for name in ("added_up", "one_sum"):
        assert "adds up the images of a batch: the log has its mean for each image" in recipe(name).notes[-1]
    assert "take the softmax of the outputs for probabilities" in recipe("one_number").notes[-1]


ENDINGS: tuple[Any, ...] = ("logits", "softmax", "logit unit", "sigmoid unit")
OF_ONE_PROBABILITY = {"binary_crossentropy", "binary_focal_crossentropy", "poisson"} | {
    *("mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error", "mean_squared_logarithmic_error"),
    *("huber", "log_cosh", "hinge", "squared_hinge"),
}
OF_ONE_LOGIT = {"binary_crossentropy", "binary_focal_crossentropy", "poisson", "hinge", "squared_hinge"}
OF_ONE_LOGIT |= {"mean_squared_logarithmic_error"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_losses_by_name_are_lowest_where_the_right_class_is_predicted_or_refused(ending: Any) -> None:
    """The square of one logit and 0 or 1 is not: it would have 0 for the first class, where nothing is decided."""
    classes = 2 if ending.endswith("unit") else 5
    trained = set()
    for name in LOSSES:
        try:
            loss, _ = loss_by_name(name, None, 0.0, ending, classes, "m")
        except UserError:
            continue
        trained.add(name)
        labels = np.arange(classes, dtype=np.int32)
        logits = tf.constant(4 * np.eye(classes, dtype=np.float32))
        right, wrong = loss.of_images(labels, logits), loss.of_images(labels, logits[::-1])
        assert (np.asarray(right) <= np.asarray(wrong)).all(), name
    every = set(LOSSES)
    assert trained == {"logit unit": OF_ONE_LOGIT, "sigmoid unit": OF_ONE_PROBABILITY}.get(ending, every)


@pytest.mark.parametrize("every", [None, 2])
def test_the_average_of_an_optimizer_is_that_of_keras(every: int | None) -> None:
    """After five updates: the weights, and the average that Keras puts in their place when training ends."""
    random = np.random.default_rng(2)
    values, *gradients = (random.normal(size=(3, 2)).astype(np.float32) for _ in range(6))
    raw = keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=every)
    expected = keras.Variable(values)
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, use_bias=False)])
    model.layers[0].kernel.assign(values)
    strategy = OneRank(Groups())
    strategy.attach(model)
    optimizer = optimizer_like(raw, None, "m")
    build_over(optimizer, strategy.optimizer_variables, [values.shape])
    average = WeightAverage(strategy, [], 0.0, KerasAverage(0.7, every))
    average.begin()
    optimizer.learning_rate.assign(0.1)
    for gradient in gradients:
        raw.apply([tf.constant(gradient)], [expected])
        optimizer.apply([tf.constant(gradient)], strategy.optimizer_variables)
        average.update(optimizer.iterations.value)
    np.testing.assert_allclose(model.layers[0].kernel, expected, rtol=1e-5)
    raw.finalize_variable_values([expected])
    np.testing.assert_allclose(average.variables[0], expected, rtol=1e-5)
    with pytest.raises(UserError, match="average_decay is 0.9, and model .* with use_ema, which averages weights, too"):
        recipe("averaged", average_decay=0.9)
