"""The options of the microbenchmark."""

from dataclasses import dataclass, field
from typing import Literal

from horovod_flowers.collectives.timing import UNTIMED_CALLS
from horovod_flowers.config.options import option
from horovod_flowers.config.run import HorovodConfig
from horovod_flowers.runtime.errors import UserError


@dataclass(frozen=True)
class MicrobenchmarkConfig:
    """Options of the microbenchmark."""

    output: str = option("microbenchmark.json", "file to write")
    largest_mb: int = option(64, "largest message in MB; each size is four times the one before, from 1 KB")
    repetitions: int = option(15, f"timed calls of each size, after {UNTIMED_CALLS} more")
    threads: int = option(1, "cores of each rank; 0: as many as its share of the node's cores")
    bind: Literal["auto", "none"] = option("auto", "auto: pin each rank to its share of the node's cores")
    horovod: HorovodConfig = field(default_factory=HorovodConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.largest_mb <= 1024:
            raise UserError(f"largest_mb is {self.largest_mb}: give 1 to 1024")
        if self.repetitions < 3:
            raise UserError(f"repetitions is {self.repetitions}: give at least 3")
        if self.threads < 0:
            raise UserError(f"threads is {self.threads}: give 0 or a positive whole number")
