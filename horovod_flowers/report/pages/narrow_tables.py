"""Tables that a phone shows as cards: each cell gets the name of its column, which the style sheet puts before it."""

import html
import re

_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
_HEADER = re.compile(r"<th[^>]*>(.*?)</th>", re.DOTALL)
_ROW = re.compile(r"<tr>.*?</tr>", re.DOTALL)
_CELL = re.compile(r"<td((?:\s[^>]*)?)>")
_SPAN = re.compile(r'colspan="(\d+)"')


def with_column_names(page: str) -> str:
    """The page of the report; words of runs are escaped in it, and look like no tag."""
    return _TABLE.sub(lambda found: _named(found[0]), page)


def _named(table: str) -> str:
    head, found, body = table.partition("</thead>")
    if not found:
        return table
    names = [html.unescape(re.sub(r"<[^>]*>", "", name)).strip() for name in _HEADER.findall(head)]
    return head + found + _ROW.sub(lambda row: _row(row[0], names), body)


def _row(row: str, names: list[str]) -> str:
    columns = iter(names)

    def cell(found: re.Match[str]) -> str:
        name = next(columns, "")
        span = _SPAN.search(found[1])
        for _ in range(int(span[1]) - 1 if span else 0):
            next(columns, "")
        return f'<td{found[1]} data-label="{html.escape(name)}">' if name and not span else f"<td{found[1]}>"

    return _CELL.sub(cell, row)
