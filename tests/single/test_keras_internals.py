"""What is used of Keras beyond its public interface is there, and means what it meant."""

from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from horovod_flowers.config.keras_arguments import OF_WHOLE_WEIGHTS, OPTIMIZER_CLASSES
from horovod_flowers.model import keras_internals as internals


def test_keras_is_the_version_that_this_was_written_for() -> None:
    installed = metadata.version("keras")
    assert installed == internals.WRITTEN_FOR, (
        f"keras is {installed}, and model/keras_internals.py was written for {internals.WRITTEN_FOR}: check each "
        "function there against the new version, then raise WRITTEN_FOR"
    )


def nested() -> keras.Model:
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="inner_dense")], name="inner")
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, name="shared")
    outputs = keras.layers.Dense(2, name="head")(inner(hidden(hidden(inputs))))
    return keras.Model(inputs, outputs)


def test_layers_and_calls_are_found_in_nested_models() -> None:
    model = nested()
    layers = {layer.name: layer for layer in internals.all_layers(model)}
    assert {"inner", "inner_dense", "shared", "head"} <= set(layers)
    in_use = internals.nodes_in_use(model)

    def calls(name: str) -> int:
        return sum(id(node) in in_use for node in internals.nodes_into(layers[name]))

    assert (calls("shared"), calls("head"), calls("inner_dense")) == (2, 1, 1)
    assert internals.users_of(layers["inner"]) == [layers["head"]]
    (node,) = internals.nodes_into(layers["head"])
    assert node.input_tensors[0].shape == (None, 3)


def test_a_sequential_model_leaves_nodes_behind_that_are_in_no_graph() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.add(keras.layers.Dense(2))
    first = model.layers[0]
    in_use = internals.nodes_in_use(model)
    assert len(internals.nodes_into(first)) > 1
    assert sum(id(node) in in_use for node in internals.nodes_into(first)) == 1


def test_a_kernel_is_replaced_by_one_of_another_shape() -> None:
    layer = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.5))
    layer.build((None, 4))
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    internals.replace_kernel(layer, values)
    assert np.array_equal(layer.kernel, values)
    assert [tuple(weight.shape) for weight in layer.trainable_weights] == [(2, 3), (3,)]
    (penalty,) = layer.losses
    assert float(penalty) == 0.5 * float((values**2).sum())


def test_the_optimizers_slots_belong_to_their_weights() -> None:
    variables = [keras.Variable(np.zeros(shape, np.float32)) for shape in ((2,), (3, 1))]
    adam = keras.optimizers.Adam()
    adam.build(variables)
    assert internals.slot_owners(adam, 2) == [None, None, 0, 0, 1, 1]
    for variable in variables:
        assert [tuple(moment.shape) for moment in internals.adam_moments(adam, variable.value)] == [variable.shape] * 2
    sgd = keras.optimizers.SGD(momentum=0.9)
    sgd.build(variables)
    assert internals.slot_owners(sgd, 2) == [None, None, 0, 1]
    assert tuple(internals.sgd_momentum(sgd, variables[1].value).shape) == (3, 1)


@pytest.mark.parametrize("name", [name for name in OPTIMIZER_CLASSES if name not in OF_WHOLE_WEIGHTS])
def test_the_slots_of_every_optimizer_that_ranks_divide_belong_to_weights(name: str) -> None:
    """All but counters: of other variables nobody would know how they are divided."""
    further: dict[str, dict[str, Any]] = {
        "rmsprop": {"momentum": 0.5, "centered": True},
        "adam": {"amsgrad": True},
        "sgd": {"momentum": 0.5},
    }
    optimizer = getattr(keras.optimizers, OPTIMIZER_CLASSES[name])(0.1, **further.get(name, {}))
    variables = [keras.Variable(np.zeros(shape, np.float32)) for shape in ((2,), (3, 1), (4,))]
    optimizer.build(variables)
    for variable, owner in zip(optimizer.variables, internals.slot_owners(optimizer, 3), strict=True):
        assert tuple(variable.shape) == (() if owner is None else tuple(variables[owner].shape)), variable.path


