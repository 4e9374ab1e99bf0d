"""What of a photo's file makes its pixels, and which way up it is: all that a decoder is shown.

Files come from anywhere. Descriptions beside the pixels (EXIF, colour profiles, thumbnails, comments) are where a small
file can make a decoder take gigabytes or minutes (240 kB of EXIF: 4.6 GB), and no pixel depends on them.
"""

import re
import stat
import struct
from pathlib import Path

from horovod_flowers.data.photo_containers import read_bmp, read_gif, read_tiff, read_webp
from horovod_flowers.data.photo_contents import MOST_BYTES, MOST_SCANS, MOST_SEGMENTS, PhotoFile, exif_orientation

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png"),
    *(".webp", ".bmp", ".tif", ".tiff", ".gif"),
)
"""Of names that are taken for photos; what a file is, its contents say."""
KINDS = "JPEG, PNG, WebP, BMP, TIFF or GIF"

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # behind stuffed zeros, fill bytes and restarts
_NO_LENGTH = (0x01, 0xD8)
_START_OF_SCAN, _END, _EXIF_OR_XMP, _JFIF, _ADOBE, _COMMENT = 0xDA, 0xD9, 0xE1, 0xE0, 0xEE, 0xFE
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_BASELINE = (0xC0, 0xC1)
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_OTHERS = {b"<svg": "an SVG", b"%PDF": "a PDF", b"8BPS": "a Photoshop"}
_BOX_BRANDS = {b"avif": "an AVIF", b"avis": "an AVIF", b"heic": "a HEIC", b"heix": "a HEIC", b"mif1": "a HEIF"}
"""Of files that begin with an ftyp box (ISO/IEC 14496-12)."""


def read_photo_file(photo: Path | bytes) -> PhotoFile:
    """Read a photo. Raises OSError, saying why, where it is of no kind that is read, or one that no camera writes."""
    contents = photo if isinstance(photo, bytes) else read_contents(photo)
    if len(contents) > MOST_BYTES:
        raise OSError(f"the file has more than {MOST_BYTES} bytes")
    if contents.startswith(_JPEG):
        return _read_jpeg(contents)
    if contents.startswith(_PNG):
        return _read_png(contents)
    if contents.startswith(b"RIFF") and contents[8:12] == b"WEBP":
        return read_webp(contents)
    if contents.startswith((b"GIF87a", b"GIF89a")):
        return read_gif(contents)
    if contents.startswith(b"BM"):
        return read_bmp(contents)
    if contents.startswith((b"II*\0", b"MM\0*")):
        return read_tiff(contents)
    if not contents:
        raise OSError("the file is empty")
    other = next((name for mark, name in _OTHERS.items() if contents.startswith(mark)), None)
    if contents[4:8] == b"ftyp":
        other = _BOX_BRANDS.get(contents[8:12])
    raise OSError(f"no {KINDS} image" if other is None else f"{other} file, no {KINDS} image: convert it")


def read_contents(path: Path) -> bytes:
    """The bytes of a file, one more than MOST_BYTES of a larger one. Raises OSError.

    Of a file alone: a named pipe would never end, nor a device. The way to it may lead over links.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a file")
    with open(path, "rb") as file:
        return file.read(MOST_BYTES + 1)


def _read_jpeg(contents: bytes) -> PhotoFile:
    """Marker by marker (ITU-T T.81, annex B), as far as the first scan; further where there are more scans."""
    kept, orientation, frame, channels, position = [contents[:2]], 0, 0, 0, 2
    for _ in range(MOST_SEGMENTS):
        found = _MARKER.search(contents, position)
        if found is None:
            raise OSError("the file is truncated")
        marker, start, position = found[1][0], found.start(), found.end()
        if marker in _NO_LENGTH:
            continue
        if marker == _END:
            raise OSError("damaged: a JPEG header without an image")
        position += _number(contents, position)
        segment = contents[start:position]
        if marker in _FRAMES:
            frame, channels = marker, segment[9] if len(segment) > 9 else 0
        if marker == _START_OF_SCAN:
            break
        if marker == _EXIF_OR_XMP:
            orientation = orientation or _orientation_beside(segment[4:])
        elif marker in (_JFIF, _ADOBE) or not (_JFIF <= marker < _JFIF + 16 or marker == _COMMENT):
            kept.append(segment)
    else:
        raise OSError(f"damaged: more than {MOST_SEGMENTS} JPEG segments")
    several = frame not in _BASELINE or (len(segment) > 4 and segment[4] != channels)
    if several:
        _refuse_many_scans(contents, position)
    kept.append(contents[start:])
    return PhotoFile(b"".join(kept), "JPEG", orientation or 1, several)


def _refuse_many_scans(contents: bytes, position: int) -> None:
    scans = 1
    while scans <= MOST_SCANS:
        found = _MARKER.search(contents, position)
        if found is None or found[1][0] == _END:
            return
        position = found.end()
        scans += found[1][0] == _START_OF_SCAN
        if found[1][0] not in _NO_LENGTH and position + 2 <= len(contents):
            position += _number(contents, position)
    raise OSError(f"damaged: more than {MOST_SCANS} JPEG scans")


def _number(contents: bytes, position: int) -> int:
    """Length of a segment, from itself on."""
    length = int.from_bytes(contents[position : position + 2], "big")
    if length < 2:
        raise OSError("damaged: a JPEG segment without a length" if len(contents) > position + 1 else "truncated")
    return length


def _orientation_beside(segment: bytes) -> int:
    """Of the EXIF or XMP of a JPEG; 0 where it says nothing."""
    if segment.startswith(b"Exif\0\0"):
        return exif_orientation(segment[6:])
    if segment.startswith(b"http://ns.adobe.com/xap/1.0/\0") and (said := _XMP_ORIENTATION.search(segment)):
        return int(said[1])
    return 0


def _read_png(contents: bytes) -> PhotoFile:
    """Chunk by chunk (PNG specification, section 5)."""
    kept, orientation, position = [contents[:8]], 0, 8
    for _ in range(MOST_SEGMENTS):
        if position + 8 > len(contents):
            break
        length, kind = struct.unpack_from(">I4s", contents, position)
        following = position + 12 + length
        if kind in _PIXEL_CHUNKS:
            kept.append(contents[position:following])
        elif kind == b"eXIf":
            orientation = orientation or exif_orientation(
                contents[position + 8 : following - 4].removeprefix(b"Exif\0\0")
            )
        position = following
        if kind == b"IEND":
            break
    else:
        raise OSError(f"damaged: more than {MOST_SEGMENTS} PNG chunks")
    return PhotoFile(b"".join(kept), "PNG", orientation or 1, True)
