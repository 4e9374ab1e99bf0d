"""The record of what a machine computes at most: large matrix products, timed on all ranks of a job at once.

RUNS/.peaks/POINT.json    of the points of a study; schema: docs/run-log.md. No TensorFlow here.
"""

import math
from pathlib import Path
from typing import Annotated

import msgspec

from horovod_flowers.runlog.field_types import Positive, Seconds
from horovod_flowers.runlog.record_file import read_record, write_record

SCHEMA = 1


class TimedProducts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Products of two square matrices, one on each rank, begun together."""

    precision: str
    """As of runs: fp32, bf16 or fp16."""
    size: Positive
    """Rows and columns of the matrices."""
    products: Positive
    """That each rank computes in one timing, one after the other."""
    seconds: Annotated[list[Seconds], msgspec.Meta(min_length=1)]
    """Of the slowest rank, a number a timing."""

    @property
    def flops_per_second(self) -> float:
        """Of each rank, in the fastest timing: 2 n^3 operations a product. Infinite where the clock saw nothing."""
        fastest = min(self.seconds)
        return 2.0 * self.size**3 * self.products / fastest if fastest > 0 else math.inf


class MachinePeak(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the ranks of one job reached, and on what."""

    schema: int
    world_size: Positive
    hosts: list[str]
    """Node names, in the order of their ranks."""
    ranks_per_node: Annotated[list[Positive], msgspec.Meta(min_length=1)]
    """Of each of `hosts`."""
    cpu_models: list[str | None]
    """Of each of `hosts`."""
    cpu_features: list[list[str]]
    """Of each of `hosts`, as in a run's environment."""
    gpus: list[str | None]
    """Of each rank: its model, null without one."""
    threads: Positive
    """Of each rank."""
    physical_cores: Positive
    """Of the rank with the fewest."""
    oversubscribed: bool
    """Whether any two ranks shared a core: nothing is a peak then."""
    versions: dict[str, str]
    started_utc: str
    command: list[str]
    measured: Annotated[list[TimedProducts], msgspec.Meta(min_length=1)]

    def flops_per_second(self, precision: str) -> float | None:
        """Of each rank while all compute: the most of any size; None where that precision was not measured."""
        found = [each.flops_per_second for each in self.measured if each.precision == precision]
        finite = [each for each in found if math.isfinite(each)]
        return max(finite, default=None)


def peak_file(runs_dir: Path, point: str) -> Path:
    """Where a study keeps the record of a point."""
    return runs_dir / ".peaks" / f"{point}.json"


def write_peak(path: Path, record: MachinePeak) -> None:
    """Write the record, whole or not at all."""
    write_record(path, record)


def read_peak(path: Path) -> MachinePeak:
    """Read and check a record. Raises FileNotFoundError, or UserError where it is damaged or of another schema."""
    return read_record(path, MachinePeak, SCHEMA)
