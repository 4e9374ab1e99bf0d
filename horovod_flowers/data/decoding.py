"""A photo decoded, upright and at the size that a model sees."""

import contextlib
import ctypes
import io
import logging
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from horovod_flowers.data.photo_contents import refuse_large
from horovod_flowers.data.photo_file import read_photo_file
from horovod_flowers.runtime.errors import first_line


def decode_photo(photo: Path | bytes, size: int) -> np.ndarray:
    """Decode a photo, upright by its EXIF tag, resized to uint8 [size, size, 3] RGB without keeping proportions.

    Of an animation its still image or first frame counts, of a TIFF its first page; 16 bits a channel become 8,
    transparency is left out. Raises Pillow's errors (OSError, ValueError, SyntaxError) where the file is no whole
    image, or a larger one than is held in memory.
    """
    from PIL import Image

    file = read_photo_file(photo)
    _hush_decoders()
    Image.MAX_IMAGE_PIXELS = None  # Pillow's limit counts pixels that are never held, and ours is lower
    try:
        image: Image.Image = Image.open(io.BytesIO(file.contents), formats=(file.kind,))
    except Image.UnidentifiedImageError:
        raise OSError(f"damaged: the {file.kind} header") from None  # Pillow names an address in memory
    with image:
        if file.whole_at_once:
            refuse_large(image.width, image.height)
        image.draft("RGB", (2 * size, 2 * size))  # JPEG: decode at a fraction where the photo is much larger
        refuse_large(image.width, image.height)
        upright = _as_rgb(image)
        if file.orientation > 1:
            upright = upright.transpose(_TO_UPRIGHT[file.orientation])
        resized = upright.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(resized)


@cache
def _hush_decoders() -> None:
    """Let decoders raise errors, not print them: of a folder of damaged photos that would be thousands of lines.

    Pillow leaves libtiff's handler in place, which prints. It is Pillow's own copy of the library that is told.
    """
    from PIL import Image  # loads it

    assert Image.core is not None
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        libraries = {line.split(maxsplit=5)[-1].strip() for line in maps if "libtiff" in line}
    for library in libraries:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(library).TIFFSetErrorHandler(None)


# By EXIF's number: members of PIL.Image.Transpose.
_TO_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


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
