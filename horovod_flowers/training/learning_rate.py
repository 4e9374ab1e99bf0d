"""The learning rate: scaled with the global batch, warmed up, optionally decayed."""

import math
from dataclasses import dataclass

from horovod_flowers.config.optimizer import OptimizerConfig


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the step."""

    begin: float
    """Where warm-up climbs from."""
    peak: float
    warmup_steps: int
    total_steps: int
    cosine: bool

    def at(self, step: int) -> float:
        """Learning rate of step 0, 1, 2, ...

        Warm-up is linear to the scaled rate, from the unscaled one (Goyal et al. 2017, section 2.2, 'gradual warmup')
        or from zero; the cosine falls from the scaled rate to zero over the remaining steps (Loshchilov and Hutter
        2017, eq. 5, without restarts).
        """
        if step < self.warmup_steps:
            return self.begin + (self.peak - self.begin) * (step + 1) / self.warmup_steps
        if not self.cosine:
            return self.peak
        remaining = max(1, self.total_steps - self.warmup_steps)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - self.warmup_steps) / remaining)))


def scale_factor(config: OptimizerConfig, global_batch: int) -> float:
    """How much larger the learning rate is at this global batch than at the base batch.

    Linear (Goyal et al. 2017, section 2.1) keeps the expected update of SGD an epoch; the square root (Malladi et al.
    2022, section 5) is the rule for adaptive optimizers.
    """
    ratio = global_batch / config.base_batch
    rule = config.scaling
    if rule == "auto":
        rule = "sqrt" if config.name == "adam" else "linear"
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
        cosine=config.decay == "cosine",
    )
