"""What a prediction starts from: the work, the ways to divide it, and what runs of it took."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from horovod_flowers.config.choices import DIVIDING, StrategyName
from horovod_flowers.runlog.records import CommunicationVolume
from horovod_flowers.strategy.call_contents import MOST_BYTES

Scaling = Literal["strong", "weak"]


@dataclass(frozen=True)
class Setting:
    """A strategy with the options that change its calls."""

    strategy: StrategyName
    group: int | None = None
    """Ranks that divide one copy of the large Dense layers (mesh); None: all, or does not apply."""
    dense_gradients: Literal["auto", "reduced", "factors"] = "auto"
    compression: Literal["none", "fp16"] = "none"

    @property
    def label(self) -> str:
        """Such as 'mesh, G=8'."""
        words: list[str] = [self.strategy]
        words += [f"G={self.group}"] if self.group is not None else []
        words += [self.dense_gradients] if self.dense_gradients != "auto" else []
        words += [self.compression] if self.compression != "none" else []
        return ", ".join(words)

    def group_of(self, ranks: int) -> int:
        """Ranks that divide one copy of the large layers, of so many."""
        if self.strategy not in DIVIDING:
            return 1
        return ranks if self.group is None else self.group


@dataclass(frozen=True)
class Workload:
    """What is computed in a step, whatever the number of ranks."""

    scaling: Scaling
    batch: int
    """Images of a step over all ranks (strong), or of each rank (weak)."""
    precision: str = "fp32"
    shard_above: int = 1_000_000
    """Weights of a Dense layer from which on it counts as large."""
    shard_layers: tuple[str, ...] | None = None
    """Names of the layers to divide instead."""
    fuses_tensors: bool = False
    """Whether Horovod may fuse calls over more than two ranks."""
    parameters: int | None = None
    """Trained ones of the model: all that is known of its gradients where no profile and no runs tell more."""
    call_bytes: float = MOST_BYTES
    """Of a call for several gradients, then."""
    images: float | None = None
    """Of the whole training: for core-hours."""
    cores_per_rank: float = 1.0
    gpus_per_rank: float = 0.0

    def rows(self, ranks: int) -> int:
        """Images of a step on the rank that has the most."""
        return -(-self.batch // ranks) if self.scaling == "strong" else self.batch

    def images_of_step(self, ranks: int) -> int:
        """Over all ranks."""
        return self.batch if self.scaling == "strong" else self.batch * ranks

    @property
    def value_bytes(self) -> int:
        """Of an activation on its way."""
        return 2 if self.precision == "bf16" else 4


@dataclass(frozen=True)
class MeasuredStep:
    """Runs of one setting on one number of ranks, their medians; seconds of a step."""

    setting: Setting | None
    """None on one rank."""
    ranks: int
    step_seconds: float
    """Of the slowest rank."""
    compute_seconds: float
    """Forward and backward pass, and the communication hidden behind them; as all parts, mean over ranks."""
    update_seconds: float
    input_seconds: float
    work_seconds: Sequence[float] = ()
    """A sample of single ranks' own work in single steps: what varies makes the others wait."""
    volume: Sequence[CommunicationVolume] | None = None
    """That each rank sends."""
    ranks_per_node: int = 1

    @property
    def several_nodes(self) -> bool:
        """Whether the ranks were on more than one."""
        return self.ranks > self.ranks_per_node

    @property
    def exposed_seconds(self) -> float:
        """Of the step, beyond computing: communication that is not hidden, and waiting for slower ranks."""
        return max(0.0, self.step_seconds - self.compute_seconds - self.update_seconds - self.input_seconds)
