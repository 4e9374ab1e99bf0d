"""Settings of Keras in the user's home, environment or model module do not decide what is trained, and are told."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from horovod_flowers.model.registry import build_model
from horovod_flowers.ranks.tensorflow_import import import_tensorflow, set_keras_variables
from horovod_flowers.runtime.errors import UserError
from tests.conftest import Ended, Workplace, run_command

HERE = "tests.single.test_keras_settings"


def with_other_floats(image_size: int, classes: int) -> Any:
    """A user's function that sets what is Keras' for the whole process."""
    import keras

    keras.config.set_floatx("float64")
    return keras.Sequential([keras.layers.Input((image_size, image_size, 3)), keras.layers.Flatten()])


def train(workplace: Workplace, keras_home: Path, settings: Any, **variables: str) -> Ended:
    keras_home.mkdir(exist_ok=True)
    (keras_home / "keras.json").write_text(settings if isinstance(settings, str) else json.dumps(settings))
    options = (
        "--global-batch",
        "16",
        "--steps",
        "2",
        "--no-validate",
        "--name",
        f"k{len(variables)}",
        "--threads",
        "1",
    )
    variables |= {"KERAS_HOME": str(keras_home)}
    return workplace.train(*options, variables=variables)


@pytest.mark.slow
def test_a_run_that_says_fp32_is_one(workplace: Workplace) -> None:
    plain = train(workplace, workplace.folder / "plain", {"floatx": "float32", "backend": "tensorflow"})
    assert (plain.status, plain.stderr) == (0, ""), plain.output
    home = workplace.folder / "home"
    settings = {"floatx": "float16", "epsilon": 1e-3, "backend": "jax", "image_data_format": "channels_first"}
    other = train(workplace, home, settings, KERAS_BACKEND="torch", KERAS_MAX_EPOCHS="1", TF_USE_LEGACY_KERAS="1")
    assert other.status == 0, other.output
    assert other.stderr == (
        "warning: settings of Keras are not used (backend jax, floatx float16, epsilon 0.001, image_data_format "
        f"channels_first in {home}/keras.json, KERAS_BACKEND=torch, TF_USE_LEGACY_KERAS=1, KERAS_MAX_EPOCHS=1): this "
        "suite works with TensorFlow, float32 and channels_last\n"
    )
    expected, found = (
        load_file(workplace.folder / f"runs/{name}/checkpoints/last.safetensors") for name in ("k0", "k3")
    )
    assert {value.dtype for name, value in found.items() if name.startswith("weight.")} == {np.dtype(np.float32)}
    assert all(np.array_equal(value, found[name]) for name, value in expected.items())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"floatx": "bfloat16"}, "keras.json, which has floatx 'bfloat16': allowed are float16, float32, float64"),
        ({"image_data_format": "hwc"}, "has image_data_format 'hwc': allowed are channels_last, channels_first"),
        ({"epsilon": "small"}, "has epsilon 'small': give one such as 1e-07"),
        ([1], "keras.json, which holds no settings: delete it"),
        ({"nnx_enabled": True}, "has nnx_enabled, with which Keras works on JAX alone: take it out"),
    ],
)
def test_a_file_at_which_keras_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, sentence: str
) -> None:
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(UserError) as refused:
        import_tensorflow()
    assert sentence in str(refused.value)


def test_a_file_that_is_no_json_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keras.json").write_text("{")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert import_tensorflow() is None


def test_keras_that_was_imported_on_another_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(UserError, match="Keras was imported on jax before in this process: set KERAS_BACKEND"):
        import_tensorflow()


def test_a_model_that_sets_what_is_keras_for_the_whole_process() -> None:
    import keras

    with pytest.raises(UserError, match=r"sets Keras' floatx to float64, .* leave out keras.config.set_floatx"):
        build_model(f"{HERE}:with_other_floats", 8, 3)
    assert keras.config.floatx() == "float32"


def test_variables_for_another_process() -> None:
    variables = {"KERAS_BACKEND": "", "KERAS_MAX_STEPS_PER_EPOCH": "3", "TF_USE_LEGACY_KERAS": "0"}
    assert set_keras_variables(variables) == ["KERAS_MAX_STEPS_PER_EPOCH=3"]
    assert variables == {"KERAS_BACKEND": "tensorflow"}


EXPORT = """
import os
from pathlib import Path
from horovod_flowers.ranks.tensorflow_import import import_tensorflow

import_tensorflow()
from horovod_flowers.export import export
from horovod_flowers.inference.trained_model import read_run_config
from tests.single.trained_runs import make_run

run = make_run(Path("runs") / "r")
os.environ["KERAS_BACKEND"] = "torch"  # as a model's module may
print(export(run, read_run_config(run), "best", Path("export")).checked)
"""


@pytest.mark.slow
def test_an_export_is_checked_on_tensorflow_whatever_the_models_module_sets(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    settings = {"floatx": "float64", "image_data_format": "channels_first", "epsilon": 1e-3, "backend": "jax"}
    (home / "keras.json").write_text(json.dumps(settings))
    ended = run_command([sys.executable, "-c", EXPORT], tmp_path, variables={"KERAS_HOME": str(home)})
    assert ended.status == 0, ended.output
    assert ended.stdout.startswith("Checked(")
