"""Photos that are none, by accident or by intent: decoded rightly, or listed with a reason in one line."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.decoding import decode_photo, photo_or_reason
from horovod_flowers.data.photo_file import MOST_BYTES
from horovod_flowers.data.prepared import Prepared, prepare
from horovod_flowers.data.sources import open_source
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import UserError, harmless
from tests.conftest import PROJECT
from tests.single.damaged_photos import chunk, encoded, png, sixteen_bits

pytestmark = pytest.mark.timeout(240)  # nothing here may wait, for a pipe or for memory
MUCH_MEMORY = 1_000 * 2**20


def gradient(width: int = 50, height: int = 40) -> Image.Image:
    """Black above to white below, its left half red."""
    rows = np.linspace(0, 255, height).repeat(width).reshape(height, width, 1)
    return Image.fromarray((rows * np.where(np.arange(width)[:, None] < width // 2, [1, 0, 0], 1)).astype(np.uint8))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("P", "PNG"), ("RGBA", "PNG")],
)
def test_every_mode_gives_the_same_colours(mode: str, kind: str) -> None:
    found = decode_photo(encoded(gradient().convert(mode), kind), 24).astype(int)
    expected = np.asarray(gradient().resize((24, 24), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(found - expected)[:, [2, 20]].mean() < 8


@pytest.mark.parametrize(("channels", "colour"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_sixteen_bits_are_scaled_not_clipped(channels: int, colour: int) -> None:
    found = decode_photo(sixteen_bits(channels, colour), 32)[:, 0, 0].astype(float)
    assert found == pytest.approx(np.linspace(2, 253, 32), abs=3)


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_photos_are_upright_by_every_orientation(kind: str, endian: str) -> None:
    """What each number of EXIF does, in the words of NumPy (CIPA DC-008: which side of the pixels is up and left)."""
    pixels = np.asarray(gradient(32, 32))
    turned = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.transpose(1, 0, 2)}
    turned |= {6: np.rot90(pixels, -1), 7: pixels[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(pixels)}
    for number, expected in {**turned, 0: pixels, 9: pixels}.items():
        tags = struct.pack(f"{endian}HHHIHH", 1, 0x0112, 3, 1, number, 0)
        exif = b"Exif\0\0" + (b"II*\0" if endian == "<" else b"MM\0*") + struct.pack(f"{endian}I", 8) + tags + bytes(4)
        found = decode_photo(encoded(gradient(32, 32), kind, exif=exif), 32)
        assert np.abs(found.astype(int) - expected).mean() < 4, number


def test_of_an_animated_png_the_still_image_counts() -> None:
    moving = encoded(Image.new("RGB", (9, 9), "red"), "PNG", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    assert decode_photo(moving, 24)[5, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_odd_shapes_are_decoded(kind: str, size: tuple[int, int]) -> None:
    photo = encoded(Image.new("RGB", size, (250, 0, 0)), kind)
    assert np.abs(decode_photo(photo, 24).astype(int) - [250, 0, 0]).max() < 4


def many_scans() -> bytes:
    photo = encoded(gradient(1000, 1000), "JPEG", progressive=True)
    last = photo.rfind(b"\xff\xda")
    return photo[:last] + photo[last:-2] * 300 + photo[-2:]


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        (b"", "the file is empty"),
        (b"no photo", "no JPEG, PNG, WebP, BMP, TIFF or GIF image"),
        (b"\0\0\0\x20ftypavif", "an AVIF file, no JPEG, PNG, WebP, BMP, TIFF or GIF image: convert it"),
        (b"%PDF-1.7", "a PDF file, no JPEG, PNG, WebP, BMP, TIFF or GIF image: convert it"),
        (encoded(gradient(), "JPEG")[:20], "the file is truncated"),
        (encoded(gradient(), "PNG")[:60], "image file is truncated"),
        (encoded(gradient(200, 200), "JPEG")[:-300], "image file is truncated"),
        (encoded(gradient(), "PNG").replace(b"IDAT", b"IDAX"), "cannot load this image"),
        (b"\xff\xd8" + b"\xff" * 10**7, "the file is truncated"),
        (b"\xff\xd8\xff\xd9", "damaged: a JPEG header without an image"),
        (png(30_000, 30_000, 8, 2), "30000 x 30000 pixels: at most 100 million are held in memory"),
        (png(2**31 - 1, 2**31 - 1, 1, 0), "2147483647 x 2147483647 pixels: at most"),
        (png(0, 0, 8, 2), "damaged: the PNG header"),
        (many_scans(), "damaged: more than 100 JPEG scans"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"abCd", b"") * 10**6, "damaged: more than 100000 PNG chunks"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_is_no_photo_says_why(photo: bytes, reason: str) -> None:
    found = photo_or_reason(photo, 32)
    assert isinstance(found, str)
    assert found.startswith(reason)


def peak_of(code: str) -> int:
    """The largest resident memory in bytes of a Python process that runs `code`."""
    code += "\nfrom tests.single.damaged_photos import peak_bytes\nprint(peak_bytes())"
    ended = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    return int(ended.stdout)


def test_a_small_file_does_not_take_gigabytes(tmp_path: Path) -> None:
    """EXIF whose every tag is all of it (Pillow alone: 4.6 GB), and JPEG files that can be decoded at a fraction."""
    span = 240_000
    tags = b"".join(struct.pack("<HHII", 1000 + k, 7, span, 8) for k in range(20_000))
    tiff = b"II*\0" + struct.pack("<IH", 8, 20_000) + tags
    whole = encoded(gradient(), "PNG")
    (tmp_path / "exif.png").write_bytes(whole[:33] + chunk(b"eXIf", tiff) + whole[33:])
    parts = [b"Exif\0\0" + tiff[k : k + 65_000] for k in range(0, len(tiff), 65_000)]
    headers = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts)
    jpeg = encoded(gradient(), "JPEG")
    (tmp_path / "exif.jpg").write_bytes(jpeg[:2] + headers + jpeg[20:])
    with open(tmp_path / "large.jpg", "wb") as file:
        Image.new("RGB", (12_000, 9_500)).save(file, "JPEG")
    code = "from horovod_flowers.data.decoding import decode_photo\nfrom pathlib import Path\n"
    code += f"for p in sorted(Path({str(tmp_path)!r}).iterdir()): assert decode_photo(p, 180).shape == (180, 180, 3)"
    assert peak_of(code) < MUCH_MEMORY // 2


@pytest.mark.slow
def test_ten_thousand_damaged_photos_neither_crash_nor_hang(tmp_path: Path) -> None:
    number = tmp_path / "number"
    words = [sys.executable, "-m", "tests.single.damaged_photos", "10000", str(number)]
    ended = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, f"photo {number.read_text()}: status {ended.returncode}\n{ended.stderr}"
    assert ended.stderr == ""  # decoders print nothing of their own
    found = json.loads(ended.stdout)
    assert found["decoded"] + found["refused"] == 10_000
    assert min(found["decoded"], found["refused"]) > 1_000
    assert found["peak_bytes"] < MUCH_MEMORY


# Names and places


def folder_config(path: Path) -> DataConfig:
    return DataConfig(source="folder", path=str(path), image_size=24)


def prepared_from(tmp_path: Path, photos: Path) -> Prepared:
    return prepare(tmp_path / "prepared", open_source(folder_config(photos)), processes=1)


def test_links_names_and_large_files(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    photos = write_photos(red=3, blue=2)
    (photos / "around").symlink_to("around")
    (photos / "red" / "around.jpg").symlink_to("around.jpg")
    (photos / "red" / "linked.jpg").symlink_to(photos / "blue" / "000.jpg")
    whole = (photos / "red" / "000.jpg").read_bytes()
    for name in (b"\xff.jpg", b"a\n\x1b]0;x\x07.jpg", "\u202e.jpg".encode()):
        Path(os.fsdecode(os.fsencode(photos / "red") + b"/" + name)).write_bytes(whole)
        Path(os.fsdecode(os.fsencode(photos / "blue") + b"/" + name)).write_bytes(b"no photo")
    with open(photos / "blue" / "large.jpg", "wb") as file:
        file.write(whole[:-2])
        file.truncate(2**40)  # a terabyte, of which the disk holds next to nothing
    prepared = prepared_from(tmp_path, photos)
    assert len(prepared) == 9
    assert dict(prepared.unreadable) == {
        "blue/a\n\x1b]0;x\x07.jpg": "no JPEG, PNG, WebP, BMP, TIFF or GIF image",
        "blue/large.jpg": f"the file has more than {MOST_BYTES} bytes",
        "blue/\u202e.jpg": "no JPEG, PNG, WebP, BMP, TIFF or GIF image",
        "blue/\udcff.jpg": "no JPEG, PNG, WebP, BMP, TIFF or GIF image",
        "red/around.jpg": "Too many levels of symbolic links",
    }


def test_the_same_bad_photos_give_the_same_digest(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    """Reasons are part of it: they name neither a place nor an address in memory."""
    photos = write_photos(red=2, blue=2)
    (photos / "red" / "bad.png").write_bytes(png(0, 0, 8, 2))
    first = prepared_from(tmp_path, photos)
    photos.rename(tmp_path / "moved")
    assert prepared_from(tmp_path / "more", tmp_path / "moved").digest == first.digest


@pytest.mark.parametrize("name", [b"a\nb", b"\xff", b"\x1b[31m", "\u202e".encode()])
def test_a_class_that_cannot_be_shown_is_refused(
    tmp_path: Path, write_photos: Callable[..., Path], name: bytes
) -> None:
    photos = write_photos(red=2, blue=2)
    os.rename(photos / "red", os.fsencode(photos) + b"/" + name)
    with pytest.raises(UserError, match="has a name with control characters, or one that is no UTF-8: rename it"):
        open_source(folder_config(photos))


def test_names_reach_no_terminal_raw(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    name = "a\n\x1b]0;x\x07\udcff\u202e"
    assert harmless(name) == r"a\n\x1b]0;x\x07\udcff\u202e"
    say(name)
    assert capfd.readouterr().out == f"{harmless(name)}\n"
    code = f"from horovod_flowers.predict import main; main(['missing'+{name!r}, '--run', 'x'+{name!r}])"
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(PROJECT)}
    words = [sys.executable, "-c", code]
    ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert harmless(name) in ended.stderr
