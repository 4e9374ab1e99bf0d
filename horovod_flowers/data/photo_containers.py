"""WebP, GIF, BMP and TIFF files, cut down to what makes the pixels of their first image.

As with JPEG and PNG, all else is left out before a decoder sees the file: descriptions, further frames and pages, and
whatever can make a decoder take gigabytes or minutes. Each function raises OSError, saying why it refuses a file.
"""

import math
import struct

from horovod_flowers.data.photo_contents import (
    MOST_PIXELS_HELD_FOURFOLD,
    MOST_SEGMENTS,
    PhotoFile,
    exif_orientation,
    refuse_large,
)

# --- WebP (RFC 9649) -------------------------------------------------------------------------------------------------

_DESCRIPTIONS = 0x20 | 0x08 | 0x04  # of VP8X: a colour profile, EXIF, XMP
_START_CODE = b"\x9d\x01\x2a"


def read_webp(contents: bytes) -> PhotoFile:
    """The first frame, with the canvas that it lies on."""
    kept: dict[bytes, bytes] = {}
    orientation, position = 0, 12
    for _ in range(MOST_SEGMENTS):
        if position + 8 > len(contents):
            break
        kind, length = struct.unpack_from("<4sI", contents, position)
        body = contents[position + 8 : position + 8 + length]
        if kind == b"EXIF":
            orientation = orientation or exif_orientation(body.removeprefix(b"Exif\0\0"))
        elif kind in (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            kept.setdefault(kind, body)
        position += 8 + length + length % 2
    else:
        raise OSError(f"damaged: more than {MOST_SEGMENTS} WebP chunks")
    if not {b"VP8 ", b"VP8L", b"ANMF"} & kept.keys():
        raise OSError("damaged: a WebP header without an image")
    refuse_large(*_webp_size(kept), MOST_PIXELS_HELD_FOURFOLD)
    if kept.get(b"VP8X"):
        kept[b"VP8X"] = bytes([kept[b"VP8X"][0] & ~_DESCRIPTIONS]) + kept[b"VP8X"][1:]
    chunks = b"".join(
        struct.pack("<4sI", kind, len(kept[kind])) + kept[kind] + bytes(len(kept[kind]) % 2)
        for kind in (b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L")
        if kind in kept
    )
    return PhotoFile(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks, "WEBP", orientation or 1, True)


def _webp_size(chunks: dict[bytes, bytes]) -> tuple[int, int]:
    """The larger of canvas and frame: libwebp makes room for the canvas before it looks at the frame."""
    sizes = [(1, 1)]
    if len(body := chunks.get(b"VP8X", b"")) >= 10:
        sizes.append((1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")))
    if len(body := chunks.get(b"ANMF", b"")) >= 12:
        sizes.append((1 + int.from_bytes(body[6:9], "little"), 1 + int.from_bytes(body[9:12], "little")))
    if (body := chunks.get(b"VP8 ", b""))[3:6] == _START_CODE and len(body) >= 10:
        width, height = struct.unpack_from("<HH", body, 6)
        sizes.append((width & 0x3FFF, height & 0x3FFF))
    if len(body := chunks.get(b"VP8L", b"")) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        sizes.append((1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)))
    return max(sizes, key=math.prod)


# --- GIF (GIF89a specification) --------------------------------------------------------------------------------------

_EXTENSION, _IMAGE, _TRAILER, _GRAPHIC_CONTROL = 0x21, 0x2C, 0x3B, 0xF9


def read_gif(contents: bytes) -> PhotoFile:
    """The first frame. Pillow would join comments of any length, one block at a time."""
    if len(contents) < 13:
        raise OSError("the file is truncated")
    position = 13 + _colour_table(contents[10])
    kept, control = [contents[:position]], b""
    for _ in range(MOST_SEGMENTS):
        mark = contents[position : position + 1]
        if not mark:
            raise OSError("the file is truncated")
        if mark[0] == _IMAGE:
            start, position = position, position + 10
            if position > len(contents):
                raise OSError("the file is truncated")
            data = position + _colour_table(contents[position - 1]) + 1  # and the smallest code's length
            kept += [control, contents[start : _end_of_blocks(contents, data)], bytes([_TRAILER])]
            return PhotoFile(b"".join(kept), "GIF", 1, True)
        if mark[0] == _EXTENSION:
            end = _end_of_blocks(contents, position + 2)
            if contents[position + 1 : position + 2] == bytes([_GRAPHIC_CONTROL]):
                control = contents[position:end]
            position = end
        elif mark[0] == _TRAILER:
            raise OSError("damaged: a GIF header without an image")
        else:
            position += 1  # as decoders do, over what stands between blocks
    raise OSError(f"damaged: more than {MOST_SEGMENTS} GIF blocks")


def _colour_table(flags: int) -> int:
    """Bytes of the colour table that follows a field of flags."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _end_of_blocks(contents: bytes, position: int) -> int:
    while position < len(contents) and (length := contents[position]):
        position += 1 + length
    return min(position + 1, len(contents))


# --- BMP -------------------------------------------------------------------------------------------------------------

_PLAIN_BMP = (0, 3, 6)  # BI_RGB, BI_BITFIELDS, BI_ALPHABITFIELDS


def read_bmp(contents: bytes) -> PhotoFile:
    """A BMP file whose pixels are not run-length encoded: Pillow decodes those in Python, byte by byte."""
    if len(contents) < 26:
        raise OSError("the file is truncated")
    (header,) = struct.unpack_from("<I", contents, 14)
    if header >= 40 and len(contents) >= 34:
        (compression,) = struct.unpack_from("<I", contents, 30)
        if compression not in _PLAIN_BMP:
            raise OSError(f"a BMP file with compression {compression}: save it without, or as PNG")
    return PhotoFile(contents, "BMP", 1, True)


# --- TIFF (TIFF 6.0) -------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _FORMAT = 256, 257, 258, 259, 262, 274, 339
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_PIXEL_TAGS = {
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _TILE_WIDTH, _TILE_HEIGHT, _FORMAT),
    *(266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 324, 325, 332, 338, 347, 529, 530, 531, 532),
}
# None, LZW, JPEG, deflate (two numbers), PackBits. Those of fax machines are decoded, wrongly, even where damaged.
_COMPRESSIONS = {1, 5, 7, 8, 32773, 32946}
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
_LARGEST_TILE = 2**24
"""Pixels: a decoder makes room for a whole one, however small the image."""


def read_tiff(contents: bytes) -> PhotoFile:
    """The first page: its directory is written anew, with the tags that its pixels depend on."""
    order = {b"II": "<", b"MM": ">"}[contents[:2]]
    tags: dict[int, bytes] = {}
    try:
        (directory,) = struct.unpack_from(f"{order}I", contents, 4)
        (entries,) = struct.unpack_from(f"{order}H", contents, directory)
        for number in range(entries):
            place = directory + 2 + 12 * number
            tags.setdefault(struct.unpack_from(f"{order}H", contents, place)[0], contents[place : place + 12])
        values = {tag: _values(contents, order, entry) for tag, entry in tags.items() if tag in _CHECKED_TAGS}
    except struct.error:
        raise OSError("the file is truncated") from None
    _refuse_unusual(values)
    kept = [entry for tag, entry in sorted(tags.items()) if tag in _PIXEL_TAGS]
    for entry in kept:
        kind, count = struct.unpack_from(f"{order}HI", entry, 2)
        if kind not in _VALUE_BYTES or count > MOST_SEGMENTS:
            raise OSError("damaged: a TIFF directory with impossible entries")
    padding = bytes(len(contents) % 2)
    written = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)  # no page after it
    start = struct.pack(f"{order}I", len(contents) + len(padding))
    (orientation,) = values.get(_ORIENTATION) or [1]
    whole = b"".join((contents[:4], start, contents[8:], padding, written))
    return PhotoFile(whole, "TIFF", orientation if 1 <= orientation <= 8 else 1, True)


_CHECKED_TAGS = {
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _FORMAT, _TILE_WIDTH, _TILE_HEIGHT)
}


def _values(contents: bytes, order: str, entry: bytes) -> list[int]:
    """Whole numbers of an entry, at most a few."""
    kind, count = struct.unpack_from(f"{order}HI", entry, 2)
    letter = {1: "B", 3: "H", 4: "I"}.get(kind)
    if letter is None or not 1 <= count <= 16:
        raise OSError("damaged: a TIFF directory with impossible entries")
    length = struct.calcsize(f"{order}{count}{letter}")
    if length <= 4:
        return list(struct.unpack_from(f"{order}{count}{letter}", entry, 8))
    (offset,) = struct.unpack_from(f"{order}I", entry, 8)
    return list(struct.unpack_from(f"{order}{count}{letter}", contents, offset))


def _refuse_unusual(values: dict[int, list[int]]) -> None:
    """What Pillow would clip, invert or make too much room for."""

    def first(tag: int, default: int) -> int:
        return values.get(tag, [default])[0]

    if _WIDTH not in values or _HEIGHT not in values:
        raise OSError("damaged: a TIFF header without an image")
    refuse_large(first(_WIDTH, 0), first(_HEIGHT, 0))
    if first(_COMPRESSION, 1) not in _COMPRESSIONS:
        raise OSError(f"a TIFF file with compression {first(_COMPRESSION, 1)}: save it with LZW, or as PNG")
    bits = values.get(_BITS, [1])
    if not set(bits) <= {1, 2, 4, 8, 16} or not set(values.get(_FORMAT, [1])) <= {1, 4}:
        raise OSError("a TIFF file whose pixels are no whole numbers of 1 to 16 bits: save it with 8 bits a channel")
    if max(bits) == 16 and first(_PHOTOMETRIC, 1) == 0:
        raise OSError("a TIFF file with 16 bits where 0 is white: save it with 8 bits")
    if first(_TILE_WIDTH, 1) * first(_TILE_HEIGHT, 1) > _LARGEST_TILE:
        raise OSError("damaged: a TIFF file with tiles that are too large")
