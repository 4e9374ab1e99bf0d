"""Records as JSON: files of one record, and lines that are appended. Readers check every record against its type."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from horovod_flowers.runlog.older_schemas import brought_up_to_date
from horovod_flowers.runlog.records import READABLE_SCHEMAS, SCHEMA
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.files import sync_descriptor, write_whole, writing

Structure = TypeVar("Structure")


def _cut_torn_line(path: Path) -> None:
    """Remove a last line without its end, left by a rank that died while writing: a resumed run writes on behind it."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        contents = file.read()
        file.truncate(contents.rfind(b"\n") + 1)


class LineLog:
    """Appends records as JSON lines, one write each: a crash costs at most the line being written."""

    def __init__(self, path: Path, durable: bool = False) -> None:
        """durable: each record is on storage before `write` returns."""
        self._path, self._durable = path, durable
        _cut_torn_line(path)
        with writing(path):
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed in close)
        self._encode = msgspec.json.Encoder().encode

    def write(self, record: msgspec.Struct) -> None:
        """Append one record. Raises StorageError where there is no room for it."""
        line = self._encode(record) + b"\n"
        with writing(self._path):
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, "a record was written in part only")
            if self._durable:
                sync_descriptor(self._file.fileno())

    def sync(self) -> None:
        """Force what was written to storage."""
        with writing(self._path):
            sync_descriptor(self._file.fileno())

    def close(self) -> None:
        """Force what was written to storage; nothing is written after it."""
        self.sync()
        self._file.close()


def write_json(path: Path, record: msgspec.Struct) -> None:
    """Write one record as an indented JSON file, whole or not at all."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(record), indent=1).decode() + "\n")


def read_json(path: Path, kind: type[Structure]) -> Structure:
    """Read and check one record. Raises FileNotFoundError, or UserError where it is damaged or of another schema."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a file")  # a named pipe would never end
    contents = path.read_bytes()
    try:
        found = msgspec.json.decode(contents)
        if isinstance(found, dict) and found.get("schema") in READABLE_SCHEMAS[:-1]:
            contents = msgspec.json.encode(brought_up_to_date(found, kind))
        record: Any = msgspec.json.decode(contents, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged or from another version ({error})") from error
    _check_schema(path, record)
    return record


def read_lines(path: Path, kind: Any) -> Iterator[Any]:
    """Read and check a file of JSON lines. A last line without its end (the writer died) is left out.

    Raises UserError naming the line that is damaged.
    """
    decode = msgspec.json.Decoder(kind).decode
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise UserError(f"{path}, line {number}, is damaged or from another version ({error})") from error
            _check_schema(path, record)
            yield record


def _check_schema(path: Path, record: Any) -> None:
    schema = getattr(record, "schema", SCHEMA)
    if schema not in READABLE_SCHEMAS:
        raise UserError(
            f"{path} has run-log schema {schema}, this version reads {READABLE_SCHEMAS[0]} to {SCHEMA}: use the "
            "version that wrote it"
        )