def test_what_a_model_is_compiled_with_is_found() -> None:
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(3, name="head")])
    labels, outputs = np.array([0, 2, 1], np.int32), np.zeros((3, 3), np.float32)
    model.compile()
    assert internals.compiled_loss(model, labels, outputs) == []
    assert internals.compiled_metrics(model, labels, outputs) == []
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    optimizer = keras.optimizers.Adam(schedule, beta_1=0.5, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, 0.5, ["accuracy"], [keras.metrics.MeanSquaredError()], jit_compile=True)
    ((found, weight),) = internals.compiled_loss(model, labels, outputs)
    assert (found, weight) == (loss, 0.5)
    metrics = internals.compiled_metrics(model, labels, outputs)
    assert [(name, weighs) for name, _, weighs in metrics] == [("accuracy", False), ("mean_squared_error", True)]
    assert type(metrics[0][1]) is keras.metrics.SparseCategoricalAccuracy
    assert internals.compiled_settings(model)["jit_compile"] is True
    assert [internals.decays(optimizer, variable) for variable in model.variables] == [True, False]
    assert internals.learning_rate_of(optimizer) is schedule
    settings = internals.settings_of(optimizer)
    assert (settings["beta_1"], settings["weight_decay"], "learning_rate" in settings) == (0.5, 0.1, False)
    assert internals.learning_rate_of(optimizer) is schedule
    assert internals.learning_rate_of(keras.optimizers.SGD(0.25)) == 0.25


def test_losses_of_keras_are_told_from_those_of_the_user() -> None:
    class Own(keras.losses.Loss):
        def call(self, truth: Any, outputs: Any) -> Any:
            return outputs

    class Whole(Own):
        def __call__(self, truth: Any, outputs: Any, sample_weight: Any = None) -> Any:
            return outputs

    function, arguments = internals.wrapped_function(keras.losses.Huber(0.5)) or (None, {})
    assert (function, arguments) == (keras.losses.huber, {"delta": 0.5})
    assert internals.wrapped_function(Own()) is None
    assert [internals.calls_as_keras(loss) for loss in (Own(), Whole())] == [True, False]
    masking = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    truth, outputs = np.array([0.0, 1.0], np.float32), np.zeros((2, 3), np.float32)
    assert internals.is_masked(masking.call(truth, outputs))
    assert not internals.is_masked(keras.losses.Huber().call(np.zeros((2, 3), np.float32), outputs))


def test_models_that_run_their_graph_are_told_from_those_with_a_call_of_their_own() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs)

    class Named(keras.Sequential):
        """A name, and nothing else of its own."""

    layer = keras.layers.Dense(2)
    assert all(internals.follows_its_graph(each) for each in (nested(), Named([keras.Input((4,)), layer]), layer))
    assert not internals.follows_its_graph(Own())
    assert not internals.follows_its_graph(keras.layers.TimeDistributed(layer))
    assert internals.keeps_call(layer)
    layer.call = lambda inputs: inputs
    assert not internals.keeps_call(layer)
    assert [each.name for each in internals.layers_in(nested())][-1] == "head"


def test_what_is_computed_again_in_the_backward_pass_says_so() -> None:
    assert not internals.is_rematerialised(keras.layers.Dense(2))
    with keras.RematScope(mode="full"):
        assert internals.is_rematerialised(keras.layers.Dense(2))


def test_batch_normalisation_takes_other_moments() -> None:
    layer = keras.layers.BatchNormalization(momentum=0.5, axis=1)
    layer.build((None, 3, 4))
    assert not internals.has_own_moments(layer)
    seen = []

    def moments(inputs: Any, mask: Any, axes: Any) -> tuple[np.ndarray, np.ndarray]:
        seen.append((np.shape(inputs), mask, axes))
        return np.full(3, 2, np.float32), np.full(3, 4, np.float32)

    internals.replace_moments(layer, moments)
    outputs = layer(np.full((5, 3, 4), 6, np.float32), training=True)
    assert seen == [((5, 3, 4), None, [0, 2])]
    np.testing.assert_allclose(outputs, (6 - 2) / 2, rtol=1e-3)
    np.testing.assert_allclose(layer.moving_mean, 1)
    assert internals.has_own_moments(layer)
    assert [type(layer).__name__, len(layer.trainable_variables)] == ["BatchNormalization", 2]
    internals.restore_moments(layer)
    assert type(layer) is keras.layers.BatchNormalization


