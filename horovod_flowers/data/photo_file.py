"""What of a JPEG or PNG file makes its pixels, and which way up it is: all that a decoder is shown.

Files come from anywhere. Descriptions beside the pixels (EXIF, colour profiles, thumbnails, comments) are where a small
file can make a decoder take gigabytes or minutes (240 kB of EXIF: 4.6 GB), and no pixel depends on them.
"""

import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 2**27
"""Of a file: several times what the largest cameras write."""
MOST_PIXELS = 100_000_000
"""That are held decoded, 4 bytes each."""
MOST_SEGMENTS = 100_000
"""Of a JPEG, or chunks of a PNG: one for each kB of the largest file."""
MOST_SCANS = 100
"""Of a progressive JPEG, each of which takes as long as all pixels do: cameras and converters write about 10."""

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # behind stuffed zeros, fill bytes and restarts
_NO_LENGTH = (0x01, 0xD8)
_START_OF_SCAN, _END, _EXIF_OR_XMP, _JFIF, _ADOBE, _COMMENT = 0xDA, 0xD9, 0xE1, 0xE0, 0xEE, 0xFE
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_BASELINE = (0xC0, 0xC1)
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_OTHERS = {
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF": "WebP",
    b"<svg": "SVG",
    b"%PDF": "PDF",
}


@dataclass(frozen=True)
class PhotoFile:
    """A JPEG or PNG file without what its pixels do not depend on."""

    contents: bytes
    kind: str
    """JPEG or PNG."""
    orientation: int
    """1 to 8, as EXIF numbers them (CIPA DC-008, tag 0x0112); 1 where the file says nothing."""
    whole_at_once: bool
    """Whether a decoder holds all of it at full size, however small the image that is asked for."""


def read_photo_file(photo: Path | bytes) -> PhotoFile:
    """Read a photo. Raises OSError, saying why, where it is no JPEG or PNG file, or one that no camera writes."""
    contents = photo if isinstance(photo, bytes) else _read(photo)
    if len(contents) > MOST_BYTES:
        raise OSError(f"the file has more than {MOST_BYTES} bytes")
    if contents.startswith(_JPEG):
        return _read_jpeg(contents)
    if contents.startswith(_PNG):
        return _read_png(contents)
    if not contents:
        raise OSError("the file is empty")
    other = next((name for mark, name in _OTHERS.items() if contents.startswith(mark)), None)
    raise OSError("no JPEG or PNG image" if other is None else f"a {other} file, no JPEG or PNG image")


def _read(path: Path) -> bytes:
    """Of a file alone: a named pipe would never end, nor a device. The way to it may lead over links."""
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
        return _orientation(segment[6:])
    if segment.startswith(b"http://ns.adobe.com/xap/1.0/\0") and (said := _XMP_ORIENTATION.search(segment)):
        return int(said[1])
    return 0


def _orientation(tiff: bytes) -> int:
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
            orientation = orientation or _orientation(contents[position + 8 : following - 4].removeprefix(b"Exif\0\0"))
        position = following
        if kind == b"IEND":
            break
    else:
        raise OSError(f"damaged: more than {MOST_SEGMENTS} PNG chunks")
    return PhotoFile(b"".join(kept), "PNG", orientation or 1, True)
