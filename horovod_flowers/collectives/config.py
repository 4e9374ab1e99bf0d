"""The options of the microbenchmark."""

from dataclasses import dataclass, field
from typing import Literal

from horovod_flowers.collectives.timing import UNTIMED_CALLS
from horovod_flowers.config.choices import PRECISION_CHOICES, PrecisionChoice
from horovod_flowers.config.options import MOST_THREADS, check_limits, option
from horovod_flowers.config.run import HorovodConfig
from horovod_flowers.runtime.errors import UserError


@dataclass(frozen=True)
class MicrobenchmarkConfig:
    """Options of the microbenchmark."""

    output: str = option("microbenchmark.json", "file to write")
    measure: Literal["collectives", "peak"] = option(
        "collectives",
        "collectives: what collective calls cost; peak: what all ranks together compute at most, by large matrix "
        "products (on one rank, too)",
    )
    precisions: str = option(
        "auto", f"of the peak: {', '.join(PRECISION_CHOICES)}, separated by commas; auto: as train would choose"
    )
    largest_mb: int = option(
        64,
        "largest message in MB; each size is four times the one before, from 1 KB",
        at_least=1,
        at_most=1024,
        limits="give 1 to 1024",
    )
    repetitions: int = option(15, f"timed calls of each size, after {UNTIMED_CALLS} more", at_least=3)
    threads: int = option(
        1, "cores of each rank; 0: as many as its share of the node's cores", at_least=0, at_most=MOST_THREADS
    )
    bind: Literal["auto", "none"] = option("auto", "auto: pin each rank to its share of the node's cores")
    horovod: HorovodConfig = field(default_factory=HorovodConfig)

    def __post_init__(self) -> None:
        check_limits(self)
        _ = self.chosen_precisions

    @property
    def chosen_precisions(self) -> list[PrecisionChoice]:
        """Those of the peak, each once. Raises UserError."""
        words = dict.fromkeys(word.strip() for word in self.precisions.split(","))
        for word in words:
            if word not in PRECISION_CHOICES:
                raise UserError(
                    f"precisions names {word!r}: allowed are {', '.join(PRECISION_CHOICES)}, separated by commas"
                )
        return [choice for word in words for choice in PRECISION_CHOICES if choice == word]
