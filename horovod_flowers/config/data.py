"""The options that say where photos come from; checked here, as those of config.py."""

from dataclasses import dataclass
from typing import Literal

from horovod_flowers.config.options import later_option, not_negative, option
from horovod_flowers.runtime.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """Where the photos come from, and how they are prepared."""

    source: Literal["synthetic", "tf_flowers", "folder"] = option(
        "synthetic",
        "synthetic: flowers drawn on this machine, no file needed; tf_flowers: 3,670 photos through "
        "tensorflow-datasets; folder: your own photos as CLASS/*.jpg or *.png",
    )
    path: str | None = option(None, "folder source: the folder that holds one folder of photos per class")
    tfds_dir: str | None = option(
        None, "tf_flowers source: tensorflow-datasets' folder (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)"
    )
    prepared_dir: str = option("data/prepared", "where prepared images are kept; on a cluster, a shared file system")
    image_size: int = option(180, "height and width in pixels that the photos are resized to")
    synthetic_images: int = option(3670, "synthetic source: number of images (3,670 as in tf_flowers)")
    synthetic_seed: int = option(0, "synthetic source: image i is determined by this seed and i alone")
    validation_fraction: float = option(0.15, "share of the images that is held out for validation")
    test_fraction: float = later_option(
        0.0,
        "share of the images that neither trains nor validates: to choose options on the validation images and judge "
        "the choice on others",
        before=0.0,
    )
    split_seed: int = option(0, "folder source: seed of the stratified split into training and validation")
    augment: bool = option(False, "flip, crop and recolour training images; the same at any number of ranks")
    smallest_crop: float = later_option(
        0.75, "augment: height and width of the smallest crop, as a share of the image's", before=0.75
    )
    stretch: float = later_option(
        1.0, "augment: crops are up to this many times wider than high, or higher than wide", before=1.0
    )
    rotation_degrees: float = later_option(0.0, "augment: turn images by up to this angle either way", before=0.0)
    recolour: float = later_option(
        0.2, "augment: brightness, contrast and saturation each change by up to this share", before=0.2
    )
    erase: float = later_option(
        0.0, "augment: share of the images in which a square of a fifth to two fifths turns grey", before=0.0
    )
    crop_size: int | None = later_option(
        None,
        "height and width in pixels that training images are augmented to, for models that take any size: smaller ones "
        "train faster (default: --data.image-size, at which validation always looks)",
        before=None,
    )

    def __post_init__(self) -> None:
        if self.image_size < 24:
            raise UserError(f"data.image_size is {self.image_size}: at least 24 pixels are needed, 180 is usual")
        if self.synthetic_images < 10:
            raise UserError(f"data.synthetic_images is {self.synthetic_images}: give at least 10")
        if not 0 < self.validation_fraction < 1:
            raise UserError(
                f"data.validation_fraction is {self.validation_fraction}: give a share between 0 and 1, such as 0.15"
            )
        if not 0 <= self.test_fraction < 1 - self.validation_fraction:
            raise UserError(
                f"data.test_fraction is {self.test_fraction}: give 0 to below {1 - self.validation_fraction:g}, which "
                "data.validation_fraction leaves"
            )
        self._check_augmentation()
        if self.source == "folder" and not self.path:
            raise UserError("data.source is 'folder' but no folder is given: add --data.path FOLDER")
        if self.source != "folder" and self.path:
            raise UserError(
                f"data.path is given but data.source is {self.source!r}: add --data.source folder or leave it out"
            )
        not_negative("data.synthetic_seed", self.synthetic_seed)
        not_negative("data.split_seed", self.split_seed)

    def _check_augmentation(self) -> None:
        limits = {
            "smallest_crop": (0.1, 1.0),
            "stretch": (1.0, 4.0),
            "rotation_degrees": (0.0, 180.0),
            "recolour": (0.0, 0.9),
            "erase": (0.0, 1.0),
        }
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise UserError(f"data.{name} is {getattr(self, name)}: give a number from {least:g} to {most:g}")
        if self.crop_size is not None and not self.augment:
            raise UserError("data.crop_size is given but images are not augmented: add --data.augment, or leave it out")
        if self.crop_size is not None and not 24 <= self.crop_size <= self.image_size:
            raise UserError(
                f"data.crop_size is {self.crop_size}: give 24 to data.image_size ({self.image_size}) pixels"
            )
