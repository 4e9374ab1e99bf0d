"""Names in any script: a font that has their letters where one is installed, else spelled out, never a raw warning."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from fontTools.fontBuilder import FontBuilder  # type: ignore[import-untyped]
from fontTools.pens.ttGlyphPen import TTGlyphPen  # type: ignore[import-untyped]
from matplotlib import font_manager
from matplotlib.figure import Figure

from horovod_flowers.report.pages.pictures import lettering
from horovod_flowers.report.pages.pictures.picture import rendered

NAMES = ["蒲公英", "ひまわり", "꽃", "Rosé", "गुलाब"]


@pytest.fixture(autouse=True)
def own_fonts_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine where no other font is installed; nothing remembered of other tests."""
    own = [font for font in font_manager.fontManager.ttflist if font.name == lettering.OWN_FONT]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    for remembered in (lettering._drawable, lettering._tell_lacking):
        remembered.cache_clear()
    yield
    for remembered in (lettering._drawable, lettering._tell_lacking):
        remembered.cache_clear()


def font(path: Path, letters: str, family: str = "Flowers Sans") -> None:
    """A font that draws a square for each of these letters."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    square = pen.glyph()
    glyphs = [".notdef", *(f"uni{ord(letter):04X}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({ord(letter): f"uni{ord(letter):04X}" for letter in letters})
    builder.setupGlyf(dict.fromkeys(glyphs, square))
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWeightClass=400)
    builder.setupPost()
    builder.save(path)
    font_manager.fontManager.addfont(path)


def figure() -> Figure:
    drawn, axes = plt.subplots()
    axes.set_xticks(range(len(NAMES)), NAMES)
    axes.set_title(NAMES[0])
    drawn.suptitle("run 花")
    return drawn


def ticks(drawn: Figure) -> list[str]:
    return [label.get_text() for label in drawn.axes[0].get_xticklabels()]


def test_without_a_font_names_are_spelled_out(capsys: pytest.CaptureFixture[str]) -> None:
    drawn = figure()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rendered(iter([("a", "", "", drawn), ("b", "", "", figure())]))
    assert ticks(drawn) == ["U+84B2U+516CU+82F1", "himawari", "ggoc", "Rosé", "gaulaaaba"]
    assert drawn.axes[0].get_title() == "U+84B2U+516CU+82F1"
    said = capsys.readouterr().err
    assert said.count("no font of this machine has some letters") == 1
    assert "fonts-noto-cjk" in said


def test_an_installed_font_that_has_the_letters_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    font(tmp_path / "flowers.ttf", "".join(sorted(set("".join(NAMES)) - set("Rosé"))) + "花")
    drawn = figure()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (picture,) = rendered(iter([("a", "", "", drawn)]))
    assert ticks(drawn) == NAMES
    assert drawn.axes[0].title.get_fontfamily() == [lettering.OWN_FONT, "Flowers Sans"]
    assert drawn.axes[0].get_xticklabels()[0].get_fontfamily() == [lettering.OWN_FONT, "Flowers Sans"]
    assert picture.svg
    assert capsys.readouterr().err == ""


def test_names_that_latin_letters_can_write_are_left_alone() -> None:
    assert lettering._drawable("Rosé Ёлка Ελιά <tag> $x$") == ([], "Rosé Ёлка Ελιά <tag> $x$")


@pytest.mark.parametrize(
    ("name", "cells", "short"),
    [
        ("daisy", 5, "daisy"),
        ("a_name_without_any_space", 10, "a_name_wi…"),  # which would be … alone, broken at spaces
        ("two words", 6, "two w…"),
        ("蒲公英蒲公英", 6, "蒲公…"),
    ],
)
def test_long_names_keep_their_beginning(name: str, cells: int, short: str) -> None:
    assert lettering.shortened(name, cells) == short