def test_arrays_are_known_and_read_by_rows() -> None:
    x, y = np.arange(10, dtype=np.float64).reshape(5, 2), np.array([0, 1, 0, 1, 0])
    adapter = internals.data_adapter({"a": x}, y, batch_size=2, class_weight={1: 3.0})
    found = internals.arrays_in(adapter)
    assert found is not None
    arrays, rows, batch = found
    assert (rows, batch) == (5, 2)
    tensors = internals.tensors_of(arrays)
    assert tensors[0]["a"].dtype == np.float32
    assert tensors[2].tolist() == [1, 3, 1, 3, 1]
    whole = tf.data.Dataset.from_tensors(tensors).map(lambda *parts: internals.rows_at(parts, [4, 1]))
    ((part, targets, weights),) = list(whole)
    assert part["a"].numpy().tolist() == [[8, 9], [2, 3]]
    assert (targets.numpy().tolist(), weights.numpy().tolist()) == ([0, 1], [1, 3])
    assert internals.arrays_in(internals.data_adapter(tf.data.Dataset.from_tensor_slices(x).batch(2))) is None
    (first, _), (held_out, _) = internals.split_for_validation((x, y), 0.4)
    assert (len(first), held_out.tolist()) == (3, x[3:].tolist())


def test_updates_of_means_can_be_weighted() -> None:
    mean, rooted = keras.metrics.Mean(), keras.metrics.RootMeanSquaredError()
    seen: list[Any] = []

    def weight_of(metric: Any, values: Any, sample_weight: Any) -> Any:
        seen.append((metric, np.shape(values), sample_weight))
        return 2.0 if np.shape(values) == () else sample_weight

    with internals.mean_updates(weight_of):
        mean.update_state(5.0)
        rooted.update_state([[1.0], [2.0]], [[1.0], [4.0]])
    mean.update_state(8.0)
    assert float(mean.result()) == 6.0
    assert float(rooted.result()) == np.float32(np.sqrt(2))
    assert [(metric, shape) for metric, shape, _ in seen] == [(mean, ()), (rooted, (2, 1))]


def test_compiled_metrics_are_those_given() -> None:
    model, recall = nested(), keras.metrics.Recall()
    model.compile("sgd", "mse")
    assert internals.metrics_compiled_with(model) == []
    model.compile("sgd", "mse", metrics=["mae"], weighted_metrics=[recall])
    assert internals.metrics_compiled_with(model) == ["mae", recall]


def test_callbacks_tell_their_hooks_and_can_be_asked_to_save(tmp_path: Path) -> None:
    quiet, loud = keras.callbacks.LambdaCallback(), keras.callbacks.LambdaCallback(on_train_batch_end=print)
    assert [internals.has_hook(each, "on_train_batch_end") for each in (quiet, loud)] == [False, True]
    asked: list[Any] = []

    def save(own: Any, as_keras: Any) -> None:
        asked.append(own)
        as_keras()

    for kind, options in (
        (keras.callbacks.ModelCheckpoint, {"filepath": tmp_path / "{epoch}.weights.h5", "save_weights_only": True}),
        (keras.callbacks.BackupAndRestore, {"backup_dir": tmp_path / "backup", "delete_checkpoint": False}),
    ):
        callback = kind(**options)
        callback.__class__ = internals.saving_class(kind, save)
        model = nested()
        model.compile("sgd", "mse")
        model.fit(np.ones((2, 4)), np.ones((2, 2)), callbacks=[callback], verbose=0)
        assert asked[-1] is callback
    assert len(asked) == 2
    assert internals.is_whole(str(tmp_path / "1.weights.h5"))
    (tmp_path / "2.weights.h5").write_bytes((tmp_path / "1.weights.h5").read_bytes()[:500])
    assert not internals.is_whole(str(tmp_path / "2.weights.h5"))
    assert [Path(path).name for path in internals.backup_paths(asked[-1])] == [
        *("latest.weights.h5", "training_metadata.json"),
        *("latest.weights.h5.bkp", "training_metadata.json.bkp"),
    ]
    assert internals.saves_as_keras(keras.callbacks.BackupAndRestore)
    assert not internals.saves_as_keras(type(asked[-1]))
    weights = internals.backup_paths(asked[-1])[0]
    assert internals.note_in(weights) is None
    internals.add_note(weights, "step 3 ✿")
    assert internals.note_in(weights) == "step 3 ✿"
    before = model.get_weights()
    model.load_weights(weights)
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))
    begun: list[int] = []
    watch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))
    begin = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: internals.begin_at_epoch(model, 2))
    model.fit(np.ones((2, 4)), np.ones((2, 2)), callbacks=[begin, watch], epochs=4, verbose=0)
    assert begun == [2, 3]


