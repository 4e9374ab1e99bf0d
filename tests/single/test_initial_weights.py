"""A run starts from the weights of another: from its folder, its checkpoint, or a file; for other classes, too."""

from pathlib import Path

import keras
import numpy as np
import pytest

from horovod_flowers.inference.trained_model import load_run, read_run_config
from horovod_flowers.model.registry import build_model
from horovod_flowers.model.weights import misfit
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.training.initial_weights import check_weights, start_from
from tests.single.test_hostile_weights import save
from tests.single.trained_runs import CLASSES, make_run

SIZE = 32
IMAGES = np.random.default_rng(1).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.float32)


def test_a_run_its_checkpoint_and_its_files_are_the_same_start(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    trained = load_run(run, "best", read_run_config(run)).keras_model
    expected = trained(IMAGES)
    around = keras.Sequential([keras.layers.Resizing(SIZE, SIZE), trained, keras.layers.Softmax()])
    around(IMAGES)
    sources = [run.path, run.checkpoints / "last.safetensors", save(trained, tmp_path / "whole.keras")]
    sources += [save(trained, tmp_path / "m.weights.h5"), save(around, tmp_path / "around.keras")]
    for source in sources:
        model = build_model("flower_cnn", SIZE, len(CLASSES))
        assert not np.allclose(model(IMAGES), expected)
        check_weights(source)
        notes = start_from(model, source, CLASSES)
        assert len(notes) == 1
        assert notes[0].startswith("weights from ")
        np.testing.assert_array_equal(model(IMAGES), expected, err_msg=str(source))


def test_a_last_layer_for_other_classes_begins_anew(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    trained = load_run(run, "best", read_run_config(run)).keras_model
    for source in (run.path, save(trained, tmp_path / "whole.keras")):
        model = build_model("flower_cnn", SIZE, 5)
        last = [np.array(weight) for weight in model.layers[-1].weights]
        notes = start_from(model, source, ("a", "b", "c", "d", "e"))
        kernel, bias = (weight.path for weight in model.layers[-1].weights)
        assert notes[-1] == f"{kernel}, {bias}: begin anew, for other classes"
        assert all(map(np.array_equal, last, map(np.array, model.layers[-1].weights)))
        for layer, other in zip(model.layers[:-1], trained.layers[:-1], strict=True):
            assert all(map(np.array_equal, map(np.array, layer.weights), map(np.array, other.weights)))
    same = build_model("flower_cnn", SIZE, 3)
    notes = start_from(same, run.path, ("a", "b", "c"))
    assert notes[1] == "its last layer was trained for the classes daisy, rosé, tulip"


def test_one_unit_for_two_classes_starts_from_many_classes(tmp_path: Path) -> None:
    def network(units: int) -> keras.Model:
        layers = [keras.layers.Input((SIZE, SIZE, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(units)]
        return keras.Sequential(layers)

    one, many = network(1), network(5)
    values = [np.array(variable) for variable in many.variables]
    assert misfit(one, 2, values) is None
    assert misfit(one, 3, values) == f"(3, 5) for {one.variables[0].path} (3, 1)"


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "flower_resnet")
    with pytest.raises(
        UserError, match=r"weights of model flower_resnet, which are not those of this model \(\d+ tensors for 10\)"
    ):
        start_from(build_model("flower_cnn", SIZE, 3), run.path, CLASSES)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("missing", "model.weights is missing: allowed is a .weights.h5, .h5 or .keras file, a run (runs/NAME)"),
        ("missing.keras", "there is no file of weights missing.keras"),
        ("weights.pkl", "model.weights is weights.pkl: allowed is"),
        ("empty", "model.weights is empty, which is neither a run with a checkpoint nor an export"),
        ("damaged.safetensors", "checkpoint damaged.safetensors is damaged"),
    ],
)
def test_what_cannot_be_weights_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.pkl").write_bytes(b"x")
    Path("empty").mkdir()
    Path("damaged.safetensors").write_bytes(bytes(30))
    with pytest.raises(UserError) as error:
        check_weights(Path(given))
    assert sentence in str(error.value)
