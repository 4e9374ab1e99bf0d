"""Tables of predictions, written row by row: CSV, JSON lines, Parquet."""

import contextlib
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from horovod_flowers.runtime.errors import UserError

DIGITS = 4
"""Of probabilities: coarse enough that rounding in other orders (another number of threads) does not show."""
_ROWS_A_GROUP = 10_000  # Parquet: rows held in memory at a time


@dataclass(frozen=True)
class Row:
    """What one photo was taken for."""

    photo: str
    class_name: str
    probability: float
    probabilities: Sequence[float]
    """Of every class, in the order of the model's classes."""


class Table(Protocol):
    """A file being written."""

    def write(self, row: Row) -> None:
        """Add a row."""
        ...


class CsvTable:
    """Columns photo, class, probability, and p_CLASS of every class."""

    def __init__(self, file: Any, class_names: Sequence[str]) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(columns(class_names))

    def write(self, row: Row) -> None:
        """Add a row."""
        numbers = (f"{value:.{DIGITS}f}" for value in (row.probability, *row.probabilities))
        self._writer.writerow((row.photo, row.class_name, *numbers))


class JsonLinesTable:
    """An object a line: photo, class, probability, and probabilities by class."""

    def __init__(self, file: Any, class_names: Sequence[str]) -> None:
        self._file, self._class_names = file, class_names

    def write(self, row: Row) -> None:
        """Add a row."""
        rounded = [round(value, DIGITS) for value in row.probabilities]
        line = {
            "photo": row.photo,
            "class": row.class_name,
            "probability": round(row.probability, DIGITS),
            "probabilities": dict(zip(self._class_names, rounded, strict=True)),
        }
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")


class ParquetTable:
    """The columns of the CSV, in groups of rows."""

    def __init__(self, writer: Any, schema: Any) -> None:
        self._writer, self._schema = writer, schema
        self._rows: list[tuple[Any, ...]] = []

    def write(self, row: Row) -> None:
        """Add a row."""
        numbers = (round(value, DIGITS) for value in (row.probability, *row.probabilities))
        self._rows.append((row.photo, row.class_name, *numbers))
        if len(self._rows) == _ROWS_A_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write the rows held."""
        import pyarrow as pa

        if self._rows:
            arrays = [
                pa.array(values, kind)
                for values, kind in zip(zip(*self._rows, strict=True), self._schema.types, strict=True)
            ]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
            self._rows = []


def columns(class_names: Sequence[str]) -> list[str]:
    """Of CSV and Parquet."""
    return ["photo", "class", "probability", *(f"p_{name}" for name in class_names)]


FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


def format_of(path: Path) -> str:
    """csv, jsonl or parquet, by the file's ending. Raises UserError for another one."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise UserError(f"output is {path}: allowed endings are {', '.join(FORMATS)}")
    return found


@contextlib.contextmanager
def table(path: Path, kind: str, class_names: Sequence[str]) -> Iterator[Table]:
    """Open a table of this kind to write; closed whole at the block's end."""
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = columns(class_names)
        schema = pa.schema([(name, pa.string() if name in names[:2] else pa.float32()) for name in names])
        with pq.ParquetWriter(path, schema) as writer:
            parquet = ParquetTable(writer, schema)
            yield parquet
            parquet.flush()
        return
    with open(path, "w", encoding="utf-8", newline="") as file:
        yield (CsvTable if kind == "csv" else JsonLinesTable)(file, class_names)
