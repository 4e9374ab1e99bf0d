"""Draw docs/architecture.svg from the order of rooms in pyproject.toml and their docstrings.

    ./flowers run python tools/architecture.py

The same order that import-linter holds (`[tool.importlinter]`); tests/single/test_architecture.py compares the picture.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"
WIDTH, MARGIN, GAP, LINE, HEADING = 1000, 20, 12, 15, 24
CHARACTER = 5.9
"""Width of a character of the descriptions, in pixels."""
COMMANDS_A_ROW = 5

TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" font-family="sans-serif">
<title>The rooms of horovod_flowers: each imports from the rooms below it only</title>
<rect width="{{ width }}" height="{{ height }}" fill="#ffffff"/>
{%- for box in boxes %}
<rect x="{{ box.x }}" y="{{ box.y }}" width="{{ box.width }}" height="{{ box.height }}" rx="5" \
fill="{{ box.colour }}" stroke="#4a5568"/>
<text x="{{ box.x + 10 }}" y="{{ box.y + 19 }}" font-size="14" font-weight="bold">{{ box.name|e }}</text>
{%- for line in box.lines %}
<text x="{{ box.x + 10 }}" y="{{ box.y + 22 + line_height * loop.index }}" font-size="11">{{ line|e }}</text>
{%- endfor %}
{%- endfor %}
<text x="{{ width / 2 }}" y="{{ height - 8 }}" font-size="12" text-anchor="middle">\
Imports go down only. Rooms side by side do not import each other.</text>
</svg>
"""


@dataclass(frozen=True)
class Box:
    """A room or a command, placed."""

    name: str
    lines: list[str]
    x: float
    y: float
    width: float
    height: float
    colour: str


def floors() -> list[list[str]]:
    """The rooms, the highest first, as import-linter's layers declare them."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = [c["layers"] for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    return [[name.strip() for name in layer.split("|")] for layer in layers]


def purpose(room: str) -> str:
    """The first line of a room's docstring, without its full stop."""
    path = ROOT / "horovod_flowers" / room / "__init__.py"
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.splitlines()[0].rstrip(".")


def placed() -> list[Box]:
    """Every box of the picture; commands without a description, since their names say it."""
    boxes, y = list[Box](), MARGIN
    commands, *rooms = floors()
    rows = [commands[start : start + COMMANDS_A_ROW] for start in range(0, len(commands), COMMANDS_A_ROW)]
    for row in [*rows, *rooms]:
        is_command = row in rows
        width = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row)
        wrapped = [[] if is_command else textwrap.wrap(purpose(name), int((width - 20) / CHARACTER)) for name in row]
        height = HEADING + 8 + LINE * max(map(len, wrapped))
        for place, (name, lines) in enumerate(zip(row, wrapped, strict=True)):
            shown = name if is_command else f"{name}/"
            x, colour = MARGIN + place * (width + GAP), "#e6f0fa" if is_command else "#f7f7f2"
            boxes.append(Box(shown, lines, round(x, 1), y, round(width, 1), height, colour))
        y += height + GAP
    return boxes


def picture() -> str:
    """The SVG file's contents."""
    boxes = placed()
    height = max(box.y + box.height for box in boxes) + GAP + 2 * LINE
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(TEMPLATE)
    return template.render(boxes=boxes, width=WIDTH, height=height, line_height=LINE) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
