"""The real tf_flowers photos, where TFDS_DATA_DIR holds them."""

import os
from pathlib import Path

import numpy as np
import pytest

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.order import split
from horovod_flowers.data.prepared import find
from horovod_flowers.data.sources import open_source
from horovod_flowers.runlog.reading.run import read_run
from tests.conftest import Workplace

FOLDER = os.environ.get("TFDS_DATA_DIR", "")
pytestmark = pytest.mark.skipif(
    not (Path(FOLDER) / "tf_flowers").is_dir() or not FOLDER,
    reason="TFDS_DATA_DIR names no folder that holds tf_flowers",
)


def test_photos_are_prepared_split_and_learnt(workplace: Workplace) -> None:
    options = ["--data.source", "tf_flowers", "--data.image-size", "64", "--data.prepared-dir", "prepared"]
    ended = workplace.run("python", "-m", "horovod_flowers.prepare", *options)
    assert ended.status == 0, ended.output
    config = DataConfig(source="tf_flowers", image_size=64)
    prepared = find(workplace.folder / "prepared", open_source(config))
    assert prepared is not None
    assert prepared.class_names == ("dandelion", "daisy", "tulips", "sunflowers", "roses")

    import tensorflow_datasets as tfds

    images = split(prepared, config)
    for part, indices in (("train[:85%]", images.training), ("train[85%:]", images.validation)):
        photos = tfds.load("tf_flowers", split=part, data_dir=FOLDER, download=False, shuffle_files=False)
        labels = [int(photo["label"]) for photo in tfds.as_numpy(photos)]
        assert np.array_equal(prepared.labels[indices], labels)

    trained = workplace.train(*options, "--epochs", "4", "--name", "photos", ranks=2)
    assert trained.status == 0, trained.output
    accuracies = [epoch.validation_accuracy for epoch in read_run(workplace.folder / "runs" / "photos").epochs]
    # Four epochs at 64 pixels: well above the 0.24 of always answering the largest class.
    assert max(accuracy for accuracy in accuracies if accuracy is not None) > 0.45
