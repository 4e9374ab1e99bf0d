"""Classification sets of tensorflow-datasets, each by its name."""

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.chunks import CHUNK_IMAGES, Chunk, Parts, PhotoChunk
from horovod_flowers.data.folder_layout import Layout, check_class_name
from horovod_flowers.data.folder_scan import PhotosMissing
from horovod_flowers.data.moved_photos import place_of
from horovod_flowers.data.photo_names import role_of
from horovod_flowers.ranks.tensorflow_import import check_python
from horovod_flowers.runtime.errors import UserError

# Where tensorflow-datasets 4.9 fetches tf_flowers from, and most other sets' metadata.
_DOWNLOADS = {"tf_flowers": "http://download.tensorflow.org/example_images/flower_photos.tgz"}
_ANY_DOWNLOAD = "https://storage.googleapis.com/tfds-data/"


class TfdsSource:
    """A data set of tensorflow-datasets in its own reading order: its training images, then its other splits.

    The builder alone is opened here: its metadata say whether the data are there. TensorFlow does the reading, so this
    source is the one that imports it.
    """

    weights: np.ndarray | None = None
    layout: Layout | None = None

    def __init__(self, config: DataConfig, download: bool) -> None:
        """Raises UserError where the data set is not there, or holds no labelled images."""
        self._size = config.image_size
        self._name = config.source.removeprefix("tfds:")
        folder = Path(config.tfds_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
        # Looked up without importing tensorflow_datasets: a missing data set is told at once, on every kind of node.
        prepared = _prepared_folder(folder, self._name)
        if prepared is None and not download:
            raise PhotosMissing(f"{self._name} is not in {folder}")
        check_python()
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        self._builder = _tfds_builder(folder, self._name, prepared)
        info = self._builder.info
        self._image, self._label = _labelled_images(self._name, info)
        self.class_names = tuple(info.features[self._label].names)
        for name in self.class_names:
            check_class_name(name)
        self._splits = _splits(self._name, list(info.splits))
        counts = {role: info.splits[split].num_examples for role, split in self._splits.items()}
        self.images = sum(counts.values())
        self.parts: Parts | None = None
        if len(counts) > 1:
            self.parts = Parts(counts["training"], counts.get("validation", 0), counts.get("test", 0))
        self.identity = {
            "source": config.source,
            "version": str(info.version),
            "images": self.images,
            "bytes": sum(info.splits[split].num_bytes for split in self._splits.values()),
            "image_size": config.image_size,
        }
        self.place: dict[str, Any] | None = place_of(config)

    def chunks(self) -> Iterator[Chunk]:
        """Photos by the bytes of their files."""
        start = 0
        for split in self._splits.values():
            for images, labels in self._batches(split):
                names = tuple(f"{self._name}[{start + offset}]" for offset in range(len(images)))
                yield PhotoChunk(names, images, labels, start, self._size)
                start += len(images)

    def _batches(self, split: str) -> Iterator[tuple[tuple[bytes, ...], tuple[int, ...]]]:
        import tensorflow_datasets as tfds

        photos = self._builder.as_dataset(
            split=split,
            shuffle_files=False,
            decoders={self._image: tfds.decode.SkipDecoding()},
            # One file after the other: the default interleaves files, and train[:85%] is cut from their sequence.
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
        )
        labelled = photos.map(lambda photo: (photo[self._image], photo[self._label]))
        for images, labels in labelled.batch(CHUNK_IMAGES).as_numpy_iterator():
            yield tuple(images.tolist()), tuple(labels.tolist())


def _prepared_folder(folder: Path, name: str) -> Path | None:
    """The newest version of a data set that lies there. Raises UserError where a configuration has to be named."""
    base, _, version = name.partition(":")
    found = list((folder / base).glob(f"{version or '[0-9]*'}/dataset_info.json"))
    if found:
        return max(found, key=lambda path: [int(part) for part in re.findall(r"\d+", path.parent.name)]).parent
    configurations = sorted({path.parent.parent.name for path in (folder / base).glob("*/[0-9]*/dataset_info.json")})
    if configurations:
        raise UserError(
            f"{base} in {folder} has the configurations {', '.join(configurations)}: give --data.source "
            f"tfds:{base}/{configurations[0]}"
        )
    return None


def _tfds_builder(folder: Path, name: str, prepared: Path | None) -> Any:
    """tensorflow-datasets' builder, downloading the data set into `folder` where it is not there yet."""
    import requests
    import tensorflow_datasets as tfds

    if prepared is not None:
        return tfds.builder_from_directory(prepared)
    known, asked = tfds.list_builders(with_community_datasets=False), name.partition("/")[0].partition(":")[0]
    if asked not in known:
        near = difflib.get_close_matches(asked, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "tensorflow.org/datasets/catalog lists them"
        raise UserError(f"{name} is not in {folder}, and tensorflow-datasets knows no data set {asked}: {hint}")
    try:
        # Asked once, briefly: tensorflow-datasets would retry for minutes on a node without internet access.
        answer = requests.head(_DOWNLOADS.get(name, _ANY_DOWNLOAD), timeout=10, allow_redirects=True)
        if name in _DOWNLOADS:
            answer.raise_for_status()
        builder = tfds.builder(name, data_dir=folder)
        builder.download_and_prepare()
    except Exception as error:  # whatever the network, the disk or the server say: the remedy is the same
        raise UserError(
            f"{name} is not in {folder} and could not be downloaded ({type(error).__name__}): prepare it where "
            "there is internet access, or point --data.tfds-dir or TFDS_DATA_DIR at a folder that holds it"
        ) from error
    return builder


def _labelled_images(name: str, info: Any) -> tuple[str, str]:
    """The features with image and class. Raises UserError where there is not one of each."""
    import tensorflow_datasets as tfds

    features = dict(info.features.items())
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    supervised: tuple[str, ...] = info.supervised_keys or ()
    if len(supervised) == 2 and supervised[0] in images and supervised[1] in labels:
        return supervised[0], supervised[1]
    if len(images) != 1 or len(labels) != 1:
        raise UserError(
            f"{name} has {len(images)} features with images and {len(labels)} with one class ({', '.join(features)}): "
            "choose a data set of images with one label each"
        )
    return images[0], labels[0]


def _splits(name: str, there: list[str]) -> dict[str, str]:
    """Its splits by what they are for. Raises UserError where it has none to train on."""
    found = {role_of(split): split for split in reversed(there)}  # the first of each
    chosen: dict[str, str] = {role: found[role] for role in ("training", "validation", "test") if role in found}
    if "training" not in chosen:
        raise UserError(f"{name} has the splits {', '.join(there)}: choose a data set with a split to train on")
    return chosen
