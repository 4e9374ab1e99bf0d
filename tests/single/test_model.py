"""Models by name: the flower CNN, the user's own, and what is refused."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from horovod_flowers.model.registry import build_model, check_name
from horovod_flowers.model.weights import load_weights
from horovod_flowers.runtime.errors import UserError


def test_the_flower_cnn_has_exactly_its_parameters() -> None:
    model = build_model("flower_cnn", 180, 5)
    assert model.count_params() == 26_310_725
    assert model.output_shape == (None, 5)


def test_pixels_are_scaled_inside_the_model() -> None:
    assert build_model("flower_cnn", 32, 3).layers[0].scale == pytest.approx(1 / 255)


def wide(image_size: int, classes: int) -> Any:
    """A user's model, with statistics that training moves without gradients."""
    from keras import Sequential, layers

    convolution = layers.Conv2D(4, 3, strides=4)
    pooled = [layers.BatchNormalization(), layers.GlobalAveragePooling2D(), layers.Dense(classes)]
    return Sequential([layers.Input((image_size, image_size, 3)), convolution, *pooled])


def regularised(image_size: int, classes: int) -> Any:
    """A user's model whose state is more than its weights: statistics, and the seeds of dropout."""
    from keras import Sequential, layers

    return Sequential([layers.Input((image_size, image_size, 3)), layers.Dropout(0.3), wide(image_size, classes)])


def wrong_outputs(image_size: int, classes: int) -> Any:
    return wide(image_size, classes + 1)


def no_model(image_size: int, classes: int) -> Any:
    return "model"


def failing(image_size: int, classes: int) -> Any:
    raise RuntimeError("no such layer")


def test_a_users_function_builds_the_model() -> None:
    assert build_model("tests.single.test_model:wide", 32, 4).output_shape == (None, 4)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet", "there is no model 'resnet': use flower_cnn, flower_resnet, or package.module:function"),
        ("package.module:", "there is no model"),
        ("os.path;rm:function", "there is no model"),
        ("no_such_package.models:net", "cannot be imported (No module named 'no_such_package')"),
        ("tests.single.test_model:absent", "cannot be imported"),
        (
            "tests.single.test_model:wrong_outputs",
            "gives outputs of shape (batch, 6), and the photos have 5 classes: end it in Dense(classes)",
        ),
        ("tests.single.test_model:no_model", "gives a value of type str, no Keras model: write a function"),
        ("tests.single.test_model:failing", "cannot be built at 32 pixels and 5 classes (no such layer)"),
    ],
)
def test_wrong_models_get_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        build_model(name, 32, 5)
    assert sentence in str(error.value)


def test_names_are_checked_without_importing() -> None:
    check_name("no_such_package.models:net")
    with pytest.raises(UserError, match="there is no model 'resnet'"):
        check_name("resnet")


def test_the_residual_network_takes_images_of_any_size() -> None:
    model = build_model("flower_resnet", 180, 5)
    assert model.count_params() == 1_232_101
    for size in (64, 101):
        assert model(np.zeros((2, size, size, 3), np.float32)).shape == (2, 5)


@pytest.mark.slow
def test_a_keras_application_starts_from_a_file_of_its_weights(tmp_path: Path) -> None:
    name = "keras.applications:MobileNetV2"
    keras.utils.set_random_seed(1)
    first = build_model(name, 64, 3)
    application = first.get_layer("application")
    application.save_weights(tmp_path / "top.weights.h5")
    first.save_weights(tmp_path / "whole.weights.h5")
    keras.utils.set_random_seed(2)
    second = build_model(name, 64, 3)
    wanted = [np.array(weight) for weight in first.weights]
    random_kernels = [number for number, weight in enumerate(first.weights) if weight.path.endswith("kernel")]

    def alike() -> list[bool]:
        return [np.array_equal(np.array(second.weights[number]), wanted[number]) for number in random_kernels]

    assert not any(alike())
    load_weights(second, 3, tmp_path / "top.weights.h5")
    assert all(alike()[:-1])
    assert not alike()[-1]  # the last layer is new
    load_weights(second, 3, tmp_path / "whole.weights.h5")
    assert all(alike())


def test_wrong_weights_and_applications_get_one_sentence(tmp_path: Path) -> None:
    model = build_model("flower_resnet", 64, 3)
    (tmp_path / "damaged.weights.h5").write_bytes(b"\x89HDF\r\n" + bytes(100))
    with pytest.raises(UserError, match="does not hold weights of model flower_resnet"):
        load_weights(model, 3, tmp_path / "damaged.weights.h5")
    build_model("flower_resnet", 64, 4).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(UserError, match="does not hold weights of model flower_resnet"):
        load_weights(model, 3, tmp_path / "other.weights.h5")
    with pytest.raises(UserError, match=r"keras\.applications has no 'Nothing'"):
        build_model("keras.applications:Nothing", 64, 3)
