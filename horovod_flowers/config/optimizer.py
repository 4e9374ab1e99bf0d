"""The options that say how weights follow gradients; checked here, as those of run.py."""

from dataclasses import dataclass
from typing import Literal

from horovod_flowers.config.options import Effect, check_limits, option
from horovod_flowers.runtime.errors import UserError

_PLATEAU_FACTOR = 0.1


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights follow gradients, and how the learning rate follows the global batch."""

    name: Literal["adam", "sgd"] = option("adam", "adam, or sgd with momentum", Effect.WORK)
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
        "(Malladi et al. 2022, for adam); auto chooses by optimizer",
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
    decay: Literal["none", "cosine"] = option(
        "none", "cosine: fall to zero over the epochs after warm-up", Effect.RECIPE
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

    def __post_init__(self) -> None:
        check_limits(self, "optimizer.")
        if self.plateau_epochs is not None and self.decay != "none":
            raise UserError(
                f"optimizer.plateau_epochs and decay {self.decay!r} are both given: let the learning rate follow the "
                "validation loss or a curve, not both"
            )
        if self.plateau_epochs is None and self.plateau_factor != _PLATEAU_FACTOR:
            raise UserError(
                "optimizer.plateau_factor needs --optimizer.plateau-epochs: add it, or leave out the factor"
            )
        if self.global_clipnorm is not None and self.clipnorm is not None:
            raise UserError(
                f"optimizer.global_clipnorm is {self.global_clipnorm} and optimizer.clipnorm is {self.clipnorm}: give "
                "one of them"
            )
