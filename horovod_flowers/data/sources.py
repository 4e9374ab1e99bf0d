"""Three sources of labelled photos behind one interface: a list of chunks that any process can read."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data import synthetic
from horovod_flowers.data.photo_file import MOST_PIXELS, read_photo_file
from horovod_flowers.runtime.errors import UserError, first_line

CHUNK_IMAGES = 256
# Where tensorflow-datasets 4.9 fetches tf_flowers from.
_DOWNLOAD = "http://download.tensorflow.org/example_images/flower_photos.tgz"
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class DecodedChunk:
    """Images of one chunk: uint8 [n, size, size, 3], int32 [n] labels, int64 [n] positions in the source's order."""

    images: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    unreadable: tuple[tuple[str, str], ...]
    """Name and reason of each image that could not be read."""


class Chunk(Protocol):
    """A picklable piece of work for a prepare process."""

    def decode(self) -> DecodedChunk:
        """Read, resize and label this chunk's images."""
        ...


class Source(Protocol):
    """Labelled photos in a fixed order."""

    class_names: tuple[str, ...]
    images: int
    identity: dict[str, Any]
    """What determines the prepared images, cheap to obtain: names the prepared data without reading a photo."""

    def chunks(self) -> Iterator[Chunk]:
        """Yield the source in chunks, in order."""
        ...


def open_source(config: DataConfig, download: bool = False) -> Source:
    """The source that the configuration names. Raises UserError where it is missing or empty."""
    if config.source == "synthetic":
        return SyntheticSource(config)
    if config.source == "folder":
        return FolderSource(config)
    return TfFlowersSource(config, download)


# --- synthetic -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _SyntheticChunk:
    seed: int
    start: int
    stop: int
    size: int

    def decode(self) -> DecodedChunk:
        indices = range(self.start, self.stop)
        return DecodedChunk(
            np.stack([synthetic.draw(self.seed, index, self.size) for index in indices]),
            np.array([synthetic.label(index) for index in indices], np.int32),
            np.arange(self.start, self.stop),
            (),
        )


class SyntheticSource:
    """Five kinds of flower, drawn; image i depends on (seed, i) alone."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self.class_names: tuple[str, ...] = synthetic.CLASSES
        self.images = config.synthetic_images
        self.identity = {
            "source": "synthetic",
            "version": synthetic.VERSION,
            "seed": config.synthetic_seed,
            "images": config.synthetic_images,
            "image_size": config.image_size,
        }

    def chunks(self) -> Iterator[Chunk]:
        """Ranges of image numbers."""
        config = self._config
        for start in range(0, self.images, CHUNK_IMAGES):
            stop = min(start + CHUNK_IMAGES, self.images)
            yield _SyntheticChunk(config.synthetic_seed, start, stop, config.image_size)


# --- photos ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _PhotoChunk:
    """Encoded photos: paths to open, or their bytes."""

    names: tuple[str, ...]
    photos: tuple[Path | bytes, ...]
    labels: tuple[int, ...]
    start: int
    size: int

    def decode(self) -> DecodedChunk:
        images, labels, positions, unreadable = [], [], [], []
        for offset, (name, photo, label) in enumerate(zip(self.names, self.photos, self.labels, strict=True)):
            image = photo_or_reason(photo, self.size)
            if isinstance(image, str):
                unreadable.append((name, image))
                continue
            images.append(image)
            labels.append(label)
            positions.append(self.start + offset)
        empty = np.empty((0, self.size, self.size, 3), np.uint8)
        return DecodedChunk(
            np.stack(images) if images else empty,
            np.array(labels, np.int32),
            np.array(positions, np.int64),
            tuple(unreadable),
        )


def decode_photo(photo: Path | bytes, size: int) -> np.ndarray:
    """Decode a JPEG or PNG, upright by its EXIF tag, resized to uint8 [size, size, 3] RGB without keeping proportions.

    Of an animated PNG its still image counts; 16 bits a channel become 8, transparency is left out. Raises Pillow's
    errors (OSError, ValueError, SyntaxError) where the file is no whole image, or a larger one than is held in memory.
    """
    from PIL import Image

    file = read_photo_file(photo)
    Image.MAX_IMAGE_PIXELS = None  # Pillow's limit counts pixels that are never held, and ours is lower
    try:
        image: Image.Image = Image.open(io.BytesIO(file.contents), formats=(file.kind,))
    except Image.UnidentifiedImageError:
        raise OSError(f"damaged: the {file.kind} header") from None  # Pillow names an address in memory
    with image:
        if file.whole_at_once:
            _refuse_large(image)
        image.draft("RGB", (2 * size, 2 * size))  # JPEG: decode at a fraction where the photo is much larger
        _refuse_large(image)
        upright = _as_rgb(image)
        if file.orientation > 1:
            upright = upright.transpose(_TO_UPRIGHT[file.orientation])
        resized = upright.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(resized)


# By EXIF's number: members of PIL.Image.Transpose.
_TO_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


def _refuse_large(image: Any) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise OSError(
            f"{image.width} x {image.height} pixels: at most {MOST_PIXELS // 10**6} million are held in memory"
        )


def _as_rgb(image: Any) -> Any:
    """The pixels of an opened image: themselves where they are RGB already, without a copy."""
    from PIL import Image

    image.load()
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip, not scale
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def photo_or_reason(photo: Path | bytes, size: int) -> np.ndarray | str:
    """A photo as `decode_photo` decodes it; or, in a line, why it cannot be read: the others count."""
    try:
        return decode_photo(photo, size)
    except Exception as error:  # whatever a decoder makes of a broken or hostile file
        return first_line(error)


class FolderSource:
    """The user's photos: one folder per class, class names and photos in sorted order."""

    def __init__(self, config: DataConfig, fewest_classes: int = 2) -> None:
        assert config.path is not None
        self._size = config.image_size
        self._root = Path(config.path)
        if not self._root.is_dir():
            what = "is a file" if self._root.exists() else "does not exist"
            raise UserError(f"data.path {self._root} {what}: give a folder that holds one folder of photos per class")
        listing = [entry for entry in self._list() if entry[1]]
        if not listing:
            raise UserError(
                f"no photo found in {self._root}: expected CLASS/*.jpg or CLASS/*.png, one folder per class"
            )
        if len(listing) < fewest_classes:
            raise UserError(
                f"{self._root} has photos of one class only ({listing[0][0]}): give at least two class folders"
            )
        self.class_names = tuple(name for name, _ in listing)
        self.photos = [(f"{name}/{photo.name}", label) for label, (name, ps) in enumerate(listing) for photo in ps]
        """CLASS/FILE of each photo, and the number of its class."""
        self.images = len(self.photos)
        self.identity = {
            "source": "folder",
            "image_size": config.image_size,
            "class_names": list(self.class_names),
            "files": [[f"{name}/{photo.name}", *_size_and_time(photo)] for name, photos in listing for photo in photos],
        }

    def _list(self) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
        try:
            for folder in sorted(os.scandir(self._root), key=lambda entry: entry.name):
                if _is_folder(folder) and not folder.name.startswith("."):
                    files = sorted(os.scandir(folder.path), key=lambda entry: entry.name)
                    found = [f for f in files if f.name.lower().endswith(PHOTO_SUFFIXES) and not _is_folder(f)]
                    if found:
                        _check_class_name(folder.name)
                    yield folder.name, found
        except OSError as error:
            raise UserError(f"cannot read {error.filename} ({error.strerror}): check its permissions") from error

    def chunks(self) -> Iterator[Chunk]:
        """Photos by path: each prepare process reads its own."""
        for start in range(0, self.images, CHUNK_IMAGES):
            names, labels = zip(*self.photos[start : start + CHUNK_IMAGES], strict=True)
            yield _PhotoChunk(names, tuple(self._root / name for name in names), labels, start, self._size)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _check_class_name(name: str) -> None:
    """Refuse what cannot be shown as it is (UserError): names of classes go into checkpoints, tables and pictures."""
    if not name.isprintable():
        raise UserError(f"class folder {name!r} has a name with control characters, or one that is no UTF-8: rename it")


