"""A record that is a file by itself, with a schema of its own: written whole, and checked as it is read."""

from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.files import write_whole


class HasSchema(Protocol):
    """A record that says which version of its fields it has."""

    @property
    def schema(self) -> int:
        """From 1."""


Record = TypeVar("Record", bound=HasSchema)


def write_record(path: Path, record: msgspec.Struct) -> None:
    """Write it, whole or not at all."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(record), indent=1).decode() + "\n")


def read_record(
    path: Path, kind: type[Record], schema: int, name: str = "", if_damaged: str = "", if_older: str = ""
) -> Record:
    """Read it. Raises FileNotFoundError, or UserError where it is damaged or of another schema than this.

    name: what the file is called in the sentence, before its path; if_damaged, if_older: what to do, behind it.
    """
    try:
        record = msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(f"{name}{path} is damaged or from another version ({error}){if_damaged}") from error
    if record.schema != schema:
        raise UserError(f"{name}{path} has schema {record.schema}, this version reads {schema}{if_older}")
    return record
