"""The export command, and what it writes, loaded by people who do not have this suite."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.order import split
from horovod_flowers.data.prepared import find
from horovod_flowers.data.sources import open_source
from horovod_flowers.inference.trained_model import load_run, read_run_config
from horovod_flowers.runlog.run_folder import RunFolder
from tests.commands.test_wrong_use import assert_one_sentence
from tests.conftest import Workplace, mpirun

EXPORT = ("python", "-m", "horovod_flowers.export", "runs/mine")

# As docs/export.md shows it, where neither horovod_flowers nor anything of the run is.
ELSEWHERE = """
import sys
sys.modules["horovod_flowers"] = None
import json, zipfile
import keras, numpy as np, tensorflow as tf
images = np.load("images.npy")
model = keras.models.load_model("model.keras")
names = json.loads(zipfile.ZipFile("model.keras").read("horovod_flowers.json"))["class_names"]
np.save("keras.npy", model.predict(images, verbose=0))
served = tf.saved_model.load("saved_model")
answer = served.signatures["serving_default"](images=tf.constant(images, tf.float32))
np.save("served.npy", answer["probabilities"])
photos = [open(name, "rb").read() for name in ("a.jpg", "b.jpg")]
answer = served.signatures["photos"](photos=tf.constant(photos))
print(json.dumps([names, [name.decode() for name in answer["class_name"].numpy()]]))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, prepared_folder: Path) -> Workplace:
    """A workplace with an exported run."""
    workplace = Workplace(tmp_path_factory.mktemp("exported"), prepared_folder)
    ended = workplace.train("--name", "mine", "--epochs", "2", ranks=2)
    assert ended.status == 0, ended.output
    ended = workplace.run(*EXPORT)
    assert ended.status == 0, ended.output
    assert ended.stdout.startswith("exported flower_cnn, epoch "), ended.output
    assert ended.stderr == ""
    return workplace


def test_an_export_answers_elsewhere_as_the_run_does_here(trained: Workplace, tmp_path: Path) -> None:
    run = RunFolder(trained.folder / "runs" / "mine")
    model = load_run(run, "best", read_run_config(run))
    config = DataConfig(image_size=32, synthetic_images=120, validation_fraction=0.2)
    prepared = find(trained.prepared, open_source(config))
    assert prepared is not None
    images = np.stack([prepared.image(number) for number in split(prepared, config).validation])
    shutil.copy(run.path / "export" / "model.keras", tmp_path)
    shutil.copytree(run.path / "export" / "saved_model", tmp_path / "saved_model")
    np.save(tmp_path / "images.npy", images)
    from PIL import Image

    for name, image in zip(("a.jpg", "b.jpg"), images[:2], strict=True):
        Image.fromarray(np.tile(image, (3, 4, 1))).save(tmp_path / name)
    elsewhere = Workplace(tmp_path, tmp_path)
    ended = elsewhere.run("python", "-c", ELSEWHERE)
    assert ended.status == 0, ended.output
    expected = model.probabilities(images)
    for name in ("keras.npy", "served.npy"):
        np.testing.assert_allclose(np.load(tmp_path / name), expected, atol=1e-5)
    names, predicted = json.loads(ended.stdout)
    assert tuple(names) == model.class_names
    assert len(predicted) == 2
    assert set(predicted) <= set(names)


def test_more_than_one_rank_is_refused(trained: Workplace) -> None:
    ended = trained.run(*mpirun(2, *EXPORT, "--output", "other"))
    assert_one_sentence(ended, "2 ranks are started, and export runs in one process: start it without mpirun")
    assert not (trained.folder / "other").exists()


def test_an_earlier_export_is_replaced_only_when_asked(trained: Workplace) -> None:
    assert_one_sentence(trained.run(*EXPORT), "runs/mine/export exists already: choose another --output, or add")
    replaced = trained.run(*EXPORT, "--overwrite", "--checkpoint", "last")
    assert replaced.status == 0, replaced.output
    export = trained.folder / "runs" / "mine" / "export"
    assert json.loads((export / "model.json").read_text(encoding="utf-8"))["checkpoint"] == "last"
    assert (export / "model.keras").is_file()
    left = {path.name for path in export.parent.iterdir() if path.name.startswith(".")}
    assert left == set()


def test_runs_that_cannot_be_exported_get_one_sentence(trained: Workplace) -> None:
    words = EXPORT[:-1]
    assert_one_sentence(trained.run(*words, "runs/never"), "there is no run runs/never: train one")
    ended = trained.train("--name", "bare", "--no-checkpoint")
    assert ended.status == 0, ended.output
    assert_one_sentence(trained.run(*words, "runs/bare"), "there is no checkpoint runs/bare/checkpoints/best")
    assert not (trained.folder / "runs" / "bare" / "export").exists()
