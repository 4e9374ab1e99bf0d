"""The options that say where photos come from; checked here, as those of config.py."""

import re
from dataclasses import dataclass
from typing import Literal

from horovod_flowers.config.options import MOST_SEED, Effect, check_limits, option
from horovod_flowers.runtime.errors import UserError

_TFDS_NAME = re.compile(r"tfds:[a-z0-9_]+(/[A-Za-z0-9_.-]+)?(:[0-9]+\.[0-9]+\.[0-9]+)?")


@dataclass(frozen=True)
class DataConfig:
    """Where the photos come from, and how they are prepared.

    Which images these are is recorded as their digest, and compared as that.
    """

    source: str = option(
        "synthetic",
        "synthetic: flowers drawn on this machine, no file needed; tf_flowers: 3,670 photos through "
        "tensorflow-datasets; tfds:NAME: any classification set of theirs, such as tfds:oxford_flowers102; folder: "
        "your own photos, one folder per class",
        Effect.RECIPE,
    )
    path: str | None = option(
        None,
        "folder source: the folder that holds one folder of photos per class, or train/CLASS, val/CLASS and test/CLASS",
        Effect.PLACE,
    )
    validation_path: str | None = option(
        None,
        "folder source: a folder of class folders to validate on, instead of a share of the images in --data.path",
        Effect.PLACE,
        before=None,
    )
    test_path: str | None = option(
        None, "folder source: a folder of class folders to test on (evaluate --split test)", Effect.PLACE, before=None
    )
    labels_csv: str | None = option(
        None,
        "folder source: a CSV file with the columns file and label (and perhaps split) for photos in --data.path that "
        "lie in no folders of classes",
        Effect.PLACE,
        before=None,
    )
    tfds_dir: str | None = option(
        None,
        "tf_flowers and tfds:NAME: tensorflow-datasets' folder (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)",
        Effect.PLACE,
    )
    prepared_dir: str = option(
        "data/prepared", "where prepared images are kept; on a cluster, a shared file system", Effect.PLACE
    )
    image_size: int = option(
        180,
        "height and width in pixels that the photos are resized to",
        Effect.WORK,
        at_least=24,
        limits="at least 24 pixels are needed, 180 is usual",
    )
    synthetic_images: int = option(
        3670, "synthetic source: number of images (3,670 as in tf_flowers)", Effect.RECIPE, at_least=10
    )
    synthetic_seed: int = option(
        0, "synthetic source: image i is determined by this seed and i alone", Effect.RECIPE, at_least=0
    )
    validation_fraction: float = option(
        0.15,
        "share of the images that is held out for validation",
        Effect.RECIPE,
        above=0,
        below=1,
        limits="give a share between 0 and 1, such as 0.15",
    )
    test_fraction: float = option(
        0.0,
        "share of the images that neither trains nor validates: to choose options on the validation images and judge "
        "the choice on others",
        Effect.RECIPE,
        before=0.0,
    )
    split_seed: int = option(
        0,
        "folder and tfds:NAME: seed of the stratified split into training and validation",
        Effect.RECIPE,
        at_least=0,
        at_most=MOST_SEED,
    )
    class_weights: Literal["none", "balanced"] = option(
        "none",
        "balanced: training images count in the loss so that all classes count alike, each n / (classes x its own n)",
        Effect.RECIPE,
        before="none",
    )
    sample_weights: str | None = option(
        None,
        "folder source: a CSV file with the columns file and weight: how much a training image counts in the loss",
        Effect.PLACE,
        before=None,
    )
    augment: bool = option(
        False, "flip, crop and recolour training images; the same at any number of ranks", Effect.WORK
    )
    smallest_crop: float = option(
        0.75,
        "augment: height and width of the smallest crop, as a share of the image's",
        Effect.WORK,
        before=0.75,
        at_least=0.1,
        at_most=1,
    )
    stretch: float = option(
        1.0,
        "augment: crops are up to this many times wider than high, or higher than wide",
        Effect.WORK,
        before=1.0,
        at_least=1,
        at_most=4,
    )
    rotation_degrees: float = option(
        0.0, "augment: turn images by up to this angle either way", Effect.WORK, before=0.0, at_least=0, at_most=180
    )
    recolour: float = option(
        0.2,
        "augment: brightness, contrast and saturation each change by up to this share",
        Effect.WORK,
        before=0.2,
        at_least=0,
        at_most=0.9,
    )
    erase: float = option(
        0.0,
        "augment: share of the images in which a square of a fifth to two fifths turns grey",
        Effect.WORK,
        before=0.0,
        at_least=0,
        at_most=1,
    )
    crop_size: int | None = option(
        None,
        "height and width in pixels that training images are augmented to, for models that take any size: smaller ones "
        "train faster (default: --data.image-size, which validation always uses)",
        Effect.WORK,
        before=None,
    )

    def __post_init__(self) -> None:
        check_limits(self, "data.")
        if not 0 <= self.test_fraction < 1 - self.validation_fraction:
            raise UserError(
                f"data.test_fraction is {self.test_fraction}: give 0 to below {1 - self.validation_fraction:g}, which "
                "data.validation_fraction leaves"
            )
        self._check_source()
        if self.crop_size is not None and not self.augment:
            raise UserError("data.crop_size is given but images are not augmented: add --data.augment, or leave it out")
        if self.crop_size is not None and not 24 <= self.crop_size <= self.image_size:
            raise UserError(
                f"data.crop_size is {self.crop_size}: give 24 to data.image_size ({self.image_size}) pixels"
            )

    def _check_source(self) -> None:
        """Refuse a source that is none, and what only a folder has (UserError)."""
        if self.source not in ("synthetic", "tf_flowers", "folder") and not _TFDS_NAME.fullmatch(self.source):
            raise UserError(
                f"data.source is {self.source!r}: give synthetic, tf_flowers, folder or tfds:NAME, such as "
                "tfds:oxford_flowers102"
            )
        if self.source == "folder" and not self.path:
            raise UserError("data.source is 'folder' but no folder is given: add --data.path FOLDER")
        for name in ("path", "validation_path", "test_path", "labels_csv", "sample_weights"):
            if self.source != "folder" and getattr(self, name):
                raise UserError(
                    f"data.{name} is given but data.source is {self.source!r}: add --data.source folder or leave it out"
                )
        if self.labels_csv and (self.validation_path or self.test_path):
            raise UserError(
                "data.labels_csv is given and data.validation_path or data.test_path: leave them out, and give the CSV "
                "a column split with train, val and test"
            )
