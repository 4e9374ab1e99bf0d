"""What a photo's file comes down to before a decoder sees it, and the limits that keep a decoder harmless."""

import struct
from dataclasses import dataclass

MOST_BYTES = 2**27
"""Of a file: several times what the largest cameras write."""
MOST_PIXELS = 100_000_000
"""That are held decoded, 4 bytes each."""
MOST_PIXELS_HELD_FOURFOLD = 40_000_000
"""Where a decoder holds four copies of them, as WebP's does."""
MOST_SEGMENTS = 100_000
"""Of a JPEG, chunks of a PNG or WebP, blocks of a GIF, strips of a TIFF: one for each kB of the largest file."""
MOST_SCANS = 100
"""Of a progressive JPEG, each of which takes as long as all pixels do: cameras and converters write about 10."""


@dataclass(frozen=True)
class PhotoFile:
    """The file of a photo without what its pixels do not depend on."""

    contents: bytes
    kind: str
    """As Pillow calls it: JPEG, PNG, WEBP, GIF, BMP or TIFF."""
    orientation: int
    """1 to 8, as EXIF numbers them (CIPA DC-008, tag 0x0112); 1 where the file says nothing."""
    whole_at_once: bool
    """Whether a decoder holds all of it at full size, however small the image that is asked for."""


def refuse_large(width: int, height: int, most: int = MOST_PIXELS) -> None:
    """Raise OSError where an image has more pixels than are held in memory."""
    if width * height > most:
        raise OSError(f"{width} x {height} pixels: at most {most // 10**6} million are held in memory")


def exif_orientation(tiff: bytes) -> int:
    """Of the first directory of EXIF, a TIFF; 0 where it says nothing."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 0
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for place in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind, _, said = struct.unpack_from(f"{order}HHIH", tiff, place)
            if tag == 0x0112:
                return int(said) if kind == 3 and 1 <= said <= 8 else 0
    except struct.error:  # it ends before
        pass
    return 0