def _size_and_time(photo: os.DirEntry[str]) -> list[int | None]:
    try:
        status = photo.stat()
    except OSError:  # a dangling link: listed as unreadable when it is decoded
        return [None, None]
    return [status.st_size, status.st_mtime_ns]


class TfFlowersSource:
    """tf_flowers through tensorflow-datasets, in its own reading order.

    The builder alone is opened here: its metadata say whether the data are there. TensorFlow does the reading, so this
    source is the one that imports it.
    """

    def __init__(self, config: DataConfig, download: bool) -> None:
        self._size = config.image_size
        folder = Path(config.tfds_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
        # Looked up without importing tensorflow_datasets: a missing data set is told at once, on every kind of node.
        versions = sorted((folder / "tf_flowers").glob("[0-9]*/dataset_info.json"))
        if not versions and not download:
            raise UserError(f"tf_flowers is not in {folder}")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        self._builder = _tfds_builder(folder, versions[-1].parent if versions else None)
        info = self._builder.info
        self.class_names = tuple(info.features["label"].names)
        self.images = info.splits["train"].num_examples
        self.identity = {
            "source": "tf_flowers",
            "version": str(info.version),
            "images": self.images,
            "bytes": info.splits["train"].num_bytes,
            "image_size": config.image_size,
        }

    def chunks(self) -> Iterator[Chunk]:
        """Photos by their JPEG bytes."""
        import tensorflow_datasets as tfds

        photos = self._builder.as_dataset(
            split="train",
            shuffle_files=False,
            decoders={"image": tfds.decode.SkipDecoding()},
            # One file after the other: the default interleaves files, and train[:85%] is cut from their sequence.
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
        )
        batches = photos.batch(CHUNK_IMAGES).as_numpy_iterator()
        for number, batch in enumerate(batches):
            start, images = number * CHUNK_IMAGES, tuple(batch["image"].tolist())
            names = tuple(f"tf_flowers[{start + offset}]" for offset in range(len(images)))
            yield _PhotoChunk(names, images, tuple(batch["label"].tolist()), start, self._size)


def _tfds_builder(folder: Path, prepared: Path | None) -> Any:
    """tensorflow-datasets' builder, downloading tf_flowers into `folder` where it is not there yet."""
    import requests
    import tensorflow_datasets as tfds

    if prepared is not None:
        return tfds.builder_from_directory(prepared)
    try:
        # Asked once, briefly: tensorflow-datasets would retry for minutes on a node without internet access.
        requests.head(_DOWNLOAD, timeout=10, allow_redirects=True).raise_for_status()
        builder = tfds.builder("tf_flowers", data_dir=folder)
        builder.download_and_prepare()
    except Exception as error:  # whatever the network, the disk or the server say: the remedy is the same
        raise UserError(
            f"tf_flowers is not in {folder} and could not be downloaded ({type(error).__name__}): prepare it where "
            "there is internet access, or point --data.tfds-dir or TFDS_DATA_DIR at a folder that holds it"
        ) from error
    return builder
