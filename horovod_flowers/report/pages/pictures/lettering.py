"""Names in any script: drawn in a font that has their letters, or transliterated where none is installed."""

import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from rich.cells import cell_len, set_cell_size

from horovod_flowers.runtime.console import warn

OWN_FONT = "DejaVu Sans"
"""That matplotlib brings: Latin, Greek, Cyrillic, Arabic, Hebrew and more."""
_SANS = ("noto sans", "source han sans", "wenquanyi", "droid sans", "ipa", "takao", "nanum", "unifont")
"""Beginnings of names of fonts that go with it, and have many letters."""


def shortened(name: str, cells: int) -> str:
    """At most so many columns wide: letters of some scripts are two wide."""
    return name if cell_len(name) <= cells else f"{set_cell_size(name, cells - 1).rstrip()}…"


def letter(figure: Figure) -> None:
    """Choose fonts for what a figure says, and spell out what none of them has. Says so once."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        families, spelled = _drawable(text.get_text())
        if families:
            text.set_fontfamily(families)
        if spelled != text.get_text():
            text.set_text(spelled)
    for axes in figure.axes:
        for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
            labels = [label.get_text() for label in axis.get_ticklabels()]
            found = [_drawable(label) for label in labels]
            if any(spelled != label for label, (_, spelled) in zip(labels, found, strict=True)):
                # Ticks get their texts anew whenever they are drawn: their labels have to be other ones.
                axis.set_ticks(axis.get_ticklocs(), [spelled for _, spelled in found])
            families = list(dict.fromkeys(family for families, _ in found for family in families))
            if families:
                axes.tick_params(axis=name, labelfontfamily=families)  # type: ignore[arg-type]


@cache
def _drawable(text: str) -> tuple[list[str], str]:
    """Families to draw a text with, none where the usual one has all letters; and the text, spelled out if need be."""
    lacking = {ord(sign) for sign in text if not sign.isspace()} - _letters_of(_own_path())
    if not lacking:
        return [], text
    families = [OWN_FONT]
    for family, path in _installed():
        if not lacking:
            break
        there = lacking & _letters_of(path)
        if there:
            families.append(family)
            lacking -= there
    if lacking:
        _tell_lacking()
        text = "".join(_spelled(sign) if ord(sign) in lacking else sign for sign in text)
    return families, text


def _own_path() -> str:
    return font_manager.findfont(OWN_FONT)


def _installed() -> Iterator[tuple[str, str]]:
    """Family and file of the regular fonts of this machine, the likely ones first."""
    fonts = {font.name: font.fname for font in font_manager.fontManager.ttflist if font.style == "normal"}
    regular = {
        font.name: font.fname
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and font.weight in (400, "normal", "regular")
    }
    chosen = fonts | regular
    return iter(sorted(chosen.items(), key=lambda item: (not item[0].lower().startswith(_SANS), item[0])))


@cache
def _letters_of(path: str) -> frozenset[int]:
    """Code points that a font draws; none of one that cannot be read, or has pictures for letters."""
    try:
        return frozenset(FT2Font(path).get_charmap()) if Path(path).is_file() else frozenset()
    except (RuntimeError, OSError, ValueError):
        return frozenset()


@cache
def _tell_lacking() -> None:
    warn(
        "no font of this machine has some letters of the names in pictures, which are spelled out there: install one "
        "that has them, such as the package fonts-noto-cjk"
    )


def _spelled(sign: str) -> str:
    """A letter by its Unicode name (HIRAGANA LETTER HA: ha), an ideograph by its number."""
    name = unicodedata.name(sign, "")
    for kind in ("LETTER SMALL ", "LETTER ", "SYLLABLE ", "VOWEL SIGN "):
        _, found, sound = name.partition(kind)
        if found and sound.isascii() and sound.replace("-", "").isalpha():
            return sound.lower()
    plain = unicodedata.normalize("NFKD", sign)
    own = _letters_of(_own_path())
    if plain != sign and all(ord(part) in own for part in plain):
        return plain
    return f"U+{ord(sign):04X}"
