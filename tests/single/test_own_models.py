"""People's own models: trained as the network that they are, or refused in a sentence that says what to write."""

from fnmatch import fnmatch
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from horovod_flowers.config.data import DataConfig
from horovod_flowers.model.registry import build, build_model
from horovod_flowers.runtime.errors import UserError
from tests.single import own_models
from tests.single.own_models import REFUSED, RIGHT

SIZE = 32
LABELS = np.array([0, 3, 1, 4])
IMAGES = np.random.default_rng(3).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.float32)


LEFT_OUT = (own_models.softmax, own_models.softmax_activation, own_models.softmax_nested)
"""Whose softmax is the activation of the last layer: without it they are the network with logits, bit by bit."""


def of(name: str, classes: int = 5) -> tuple[Any, list[str]]:
    return build(f"{own_models.__name__}:{name}", SIZE, classes)


def logits_and_gradients(model: Any, labels: np.ndarray) -> list[np.ndarray]:
    with tf.GradientTape() as tape:
        logits = model(IMAGES, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    return [tf.nn.log_softmax(logits).numpy(), *(gradient.numpy() for gradient in gradients)]


@pytest.mark.parametrize("function", RIGHT, ids=lambda function: function.__name__)
def test_outputs_of_every_kind_train_the_same_network(function: Any) -> None:
    """As the same network with logits, to rounding: outputs and the gradient of every weight."""
    model, notes = of(function.__name__)
    expected = logits_and_gradients(build_model(f"{own_models.__name__}:logits", SIZE, 5), LABELS)
    for found, wanted in zip(logits_and_gradients(model, LABELS), expected, strict=True):
        if function in LEFT_OUT:
            np.testing.assert_array_equal(found, wanted)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    ends_in_softmax = function.__name__.startswith("softmax")
    assert [note for note in notes if "ends in softmax: its outputs are taken as probabilities" in note] == (
        notes if ends_in_softmax else []
    )


@pytest.mark.parametrize("name", ["logit_unit", "sigmoid_unit", "sigmoid_unit_subclassed"])
def test_one_unit_serves_for_two_classes(name: str) -> None:
    """By the binary cross-entropy of its sigmoid, as Keras computes it."""
    raw = getattr(own_models, name)(SIZE, 2)
    labels = np.array([0, 1, 1, 0])
    with tf.GradientTape() as tape:
        loss = keras.losses.BinaryCrossentropy(from_logits=name == "logit_unit")(labels[:, None], raw(IMAGES))
    wanted = tape.gradient(loss, [variable.value for variable in raw.trainable_variables])
    model, notes = of(name, classes=2)
    assert "of the second class" in notes[0]
    found = logits_and_gradients(model, labels)
    for gradient, expected in zip(found[1:], wanted, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-6)


def test_logits_that_happen_to_lie_between_0_and_1_are_logits() -> None:
    """Outputs say what they are only if they stay there whatever the weights are; these are left as they were."""
    raw = own_models.logits(SIZE, 5)
    raw.layers[-1].bias.assign([0.5] * 5)
    raw.layers[-1].kernel.assign(raw.layers[-1].kernel * 0.01)
    before = [np.array(variable) for variable in raw.variables]
    assert ((raw(IMAGES) > 0) & (raw(IMAGES) < 1)).numpy().all()
    from horovod_flowers.model.outputs import logits_of

    model, note, _ = logits_of("mine", raw, IMAGES, np.asarray(raw(IMAGES)), 5)
    assert model is raw
    assert note is None
    assert all(map(np.array_equal, map(np.array, raw.variables), before))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(UserError) as error:
        of(name)
    said = str(error.value)
    assert fnmatch(said, f"model {own_models.__name__}:{name} *{REFUSED[name].replace('[', '[[]')}*"), said
    assert "\n" not in said
    assert "\x1b" not in said


def test_what_a_model_says_of_its_training_is_named() -> None:
    _, notes = of("mixed_bfloat16")
    assert "computes in bfloat16 by its own dtype policy, whatever --precision says" in notes[0]


def test_the_suites_own_models_need_no_notes() -> None:
    for name in ("flower_cnn", "flower_resnet"):
        assert build(name, DataConfig().image_size, 5)[1] == []
