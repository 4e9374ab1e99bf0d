"""Decodes damaged photos, as many as it is told: python -m tests.single.damaged_photos COUNT FILE

Run apart, since a decoder that fails can take its process with it. FILE holds the number of the photo in work; the
same number always is the same photo (`damaged`). Prints how many were decoded and refused, and the peak memory.
"""

import faulthandler
import io
import json
import os
import struct
import sys
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from horovod_flowers.data.decoding import photo_or_reason

SIZE = 32
SECONDS_A_PHOTO = 20
"""Far above what any of them takes on a busy machine."""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """A file of that kind."""
    with io.BytesIO() as buffer:
        image.save(buffer, kind, **options)
        return buffer.getvalue()


def chunk(kind: bytes, contents: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))


def png(width: int, height: int, depth: int, colour: int, rows: bytes = b"", interlaced: int = 0) -> bytes:
    """A PNG with any header; `rows`: each with its filter's number in front."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def sixteen_bits(channels: int, colour: int, height: int = 40, width: int = 50) -> bytes:
    """A PNG whose values climb from black to white over its rows."""
    values = np.repeat(np.linspace(0, 65535, height), width * channels).astype(">u2").reshape(height, -1)
    return png(width, height, 16, colour, b"".join(b"\0" + row.tobytes() for row in values))


@cache
def whole_photos() -> tuple[bytes, ...]:
    """One of each kind that a decoder takes another way through."""
    random = np.random.default_rng(0)
    image = Image.fromarray((random.integers(0, 60, (40, 50, 3)) + np.eye(3)[1] * 190).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    profile = random.bytes(3000)
    options: list[dict[str, object]] = [{}, {"progressive": True}, {"exif": exif.tobytes()}, {"icc_profile": profile}]
    options += [{"restart_marker_blocks": 2}, {"subsampling": 0, "quality": 95}]
    found = [encoded(image, "JPEG", **each) for each in options]
    found += [encoded(image.convert(mode), "JPEG") for mode in ("L", "CMYK")]
    found += [encoded(image.convert(mode), "PNG") for mode in ("RGB", "L", "1", "P", "LA", "RGBA")]
    found += [encoded(image, "PNG", exif=exif.tobytes(), icc_profile=profile)]
    found += [encoded(image.convert("P"), "PNG", transparency=bytes(range(200)))]
    found += [encoded(image, "PNG", save_all=True, append_images=[image.rotate(90)])]
    found += [sixteen_bits(channels, colour) for channels, colour in ((1, 0), (2, 4), (3, 2), (4, 6))]
    found += [png(8, 8, 8, 0, random.bytes(100), interlaced=1)]
    return (*found, *_of_other_kinds(image, exif.tobytes(), profile))


def _of_other_kinds(image: Image.Image, exif: bytes, profile: bytes) -> list[bytes]:
    """WebP, GIF, BMP and TIFF."""
    moving: dict[str, object] = {"save_all": True, "append_images": [image.rotate(90)]}
    webp: list[dict[str, object]] = [{}, {"lossless": True}, {"exif": exif, "icc_profile": profile}, moving]
    found = [encoded(image, "WEBP", **each) for each in webp]
    found += [encoded(image.convert("RGBA"), "WEBP", **each) for each in webp[:2]]
    found += [encoded(image.convert("P"), "GIF", **each) for each in ({}, {"comment": b"x" * 400}, moving)]
    found += [encoded(image.convert(mode), "BMP") for mode in ("RGB", "L", "1", "P", "RGBA")]
    tiff: list[dict[str, object]] = [{"compression": name} for name in ("raw", "tiff_lzw", "tiff_deflate", "packbits")]
    tiff += [{"compression": "jpeg"}, {"exif": exif}, {"icc_profile": profile}, moving]
    found += [encoded(image, "TIFF", **each) for each in tiff]
    found += [encoded(image.convert(mode), "TIFF", compression="tiff_lzw") for mode in ("L", "P", "RGBA", "CMYK")]
    return [*found, encoded(image.convert("I;16"), "TIFF")]


def damaged(number: int) -> bytes:
    """A whole photo with up to 4 damages: bits, cuts, pieces of others, header fields enlarged."""
    random = np.random.default_rng(number)
    photos = whole_photos()
    contents = bytearray(photos[int(random.integers(len(photos)))])
    for _ in range(int(random.integers(1, 5))):
        place = int(random.integers(len(contents) or 1))
        if random.random() < 0.3:  # among the headers
            place = min(place, int(random.integers(200)))
        kind = int(random.integers(6))
        if kind == 0:
            contents[place] ^= 1 << int(random.integers(8))
        elif kind == 1:
            contents[place : place + 4] = random.bytes(4)
        elif kind == 2:
            contents[place : place + 2] = b"\xff\xff"
        elif kind == 3:
            other = photos[int(random.integers(len(photos)))]
            start = int(random.integers(len(other)))
            contents[place:place] = other[start : start + int(random.integers(1, 500))]
        elif kind == 4:
            del contents[place : place + int(random.integers(1, 100))]
        elif random.random() < 0.2:
            del contents[max(place, 20) :]
    return _with_checksums(bytes(contents)) if random.random() < 0.7 else bytes(contents)


def _with_checksums(contents: bytes) -> bytes:
    """A PNG whose chunks pass for whole, so that damages reach what is behind their check."""
    whole, position = bytearray(contents), 8
    while contents.startswith(b"\x89PNG") and position + 12 <= len(contents):
        end = position + 8 + int.from_bytes(whole[position : position + 4], "big")
        if end + 4 > len(whole):
            break
        whole[end : end + 4] = struct.pack(">I", zlib.crc32(whole[position + 4 : end]))
        position = end + 4
    return bytes(whole)


def peak_bytes() -> int:
    """The largest resident memory of this process: unlike getrusage's, not that of the one that started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main(count: int, path: str) -> None:
    """Decode that many."""
    decoded = refused = 0
    with open(path, "wb", buffering=0) as file:
        for number in range(count):
            os.pwrite(file.fileno(), b"%-9d" % number, 0)
            if number % 100 == 0:
                faulthandler.dump_traceback_later(SECONDS_A_PHOTO, exit=True)
            found = photo_or_reason(damaged(number), SIZE)
            if isinstance(found, str):
                refused += 1
                assert found, number
                assert found.isprintable(), (number, found)
                assert len(found) <= 200, (number, found)
                assert " at 0x" not in found, (number, found)  # the same words in every process
            else:
                decoded += 1
                assert (found.shape, found.dtype) == ((SIZE, SIZE, 3), np.uint8), number
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps({"decoded": decoded, "refused": refused, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
