"""The options that say how weights follow gradients; checked here, as those of run.py."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from horovod_flowers.config.keras_arguments import OPTIMIZER_ARGUMENTS, check_arguments
from horovod_flowers.config.options import Effect, check_limits, option
from horovod_flowers.runtime.errors import UserError

OptimizerName = Literal[
    "adam", "sgd", "adamw", "rmsprop", "nadam", "adagrad", "adadelta", "adamax", "adafactor", "ftrl", "lion", "lamb",
    "muon",
]  # fmt: skip
"""Keras' optimizers."""
Decay = Literal["none", "constant", "cosine", "exponential", "piecewise", "polynomial"]

TO_THE_END: tuple[Decay, ...] = ("cosine", "polynomial")
"""Curves that end with the last epoch, so that a run of more epochs is another training."""

_PLATEAU_FACTOR = 0.1
_DECAY_RATE = 0.1


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights follow gradients, and how the learning rate follows the global batch."""

    name: OptimizerName = option(
        "adam",
        "adam, sgd with momentum, or another of Keras' optimizers. A compiled model brings its own, unless one is "
        "given",
        Effect.WORK,
    )
    options: dict[str, Any] | None = option(
        None,
        "further arguments of that optimizer as Keras names them, such as --optimizer.options.beta_2 0.99, or a "
        "mapping: '{beta_2: 0.99, amsgrad: true}'",
        Effect.WORK,
        before=None,
    )
    learning_rate: float = option(
        0.001,
        "learning rate at a global batch of --optimizer.base-batch images",
        Effect.RECIPE,
        above=0,
        below=100,
        limits="give a positive number, such as 0.001",
    )
    base_batch: int = option(
        32,
        "global batch for which the learning rate is right without scaling",
        Effect.RECIPE,
        at_least=1,
        limits="give a positive number of images",
    )
    scaling: Literal["auto", "linear", "sqrt", "none"] = option(
        "auto",
        "how the learning rate grows with global batch / base batch: linear (Goyal et al. 2017, for sgd) or sqrt "
        "(Malladi et al. 2022, for adam and other adaptive ones); auto chooses by optimizer",
        Effect.RECIPE,
    )
    warmup_epochs: float = option(
        0.5,
        "epochs over which the learning rate rises from its unscaled to its scaled value; 0 turns it off",
        Effect.RECIPE,
        at_least=0,
        below=float("inf"),
        limits="give 0 or more epochs",
    )
    warmup_from_zero: bool = option(
        False,
        "warm up from zero, at any global batch, instead of from the unscaled rate where it is scaled",
        Effect.RECIPE,
        before=False,
    )
    plateau_epochs: int | None = option(
        None,
        "multiply the learning rate by --optimizer.plateau-factor after so many epochs without a lower validation loss",
        Effect.RECIPE,
        before=None,
        at_least=1,
    )
    plateau_factor: float = option(
        _PLATEAU_FACTOR,
        "what --optimizer.plateau-epochs multiplies by",
        Effect.RECIPE,
        before=0.1,
        above=0,
        below=1,
        limits="give a number between 0 and 1, such as 0.5",
    )
    decay: Decay = option(
        "none",
        "how the learning rate goes on after warm-up. none (or constant): it stays; cosine: it falls to zero over the "
        "epochs left; polynomial: so, too, along (1 - share done) ** --optimizer.decay-power; exponential: times "
        "--optimizer.decay-rate every --optimizer.decay-epochs, steadily; piecewise: times --optimizer.decay-rate "
        "after each of --optimizer.decay-epochs, in steps",
        Effect.RECIPE,
    )
    decay_epochs: str | None = option(
        None,
        "exponential: epochs over which the learning rate falls by --optimizer.decay-rate; piecewise: after how many "
        "epochs of the run it falls, separated by commas, such as 30,60",
        Effect.RECIPE,
        before=None,
    )
    decay_rate: float = option(
        _DECAY_RATE,
        "exponential and piecewise: what the learning rate is multiplied by",
        Effect.RECIPE,
        before=_DECAY_RATE,
        above=0,
        below=1,
        limits="give a number between 0 and 1, such as 0.1",
    )
    decay_power: float = option(
        1.0,
        "polynomial: its power; 1 is a straight line",
        Effect.RECIPE,
        before=1.0,
        above=0,
        below=100,
        limits="give a positive number, such as 1",
    )
    decay_end: float = option(
        0.0,
        "cosine and polynomial: share of the learning rate that they end at",
        Effect.RECIPE,
        before=0.0,
        at_least=0,
        below=1,
    )
    momentum: float = option(0.9, "momentum of sgd", Effect.WORK, at_least=0, below=1)
    weight_decay: float = option(
        0.0,
        "share of every kernel that an update takes away, times the learning rate (decoupled: Loshchilov and Hutter "
        "2019); biases and normalisation are left alone",
        Effect.WORK,
        before=0.0,
        at_least=0,
        below=1,
        limits="give 0 to below 1, such as 0.05",
    )

    global_clipnorm: float | None = option(
        None,
        "shorten the gradient of all weights together, that of the global batch, to this norm where it is longer "
        "(default: leave it)",
        Effect.WORK,
        before=None,
        above=0,
        below=float("inf"),
        limits="give a positive number, such as 1",
    )
    clipnorm: float | None = option(
        None,
        "shorten the gradient of each weight tensor apart to this norm where it is longer (default: leave it)",
        Effect.WORK,
        before=None,
        above=0,
        below=float("inf"),
        limits="give a positive number, such as 1",
    )
    clipvalue: float | None = option(
        None,
        "cut each element of the gradient of the global batch off at this absolute value (default: leave it)",
        Effect.WORK,
        before=None,
        above=0,
        below=float("inf"),
        limits="give a positive number, such as 0.5",
    )

    def __post_init__(self) -> None:
        if self.decay == "constant":  # two names for one thing would tell runs apart that are alike
            object.__setattr__(self, "decay", "none")
        check_limits(self, "optimizer.")
        check_arguments("optimizer.options", f"optimizer {self.name}", OPTIMIZER_ARGUMENTS[self.name], self.options)
        if self.name == "adamw" and not self.weight_decay:
            raise UserError(
                "optimizer.name is 'adamw', which is adam with weight decay, and optimizer.weight_decay is 0: add "
                "--optimizer.weight-decay, such as 0.004, which is Keras' default, or choose adam"
            )
        self._check_decay()
        if self.plateau_epochs is not None and self.decay != "none":
            raise UserError(
                f"optimizer.plateau_epochs and decay {self.decay!r} are both given: let the learning rate follow the "
                "validation loss or a curve, not both"
            )
        if self.plateau_epochs is None and self.plateau_factor != _PLATEAU_FACTOR:
            raise UserError(
                "optimizer.plateau_factor needs --optimizer.plateau-epochs: add it, or leave out the factor"
            )
        names = ("global_clipnorm", "clipnorm", "clipvalue")
        clips = [f"optimizer.{name} is {getattr(self, name)}" for name in names if getattr(self, name) is not None]
        if len(clips) > 1:
            raise UserError(f"{' and '.join(clips)}: give one of them")

    @property
    def decay_after_epochs(self) -> tuple[float, ...]:
        """The numbers of `decay_epochs`."""
        return tuple(float(word) for word in (self.decay_epochs or "").split(",") if word)

    def _check_decay(self) -> None:
        """Refuse a curve without what it needs, and what it does not use (UserError)."""
        used = {
            "decay_epochs": ("exponential", "piecewise"),
            "decay_rate": ("exponential", "piecewise"),
            "decay_power": ("polynomial",),
            "decay_end": TO_THE_END,
        }
        defaults = {"decay_epochs": None, "decay_rate": _DECAY_RATE, "decay_power": 1.0, "decay_end": 0.0}
        for name, curves in used.items():
            value = getattr(self, name)
            if value != defaults[name] and self.decay not in curves:
                raise UserError(
                    f"optimizer.{name} is {value} but decay {self.decay!r} does not use it: leave it out, or choose "
                    f"--optimizer.decay {' or '.join(curves)}"
                )
        if self.decay not in used["decay_epochs"]:
            return
        wanted = "an increasing list of positive numbers of epochs, such as 30,60"
        if self.decay == "exponential":
            wanted = "a positive number of epochs, such as 10"
        try:
            epochs = self.decay_after_epochs
        except ValueError:
            epochs = ()
        sound = all(each > 0 and math.isfinite(each) for each in epochs) and list(epochs) == sorted(set(epochs))
        if not epochs or not sound or (self.decay == "exponential" and len(epochs) > 1):
            raise UserError(
                f"optimizer.decay is {self.decay!r} and decay_epochs is {self.decay_epochs!r}: give "
                f"--optimizer.decay-epochs {wanted}"
            )
