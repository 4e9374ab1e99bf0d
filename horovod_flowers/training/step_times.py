"""How long the timed steps of this process took, kept for what is said at the end of a run."""

from array import array

from horovod_flowers.runlog.records import StepRecord
from horovod_flowers.runlog.step_spread import Spread


class StepTimes:
    """Eight bytes a step: of a million steps eight megabytes."""

    def __init__(self) -> None:
        self._total, self._work = array("f"), array("f")

    def add(self, record: StepRecord) -> None:
        """Take in a step, unless it is warm-up."""
        if not record.warmup:
            self._total.append(record.total_ns / 1e9)
            self._work.append((record.total_ns - record.communication_ns) / 1e9)

    @property
    def total(self) -> Spread:
        """Of whole steps."""
        return Spread.of(self._total)

    @property
    def work(self) -> Spread:
        """Of this rank's own work in them: without its waiting for others."""
        return Spread.of(self._work)
