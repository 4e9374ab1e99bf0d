"""The learning rate: scaled with the global batch, warmed up, optionally decayed; or by a schedule of Keras'."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from horovod_flowers.config.optimizer import OptimizerConfig


class LearningRate(Protocol):
    """Of each step of a run."""

    def at(self, step: int) -> float:
        """Learning rate of step 0, 1, 2, ..."""
        ...


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the step."""

    begin: float
    """Where warm-up climbs from."""
    peak: float
    warmup_steps: int
    total_steps: int
    decay: str = "none"
    end: float = 0.0
    """Share of the peak that cosine and polynomial end at."""
    power: float = 1.0
    rate: float = 1.0
    after_steps: tuple[float, ...] = ()
    """exponential: the steps over which the rate falls to `rate` times itself; piecewise: the steps of the run from
    which on it is so much lower, increasing."""

    def at(self, step: int) -> float:
        """Learning rate of step 0, 1, 2, ...

        Warm-up is linear to the scaled rate, from the unscaled one (Goyal et al. 2017, section 2.2, 'gradual warmup')
        or from zero; the cosine falls from the scaled rate to zero over the remaining steps (Loshchilov and Hutter
        2017, eq. 5, without restarts). The others are Keras' PolynomialDecay, ExponentialDecay and
        PiecewiseConstantDecay.
        """
        if step < self.warmup_steps:
            return self.begin + (self.peak - self.begin) * (step + 1) / self.warmup_steps
        since = step - self.warmup_steps
        if self.decay == "exponential":
            return self.peak * float(self.rate ** (since / self.after_steps[0]))
        if self.decay == "piecewise":
            return self.peak * float(self.rate ** sum(step >= after for after in self.after_steps))
        if self.decay not in ("cosine", "polynomial"):
            return self.peak
        done = min(1.0, since / max(1, self.total_steps - self.warmup_steps))
        if self.decay == "polynomial":
            return self.peak * ((1 - self.end) * float((1 - done) ** self.power) + self.end)
        falling = self.peak * 0.5 * (1 + math.cos(math.pi * done))
        return falling if not self.end else falling * (1 - self.end) + self.peak * self.end


@dataclass(frozen=True)
class KerasSchedule:
    """A keras.optimizers.schedules.LearningRateSchedule, which counts updates of the weights."""

    schedule: Callable[[Any], Any]
    steps_per_epoch: int
    accumulate: int
    """Steps of an update; an epoch's last one may have fewer."""

    def at(self, step: int) -> float:
        """Learning rate of the update that step 0, 1, 2, ... belongs to."""
        epoch, place = divmod(step, self.steps_per_epoch)
        updates = epoch * math.ceil(self.steps_per_epoch / self.accumulate) + place // self.accumulate
        return float(self.schedule(updates))


def scale_factor(config: OptimizerConfig, global_batch: int) -> float:
    """How much larger the learning rate is at this global batch than at the base batch.

    Linear (Goyal et al. 2017, section 2.1) keeps the expected update of SGD an epoch; the square root (Malladi et al.
    2022, section 5) is the rule for adaptive optimizers.
    """
    ratio = global_batch / config.base_batch
    rule = config.scaling
    if rule == "auto":
        rule = "linear" if config.name == "sgd" else "sqrt"
    return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[rule]


def schedule(config: OptimizerConfig, global_batch: int, steps_per_epoch: int, epochs: int) -> Schedule:
    """The schedule of a run."""
    factor = scale_factor(config, global_batch)
    # From the unscaled rate, a batch at or below the base batch has nothing to warm up to.
    warms_up = factor > 1 or config.warmup_from_zero
    warmup = round(config.warmup_epochs * steps_per_epoch) if warms_up else 0
    return Schedule(
        begin=0.0 if config.warmup_from_zero else config.learning_rate,
        peak=config.learning_rate * factor,
        warmup_steps=warmup,
        total_steps=epochs * steps_per_epoch,
        decay=config.decay,
        end=config.decay_end,
        power=config.decay_power,
        rate=config.decay_rate,
        after_steps=tuple(epochs * steps_per_epoch for epochs in config.decay_after_epochs),
    )
