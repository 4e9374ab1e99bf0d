"""Any classification set of tensorflow-datasets, by its name; made here, since nothing is downloaded in tests."""

import os
from pathlib import Path

import numpy as np
import pytest

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.order import split
from horovod_flowers.data.prepared import prepare
from horovod_flowers.data.sources import open_source
from horovod_flowers.runtime.errors import UserError

pytestmark = pytest.mark.slow  # TensorFlow and tensorflow-datasets are started


def store(folder: Path, name: str, version: str = "1.0.0", config: str | None = None, **splits: int) -> None:
    """A data set of single-coloured images, the label in their red."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "picture": tfds.features.Image(shape=(None, None, 3)),
            "kind": tfds.features.ClassLabel(names=["daisy", "rose"]),
            "boxes": tfds.features.Sequence(tfds.features.BBoxFeature()),
        }
    )
    box = tfds.features.BBox(0.0, 0.0, 1.0, 1.0)
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        config=config,
        features=features,
        data_dir=folder,
        split_datasets={
            split: [
                (n, {"picture": np.full((8, 8, 3), 100 * (n % 2), np.uint8), "kind": n % 2, "boxes": [box] * (n % 3)})
                for n in range(count)
            ]
            for split, count in splits.items()
        },
    )


def config(folder: Path, name: str, **options: object) -> DataConfig:
    return DataConfig(source=f"tfds:{name}", tfds_dir=str(folder), image_size=24, **options)  # type: ignore[arg-type]


def test_sets_by_name(tmp_path: Path) -> None:
    store(tmp_path, "made", train=20, test=6, validation=4)
    store(tmp_path, "made", version="1.10.0", train=20, test=6, validation=4)
    chosen = config(tmp_path, "made")
    source = open_source(chosen)
    assert source.identity["version"] == "1.10.0"
    assert (source.class_names, source.images) == (("daisy", "rose"), 30)
    prepared = prepare(tmp_path / "prepared", source, processes=1)
    assert len(prepared) == 30
    assert all(prepared.image(index)[0, 0, 0] == 100 * prepared.labels[index] for index in range(30))
    found = split(prepared, chosen)
    assert [len(part) for part in (found.training, found.validation, found.test)] == [20, 4, 6]
    assert open_source(config(tmp_path, "made:1.0.0")).identity["version"] == "1.0.0"
    # One split: the validation images are held out of it, of each class its share.
    store(tmp_path, "one_split", train=40)
    chosen = config(tmp_path, "one_split", validation_fraction=0.25)
    alone = prepare(tmp_path / "prepared", open_source(chosen), processes=1)
    held = split(alone, chosen).validation
    assert np.bincount(alone.labels[held]).tolist() == [5, 5]


def test_what_cannot_be_chosen_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path, "two", config="small", train=2)
    with pytest.raises(UserError, match="has the configurations small: give --data.source tfds:two/small"):
        open_source(config(tmp_path, "two"))
    assert open_source(config(tmp_path, "two/small")).images == 2
    with pytest.raises(UserError, match="none_such is not in"):
        open_source(config(tmp_path, "none_such"))
    # To download it, the name is looked up first: no network is to blame.
    with pytest.raises(UserError, match="none_such is not in .*, and tensorflow-datasets knows no data set none_such"):
        open_source(config(tmp_path, "none_such"), download=True)
    with pytest.raises(UserError, match=r"no data set oxford_flower102: did you mean oxford_flowers102\?"):
        open_source(config(tmp_path, "oxford_flower102"), download=True)
    store(tmp_path, "tests_alone", test=2)
    with pytest.raises(UserError, match="has the splits test: choose a data set with a split to train on"):
        open_source(config(tmp_path, "tests_alone"))
    monkeypatch.setenv("TFDS_DATA_DIR", os.fspath(tmp_path))
    assert open_source(DataConfig(source="tfds:two/small", image_size=24)).images == 2


@pytest.mark.parametrize("name", ["cifar10", "tfds:", "tfds:a b", "tfds:../x", "imagefolder"])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="give synthetic, tf_flowers, folder or tfds:NAME"):
        DataConfig(source=name)
