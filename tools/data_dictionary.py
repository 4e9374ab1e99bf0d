"""Write the data dictionary of runs.csv into docs/report.md, from the columns' declaration.

    ./flowers run python tools/data_dictionary.py

tests/single/test_exports.py compares the two.
"""

import re
from pathlib import Path

from horovod_flowers.report.exports.run_columns import markdown_table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "report.md"
TABLE = re.compile(r"(?<=\n)\| column \| type \| unit \| meaning \|\n(\|.*\n)+")


def written(page: str) -> str:
    """The page with the table as it is declared."""
    found, count = TABLE.subn(lambda _: markdown_table(), page)
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} tables of columns, not one")
    return found


def main() -> None:
    """Write it."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