def test_an_optimizer_is_copied_with_what_its_configuration_does_not_tell() -> None:
    def rate() -> float:
        return 0.125

    own = keras.optimizers.SGD(rate, momentum=0.5)
    own.exclude_from_weight_decay(var_names=["bias"])
    variable = keras.Variable(np.ones(3, np.float32))
    own.apply([keras.ops.ones(3)], [variable])
    copy = internals.copy_of_optimizer(own, keras.optimizers.SGD)
    assert copy is not own
    assert copy.learning_rate == 0.125
    assert [np.array(each).tolist() for each in copy.variables] == [np.array(each).tolist() for each in own.variables]
    assert internals.variables_built_for(copy) == [variable]
    assert internals.variable_built_for(copy, variable.value) is variable
    assert not internals.copy_of_unbuilt(own).built
    assert internals.copy_of_unbuilt(own)._exclude_from_weight_decay_pattern == own._exclude_from_weight_decay_pattern


def test_a_class_is_written_as_another() -> None:
    class Own(keras.optimizers.SGD):
        """With a name of its own."""

    internals.written_as(Own, keras.optimizers.SGD)
    found = keras.saving.serialize_keras_object(Own())
    assert (found["module"], found["class_name"], found["registered_name"]) == ("keras.optimizers", "SGD", None)


def test_velocities_are_those_that_hold_the_learning_rate() -> None:
    class Own(keras.optimizers.Optimizer):
        momentum = 0.5

    weights = [keras.Variable(np.ones(shape, np.float32)) for shape in ((2,), (3,))]
    found = {}
    for optimizer in (
        keras.optimizers.SGD(momentum=0.5),
        keras.optimizers.RMSprop(momentum=0.5),
        keras.optimizers.Adam(),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(momentum=0.5)),
    ):
        assert internals.velocities(optimizer) == []
        optimizer.build(weights)
        found[type(optimizer).__name__] = [tuple(each.shape) for each in internals.velocities(optimizer) or []]
    both = [(2,), (3,)]
    assert found == {"SGD": both, "RMSprop": both, "Adam": [], "LossScaleOptimizer": both}
    assert internals.velocities(Own(0.1)) is None


def test_slots_of_one_variable_are_found_by_its_name() -> None:
    layers = [keras.layers.Dense(2, name=name) for name in ("one", "one_more")]
    for layer in layers:
        layer.build((None, 3))
    adam = keras.optimizers.Adam()
    adam.build([layer.kernel for layer in layers])
    for number, layer in enumerate(layers):
        slots = internals.slots_of(adam, layer.kernel.value)
        assert [id(slot) for slot in slots] == [id(slot) for slot in adam.variables[2 + 2 * number : 4 + 2 * number]]
    assert internals.slots_of(adam, layers[0].bias.value) == []


def test_metrics_are_found_in_keras_container_and_models_are_built_for_a_structure() -> None:
    model = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(momentum=0.5), "mse", metrics=["mae"])
    spec = (tf.TensorSpec((None, 3), tf.float32), tf.TensorSpec((None, 1), tf.float32))
    internals.build_for(model, spec)
    assert [tuple(weight.shape) for weight in model.weights] == [(3, 2), (2,), (2, 1), (1,)]
    assert model.optimizer.built
    assert [metric.name for metric in internals.metrics_of(model)] == ["loss", "mae"]
