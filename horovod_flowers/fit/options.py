"""What `distribute` takes beside the model and the strategy."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from horovod_flowers.config.run import RunConfig
from horovod_flowers.runtime.errors import UserError


@dataclass(frozen=True)
class Options:
    """Further arguments of `distribute`."""

    shard_above: int = RunConfig().shard_above
    """Dense layers of at least so many weights count as large (tensor, mesh)."""
    shard_layers: str | None = None
    """Names of the Dense layers that tensor and mesh divide, with commas between them; None: all large ones."""
    model_parallel_size: int | None = None
    """Ranks that share one copy of the divided layers (mesh), a divisor of all; None: those of a node."""
    dense_gradients: Literal["auto", "reduced", "factors"] = "auto"
    """How gradients of large Dense layers are combined (allreduce, sharded): 'reduced', as they are; 'factors', their
    inputs and output gradients are gathered and multiplied on arrival; 'auto', whichever sends fewer bytes."""
    compression: Literal["none", "fp16"] = "none"
    """Number format in which gradients travel (allreduce)."""
    equal_seeds: str | Sequence[str] = ()
    """Names of layers, with * and ?, whose random numbers are the same on every rank; those of others differ."""

    @property
    def names_of_equal_seeds(self) -> list[str]:
        """As they are compared with names of layers. Raises UserError where they are none."""
        given: Any = self.equal_seeds
        names = [given] if isinstance(given, str) else list(given) if isinstance(given, Sequence) else [given]
        if not all(isinstance(name, str) for name in names):
            raise UserError(f"equal_seeds is {self.equal_seeds!r}: give names of layers, such as ('mask', 'noise_*')")
        return names

    def __post_init__(self) -> None:
        _ = self.names_of_equal_seeds
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if name == "equal_seeds":
                continue
            if get_origin(kind) is Literal:
                if value not in get_args(kind):
                    raise UserError(f"{name} is {value!r}: one of {', '.join(get_args(kind))}")
            elif not isinstance(value, kind) or isinstance(value, bool):
                words = {int: "a whole number", str: "a string"}
                allowed = [words[each] for each in words if isinstance(each(), kind)]
                raise UserError(f"{name} is {value!r}: give {' or '.join(allowed)}, or leave it out")

    def of_run(self, strategy: str) -> RunConfig:
        """As the options of the train command. Raises UserError where the strategy cannot use one of them."""
        given: dict[str, Any] = asdict(self)
        del given["equal_seeds"]
        try:
            return RunConfig(strategy=strategy, **given)  # type: ignore[arg-type]
        except UserError as error:
            raise UserError(as_arguments(str(error))) from error


def as_arguments(sentence: str) -> str:
    """With what `distribute` takes in place of flags of the train command."""
    return re.sub(r"--([a-z-]+)", lambda found: found[1].replace("-", "_"), sentence)
