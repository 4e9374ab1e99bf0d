"""WebP, GIF, BMP and TIFF: decoded as people mean them, within the limits that hold for JPEG and PNG."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from horovod_flowers.data.decoding import decode_photo, photo_or_reason
from horovod_flowers.data.photo_contents import MOST_SEGMENTS
from tests.conftest import PROJECT
from tests.single.damaged_photos import encoded
from tests.single.test_hostile_photos import MUCH_MEMORY, gradient, peak_of

pytestmark = pytest.mark.timeout(240)


def expected(size: int = 24) -> np.ndarray:
    return np.asarray(gradient().resize((size, size), Image.Resampling.BILINEAR)).astype(int)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        *(("WEBP", mode, {"lossless": lossless}) for mode in ("RGB", "RGBA") for lossless in (False, True)),
        *(("BMP", mode, {}) for mode in ("RGB", "P", "RGBA")),
        *(("TIFF", mode, {"compression": "tiff_lzw"}) for mode in ("RGB", "P", "RGBA", "CMYK")),
        *(("TIFF", "RGB", {"compression": name}) for name in ("raw", "tiff_deflate", "packbits", "jpeg")),
        ("GIF", "P", {}),
    ],
)
def test_every_kind_gives_the_same_colours(kind: str, mode: str, options: dict[str, object]) -> None:
    found = decode_photo(encoded(gradient().convert(mode), kind, **options), 24).astype(int)
    assert np.abs(found - expected())[:, [2, 20]].mean() < 8


@pytest.mark.parametrize("kind", ["WEBP", "TIFF"])
def test_photos_are_upright_by_every_orientation(kind: str) -> None:
    pixels = np.asarray(gradient(32, 32))
    turned = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.transpose(1, 0, 2)}
    turned |= {6: np.rot90(pixels, -1), 7: pixels[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(pixels)}
    for number, upright in turned.items():
        exif = Image.Exif()
        exif[0x0112] = number
        found = decode_photo(encoded(gradient(32, 32), kind, exif=exif.tobytes()), 32)
        assert np.abs(found.astype(int) - upright).mean() < 4, number


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "TIFF"])
def test_of_several_frames_or_pages_the_first_counts(kind: str) -> None:
    moving = encoded(Image.new("RGB", (9, 9), "red"), kind, save_all=True, append_images=[Image.new("RGB", (9, 9))])
    assert np.abs(decode_photo(moving, 24)[5, 5].astype(int) - [255, 0, 0]).max() < 6


def test_grey_tiff_of_16_bits_is_scaled_not_clipped() -> None:
    values = np.repeat(np.linspace(0, 65535, 32), 32).astype(np.uint16).reshape(32, 32)
    found = decode_photo(encoded(Image.fromarray(values), "TIFF"), 32)[:, 0, 0].astype(float)
    assert found == pytest.approx(np.linspace(0, 255, 32), abs=1)


def webp(width: int, height: int) -> bytes:
    body = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    whole = encoded(gradient(), "WEBP")
    chunks = b"VP8X" + struct.pack("<I", 10) + body + whole[12:]
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def tiff(**tags: int) -> bytes:
    """A grey TIFF of 40 x 40 pixels; `tags` in place of those that it has, as t277=3."""
    values = {256: 40, 257: 40, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 40, 279: 1600}
    values |= {int(name[1:]): value for name, value in tags.items()}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(values.items()))
    directory = struct.pack("<H", len(values)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + 1600) + bytes(1600) + directory


def rle() -> bytes:
    photo = bytearray(encoded(gradient().convert("P"), "BMP"))
    struct.pack_into("<I", photo, 30, 1)
    return bytes(photo)


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        (webp(2**14, 2**14), "16384 x 16384 pixels: at most 40 million are held in memory"),
        (webp(2**24, 2**24), "16777216 x 16777216 pixels: at most"),
        (b"RIFF\x04\0\0\0WEBP", "damaged: a WebP header without an image"),
        (encoded(gradient(), "WEBP")[:60], "could not create decoder object"),
        (b"GIF89a", "the file is truncated"),
        (b"GIF89a" + bytes(7) + b"!\xfe\0" * MOST_SEGMENTS + b";", f"damaged: more than {MOST_SEGMENTS} GIF blocks"),
        (b"GIF89a" + bytes(7) + b";", "damaged: a GIF header without an image"),
        (b"BM", "the file is truncated"),
        (rle(), "a BMP file with compression 1: save it without, or as PNG"),
        (tiff(t256=2**20, t257=2**20), "1048576 x 1048576 pixels: at most 100 million"),
        (tiff(t259=6), "a TIFF file with compression 6: save it with LZW, or as PNG"),
        (tiff(t258=32), "a TIFF file whose pixels are no whole numbers of 1 to 16 bits"),
        (tiff(t258=16, t262=0), "a TIFF file with 16 bits where 0 is white"),
        (tiff(t339=3), "a TIFF file whose pixels are no whole numbers"),
        (tiff(t322=2**16, t323=2**16), "damaged: a TIFF file with tiles that are too large"),
        (b"II*\0\xff\xff\xff\x7f", "the file is truncated"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_is_no_photo_or_a_bomb_says_why(photo: bytes, reason: str) -> None:
    found = photo_or_reason(photo, 32)
    assert isinstance(found, str)
    assert found.startswith(reason)


def test_a_plain_tiff_of_these_is_a_photo() -> None:
    """Else what is refused above would be refused for its making."""
    assert decode_photo(tiff(), 24).shape == (24, 24, 3)


def test_comments_of_a_gif_cost_nothing() -> None:
    """Pillow alone joins them a block at a time, which takes longer than this test may."""
    photo = encoded(gradient().convert("P"), "GIF")
    place = 13 + (3 << ((photo[10] & 7) + 1))
    comments = b"!\xfe" + (b"\xff" + bytes(255)) * 400_000 + b"\0"
    assert decode_photo(photo[:place] + comments + photo[place:], 24).shape == (24, 24, 3)


def test_large_photos_of_other_kinds_are_held_in_bounded_memory(tmp_path: Path) -> None:
    with open(tmp_path / "large.webp", "wb") as file:
        Image.new("RGB", (7_000, 5_700)).save(file, "WEBP", quality=1, method=0)
    code = "from horovod_flowers.data.decoding import decode_photo\nfrom pathlib import Path\n"
    code += f"assert decode_photo(Path({str(tmp_path / 'large.webp')!r}), 180).shape == (180, 180, 3)"
    assert peak_of(code) < MUCH_MEMORY


def test_decoders_print_nothing_of_their_own(tmp_path: Path) -> None:
    photo = bytearray(encoded(gradient(), "TIFF", compression="tiff_deflate"))
    photo[12:60] = bytes(48)
    (tmp_path / "bad.tif").write_bytes(photo)
    code = "from horovod_flowers.data.decoding import photo_or_reason\nfrom pathlib import Path\n"
    code += f"assert isinstance(photo_or_reason(Path({str(tmp_path / 'bad.tif')!r}), 24), str)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ended.stdout + ended.stderr == ""
