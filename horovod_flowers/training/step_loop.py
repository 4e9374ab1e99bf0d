"""The steps of one epoch on one rank: batch, step, record, sums, one after the other."""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from horovod_flowers.data.batches import Batch, Prefetcher
from horovod_flowers.emulation.gauge import CoreReading, RankGauge
from horovod_flowers.runlog.json_lines import LineLog
from horovod_flowers.runlog.training_progress import TrainingProgress
from horovod_flowers.runtime.console import Steps
from horovod_flowers.runtime.heartbeat import HEARTBEAT
from horovod_flowers.training.engine import TrainingEngine
from horovod_flowers.training.health import BadLoss
from horovod_flowers.training.step import Update
from horovod_flowers.training.step_times import StepTimes


class StepClock:
    """Monotonic time of an epoch's steps. A step begins where the one before ended, or where a pause did."""

    def __init__(self) -> None:
        self._started_ns = self.previous_ns = time.monotonic_ns()
        self._paused_ns = 0

    def step_ended(self, end_ns: int) -> None:
        """A step ended, at that time."""
        self.previous_ns = end_ns

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A block that is no part of any step; it counts from the end of the last one."""
        yield
        now_ns = time.monotonic_ns()
        self._paused_ns += now_ns - self.previous_ns
        self.previous_ns = now_ns

    @property
    def seconds(self) -> float:
        """Up to the end of the last step, without pauses."""
        return (self.previous_ns - self._started_ns - self._paused_ns) / 1e9


@dataclass
class EpochSums:
    """What one rank, or all of them, add up over the steps of an epoch."""

    steps: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0
    seconds: float = 0.0
    learning_rate: float = 0.0
    metric_sums: tuple[float, ...] = ()
    """Of a compiled model's metrics, over all ranks; of one rank alone they are in the metrics."""
    checkpoint_seconds: float = 0.0
    """Of this rank, waiting for checkpoints in the middle of the epoch; no part of `seconds`."""
    stopped_by: str | None = None
    """The signal after which all ranks stopped in the middle of the epoch."""
    clock: StepClock = field(default_factory=StepClock)


AfterUpdate = Callable[[EpochSums, int], None]
"""Called with this rank's sums and the next step's number after each update of the weights but the epoch's last; it
ends the loop by setting `stopped_by`."""


class StepLoop:
    """Runs and records this rank's steps."""

    def __init__(
        self,
        engine: TrainingEngine,
        bad_loss: Callable[[BadLoss], None],
        read_cores: Callable[[], CoreReading] | None = None,
    ) -> None:
        """`bad_loss`: called where the loss of this rank's images is not a finite number; `read_cores`: called before
        the timed steps of each epoch, where it is measured how long this rank waits for cores."""
        self._engine, self._bad_loss, self._read_cores = engine, bad_loss, read_cores
        self._reading: CoreReading | None = None
        self.gauges: list[RankGauge] = []
        """Of the timed steps of each epoch, where they are measured."""
        self._steps_here = 0  # steps of this process: its first ones are warm-up
        self.times = StepTimes()
        self.reached = 0
        """The first step of the run that this process has not done."""

    def run(self, epoch: int, progress: TrainingProgress, log: LineLog, after_update: AfterUpdate) -> EpochSums:
        """The steps of an epoch that are left, up to its end or until `after_update` stops: this rank's sums."""
        engine, done = self._engine, progress.steps_into_epoch
        left = engine.steps_per_epoch - done
        batches = itertools.islice(engine.batches(epoch, done), left)
        label = f"epoch {epoch}/{engine.config.epochs}"
        with Prefetcher(batches) as ready, Steps(label, left, "steps", muted=engine.ranks.rank != 0) as bar:
            sums = EpochSums()
            HEARTBEAT.at("reading the first batch of epoch {}", epoch)
            for place, batch in enumerate(ready, done):
                step = progress.steps_done + place
                update = engine.update_of(place)
                loss_sum = self._train(epoch, step, batch, update, sums, log)
                if self._reading is not None and place + 1 == engine.steps_per_epoch:
                    self.gauges.append(self._reading.until_now())
                    self._reading = None
                if not math.isfinite(loss_sum):
                    where = f"{label}, step {place + 1} of {engine.steps_per_epoch}"
                    self._bad_loss(BadLoss.of(engine.ranks, step, where, loss_sum, batch))
                bar.advance(detail=f"loss {sums.loss_sum / sums.images:.3f}" if sums.images else "")
                # Not after the last step: the epoch's end comes first.
                if update.last and place + 1 < engine.steps_per_epoch:
                    after_update(sums, step + 1)
                    if sums.stopped_by is not None:
                        break
                    HEARTBEAT.at("reading the batch after step {} of epoch {}", step, epoch)
        return sums

    def _train(self, epoch: int, step: int, batch: Batch, update: Update, sums: EpochSums, log: LineLog) -> float:
        """One step, recorded and added to the sums: the sum of the losses of its images."""
        engine, clock, batch_ns = self._engine, sums.clock, time.monotonic_ns()
        sums.learning_rate = engine.learning_rate(step)
        traces = self._steps_here < engine.config.accumulate  # a graph for all of an update, one for its end
        HEARTBEAT.at("step {} of epoch {}", step, epoch, long=traces)
        warmup = self._steps_here < engine.config.warmup_steps
        if self._read_cores is not None and self._reading is None and not warmup:
            self._reading = self._read_cores()
        outcome = engine.step(batch, sums.learning_rate, update)
        HEARTBEAT.at("the record of step {} of epoch {}", step, epoch)
        record = outcome.record(epoch, step, batch.rank_images, warmup, clock.previous_ns, batch_ns)
        log.write(record)
        self.times.add(record)
        HEARTBEAT.at("reading the batch after step {} of epoch {}", step, epoch)
        clock.step_ended(outcome.end_ns)
        self._steps_here += 1
        self.reached = step + 1
        sums.steps += 1
        sums.seconds = clock.seconds
        sums.loss_sum += outcome.loss_sum
        sums.correct += outcome.correct
        sums.images += batch.rank_images
        return outcome.loss_sum
