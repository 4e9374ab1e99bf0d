"""The record of measured collective calls: what `python -m horovod_flowers.microbenchmark` writes. No TensorFlow here.

RUNS/.collectives/POINT.json    of the points of a study; schema: docs/run-log.md
"""

from pathlib import Path
from typing import Annotated

import msgspec

from horovod_flowers.runlog.emulation import CoreGauge, Emulation
from horovod_flowers.runlog.record_file import read_record, write_record
from horovod_flowers.runlog.records import Operation, Seconds

SCHEMA = 1


class MeasuredCalls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Timed calls of one operation with one size of message."""

    operation: Operation
    bytes: Annotated[int, msgspec.Meta(ge=1)]
    """The larger side of the call on each rank: its input, but of an allgather the result."""
    seconds: list[Seconds]
    """Of the slowest rank, a number a call, in the order of the calls."""


class Collectives(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What collective calls took over some ranks, and on what."""

    schema: int
    world_size: Annotated[int, msgspec.Meta(ge=2)]
    hosts: list[str]
    """Node names, in the order of their ranks."""
    cpu_models: list[str | None]
    """Of each of `hosts`."""
    threads: Annotated[int, msgspec.Meta(ge=1)]
    """Of each rank."""
    oversubscribed: bool
    """Whether any two ranks shared a core: the times are not a measure of speed then."""
    yield_when_idle: bool
    horovod_settings: dict[str, str]
    """As in a run's environment."""
    versions: dict[str, str]
    started_utc: str
    command: list[str]
    measured: list[MeasuredCalls]
    reduction_bytes_per_second: Annotated[float, msgspec.Meta(gt=0)]
    """Of the result of adding up two fp32 arrays in memory: of the slowest rank while all do it, median over calls."""
    timestamp_seconds: Seconds
    """What one timestamp inside a step's graph costs."""
    mpi_settings: dict[str, str] = {}
    """As in a run's environment."""
    emulated: Emulation | None = None
    """What was emulated; null where all was real."""
    core_gauge: CoreGauge | None = None
    """Of an emulated measurement: whether its times are one."""

    def calls(self, operation: Operation) -> tuple[list[int], list[float]]:
        """Bytes and seconds of every timed call of an operation, in the order in which they were made."""
        rows = [row for row in self.measured if row.operation == operation]
        sizes = [row.bytes for row in rows for _ in row.seconds]
        return sizes, [seconds for row in rows for seconds in row.seconds]


def collectives_file(runs_dir: Path, point: str) -> Path:
    """Where a study keeps the record of a point."""
    return runs_dir / ".collectives" / f"{point}.json"


def write_collectives(path: Path, record: Collectives) -> None:
    """Write the record, whole or not at all."""
    write_record(path, record)


def read_collectives(path: Path) -> Collectives:
    """Read and check a record. Raises FileNotFoundError, or UserError where it is damaged or of another schema."""
    return read_record(path, Collectives, SCHEMA)
