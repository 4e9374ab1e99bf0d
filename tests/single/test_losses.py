"""The losses and optimizers that can be asked for by name are Keras', with the arguments that Keras has for them."""

import inspect
import json
from typing import Any

import keras
import pytest

from horovod_flowers.config.keras_arguments import OF_WHOLE_WEIGHTS, OPTIMIZER_ARGUMENTS, OPTIMIZER_CLASSES
from horovod_flowers.config.losses import CROSSENTROPY, LOSSES, loss_called
from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.config.run import ModelConfig, RunConfig
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.training.optimizer import acts_on_elements, make_optimizer

BY_OPTIONS = {
    *("self", "learning_rate", "weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "ema_momentum"),
    *("ema_overwrite_frequency", "loss_scale_factor", "gradient_accumulation_steps", "name", "kwargs"),
}
"""Arguments of every optimizer of Keras', for which a run has options of its own."""
NOT_BY_OPTIONS = {"sgd": {"momentum"}, "muon": {"exclude_layers"}}


def test_every_loss_of_keras_is_there_or_said_not_to_fit() -> None:
    classes = {name for name, found in vars(keras.losses).items() if isinstance(found, type)} - {"Loss"}
    named = {loss.keras_class for loss in LOSSES.values()}
    assert classes - named == {"CTC", "Circle", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"}


@pytest.mark.parametrize("name", LOSSES)
def test_arguments_of_losses_are_those_of_keras(name: str) -> None:
    loss = LOSSES[name]
    own = {"self", "name", "reduction", "dtype", "from_logits", "label_smoothing", "axis"}
    taken = set(inspect.signature(getattr(keras.losses, loss.keras_class).__init__).parameters)
    assert taken - own == set(loss.arguments)
    assert ("label_smoothing" in taken) == loss.smooths_labels
    assert ("from_logits" in taken) == (loss.takes in ("softmax", "sigmoid"))
    assert callable(getattr(keras.losses, name))


def test_every_optimizer_of_keras_is_there() -> None:
    base = keras.optimizers.Optimizer
    classes = {
        name
        for name, found in vars(keras.optimizers).items()
        if isinstance(found, type) and issubclass(found, base) and found is not base
    }
    assert classes - {"LossScaleOptimizer"} == set(OPTIMIZER_CLASSES.values())
    assert OPTIMIZER_CLASSES.keys() == OPTIMIZER_ARGUMENTS.keys()


@pytest.mark.parametrize("name", OPTIMIZER_CLASSES)
def test_arguments_of_optimizers_are_those_of_keras(name: str) -> None:
    kind = getattr(keras.optimizers, OPTIMIZER_CLASSES[name])
    taken = inspect.signature(kind.__init__).parameters
    own = set(taken) - BY_OPTIONS - NOT_BY_OPTIONS.get(name, set())
    assert own == set(OPTIMIZER_ARGUMENTS[name])
    for argument, expected in OPTIMIZER_ARGUMENTS[name].items():
        assert isinstance(taken[argument].default, expected), argument
    decay = 0.1 if name == "adamw" else 0.0
    defaults = {argument: taken[argument].default for argument in OPTIMIZER_ARGUMENTS[name]}
    config = OptimizerConfig(name=name, weight_decay=decay, options=defaults)  # type: ignore[arg-type]
    optimizer = make_optimizer(config)
    assert {argument: getattr(optimizer, argument) for argument in defaults} == defaults
    assert acts_on_elements(optimizer) == (name not in OF_WHOLE_WEIGHTS)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        *(("mse", "mean_squared_error"), ("MSE", "mean_squared_error"), ("KLDivergence", "kl_divergence")),
        *(("sparse_categorical_crossentropy", CROSSENTROPY), ("CategoricalCrossentropy", CROSSENTROPY)),
        *(("keras.losses.Huber", "huber"), ("bce", "binary_crossentropy"), (CROSSENTROPY, CROSSENTROPY)),
    ],
)
def test_a_loss_has_one_name(given: str, found: str) -> None:
    assert loss_called(given) == found
    assert RunConfig(loss=given).loss == found


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"loss": "hubr"}, "there is no loss 'hubr': did you mean huber? allowed is one of crossentropy, "),
        ({"loss": "ctc"}, "loss is 'ctc', which compares sequences, and a photo has one class: give another one"),
        ({"loss": "circle"}, "which compares the images of a batch with each other, and each rank has its own only"),
        ({"loss": "mse", "label_smoothing": 0.1}, "loss mean_squared_error does not smooth labels: leave it out"),
        ({"loss_options": {"gamma": 1}}, "loss_options has 'gamma', which loss crossentropy does not take: it takes n"),
        ({"loss": "huber", "loss_options": {"delta": "x"}}, "loss_options has delta 'x': give a number"),
        ({"loss": "huber", "loss_options": {"delta": True}}, "loss_options has delta 'True': give a number"),
        ({"loss": "huber", "loss_options": {"gamma": 1}}, "which loss huber does not take: it takes delta"),
    ],
)
def test_losses_that_do_not_fit_are_refused_before_keras_is_imported(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        RunConfig(**options)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"options": {"beta_3": 1}}, "optimizer.options has 'beta_3', which optimizer adam does not take: it takes b"),
        ({"options": {"beta_3": 1}}, "; did you mean beta_"),
        ({"options": {"amsgrad": 1}}, "optimizer.options has amsgrad '1': give true or false"),
        ({"options": {"beta_1": float("nan")}}, "optimizer.options has beta_1 'nan': give a number"),
        ({"name": "muon", "options": {"ns_steps": 1.5}}, "optimizer.options has ns_steps '1.5': give a whole number"),
        ({"name": "adamw"}, "add --optimizer.weight-decay, such as 0.004, which is Keras' default, or choose adam"),
        ({"clipnorm": 1.0, "clipvalue": 1.0}, "optimizer.clipnorm is 1.0 and optimizer.clipvalue is 1.0: give one"),
        ({"decay": "exponential"}, "decay is 'exponential' and decay_epochs is None: give --optimizer.decay-epochs a "),
        ({"decay": "exponential", "decay_epochs": "1,2"}, "such as 10"),
        ({"decay": "piecewise", "decay_epochs": "3,2"}, "an increasing list of positive numbers of epochs"),
        ({"decay": "piecewise", "decay_epochs": "x"}, "an increasing list of positive numbers of epochs"),
        ({"decay_epochs": "3"}, "decay_epochs is 3 but decay 'none' does not use it: leave it out, or choose"),
        ({"decay": "cosine", "decay_power": 2.0}, "optimizer.decay_power is 2.0 but decay 'cosine' does not use it"),
    ],
)
def test_optimizers_that_do_not_fit_are_refused_before_keras_is_imported(
    options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as refused:
        OptimizerConfig(**options)
    assert sentence in str(refused.value)


def test_constant_is_another_name_of_no_decay() -> None:
    assert OptimizerConfig(decay="constant") == OptimizerConfig()


def test_an_optimizer_of_whole_weights_is_refused_where_ranks_divide_them() -> None:
    with pytest.raises(UserError, match="looks at whole weights, and strategy sharded divides them over the ranks"):
        RunConfig(strategy="sharded", optimizer=OptimizerConfig(name="lamb"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--model.name", "nothing.keras"],
            "there is no model file nothing.keras: give the path of a file that model.",
        ),
        (
            ["--model.options.width", "3"],
            "model flower_cnn is one of the suite's own, which takes no options: leave th",
        ),
        (
            ["--model.name", "a.keras", "--model.options.width", "3"],
            "model a.keras is a saved model, which takes no op",
        ),
        (["--model.name", "a:b", "--model.options.classes", "3"], "model.options has 'classes': give names of further"),
        (["--model.options", "3"], "model.options is '3': allowed is a mapping of names to values"),
        (["--optimizer.name", "adm"], "optimizer.name is 'adm': allowed is one of 'adam', 'sgd', 'adamw', "),
        (["--loss", "xyz"], "there is no loss 'xyz': allowed is one of crossentropy, "),
    ],
)
def test_mistakes_are_refused_before_mpi_starts(refused_here: Any, words: list[str], sentence: str) -> None:
    ended = refused_here("train", "--data.synthetic-images", "20", *words)
    assert ended.status == 2
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_mapping_of_arguments_goes_through_words_and_yaml(tmp_path: Any) -> None:
    from horovod_flowers.config.command_line import build, given_options, parse, to_yaml
    from horovod_flowers.config.yaml_file import options_in
    from horovod_flowers.study.point import option_words

    words = ["--model.options.width", "32", "--model.options.deep", "true", "--optimizer.learning-rate", "0.001"]
    config = parse(RunConfig, "c", "", words)
    assert config.model == ModelConfig(options={"width": 32, "deep": True})
    assert option_words(config) == ["--model.options", json.dumps({"width": 32, "deep": True})]
    assert parse(RunConfig, "c", "", option_words(config)) == config
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert build(RunConfig, options_in(tmp_path / "config.yaml")) == config
    assert given_options(RunConfig, words) == ["model.options", "optimizer.learning_rate"]
