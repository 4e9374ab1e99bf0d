"""The options of runs that sleep for as long as a measured step took, instead of computing it (docs/emulation.md)."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from horovod_flowers.config.emulated_network import MOST_SHRINK
from horovod_flowers.config.options import Effect, check_limits, flag_of, option
from horovod_flowers.runtime.errors import UserError


@dataclass(frozen=True)
class EmulateConfig:
    """Runs that compute nothing: they sleep for what a step was measured to take, and really communicate.

    Their figures are marked 'emulated' wherever they appear.
    """

    profile: str | None = option(
        None,
        "a step that python -m horovod_flowers.step_profile has measured, of this model, batch and precision: sleep "
        "for its parts instead of computing them. Nothing is learned, validated or kept",
        Effect.WORK,
        before=None,
    )
    shrink: float | None = option(
        None,
        "divide what ranks send by this, for a network that is as much slower than what it stands for (default: that "
        "of the emulated network, else 1)",
        Effect.SPEED,
        before=None,
        at_least=1,
        at_most=MOST_SHRINK,
    )

    def __post_init__(self) -> None:
        check_limits(self, "emulate.")
        if self.shrink is not None and self.profile is None:
            raise UserError("emulate.shrink is given without --emulate.profile: add it, or leave out --emulate.shrink")


_NOT_EMULATED = (
    "elastic",
    "replay_step",
    "accumulate",
    "average_decay",
    "early_stopping",
    "checkpoint_steps",
    "tensorboard",
    "optimizer.plateau_epochs",
    "model.weights",
)
"""Options of a run that an emulated one cannot follow, which has neither weights that mean something nor images."""


def check_emulated(config: Any, defaults: Mapping[str, Any]) -> None:
    """Refuse what an emulated run cannot do (UserError). config: the run's; defaults: of its options, by name."""
    # --resume-or-start goes on with a run that is complete, and does nothing.
    resumed = () if config.resume_or_start else ("resume",)
    for name in (*resumed, *_NOT_EMULATED):
        if attrgetter(name)(config) != defaults[name]:
            raise UserError(
                f"{name} and emulate.profile are both given, and an emulated run learns nothing and keeps nothing: "
                f"leave out {flag_of(name)}"
            )
    if config.steps is not None and config.steps * config.epochs <= config.warmup_steps:
        raise UserError(
            f"steps is {config.steps}, of which the first {config.warmup_steps} are not timed (warmup_steps), and an "
            "emulated run has nothing but its times: give more --steps, or fewer --warmup-steps"
        )
