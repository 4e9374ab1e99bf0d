"""All that training changes in a model and its optimizer, as whole tensors by name, whatever the ranks hold of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from horovod_flowers.checkpoint.format import AVERAGE, OPTIMIZER, PER_RANK, WEIGHT
from horovod_flowers.model.keras_internals import made_to_be_trained, slot_owners
from horovod_flowers.ranks.communicator import Communicator
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.strategy.allreduce import OneRank
from horovod_flowers.strategy.interface import Strategy
from horovod_flowers.strategy.layout import Groups, Part


@dataclass(frozen=True)
class _Held:
    variable: Any
    part: Part


class ModelState:
    """Names: `weight.NNNN` in the order of the model's variables as it was built, `average.NNNN` the running average of
    that weight, `optimizer.NNNN` in the order of the optimizer's variables. The same under every strategy at every
    number of ranks. `apart.NAME` stands beside those that each rank has its own of in the middle of an epoch."""

    def __init__(self, model: Any, strategy: Strategy) -> None:
        """Take the model as built; hands it to the strategy to adopt."""
        built, trained = list(model.variables), list(model.trainable_variables)
        self._initial = [np.asarray(variable) for variable in built]
        self._strategy = strategy
        strategy.attach(model)
        place = {id(variable): number for number, variable in enumerate(trained)}
        self._held: dict[str, _Held] = {}
        self._trained = [number for number, variable in enumerate(built) if id(variable) in place]
        moved_by_training = {*place, *made_to_be_trained(model)}  # or frozen: nothing to average, and much to send
        self._statistics = {
            number: variable
            for number, variable in enumerate(built)
            if id(variable) not in moved_by_training and np.dtype(variable.dtype).kind == "f"
        }
        for number, variable in enumerate(built):
            if (trained_as := place.get(id(variable))) is None:
                held = _Held(variable, Part(tuple(variable.shape)))
            else:
                held = _Held(strategy.optimizer_variables[trained_as], strategy.parts[trained_as])
            self._held[f"{WEIGHT}.{number:04d}"] = held

    @staticmethod
    def on_one_rank(model: Any, optimizer: Any | None = None) -> "ModelState":
        """The state of a model on a single rank; of its weights only where no optimizer is given."""
        state = ModelState(model, OneRank(Groups()))
        if optimizer is not None:
            optimizer.build(model.trainable_variables)
            state.add_optimizer(optimizer)
        return state

    def add_optimizer(self, optimizer: Any) -> None:
        """Take in an optimizer that was built over the strategy's variables.

        Raises UserError where ranks hold parts of weights and it keeps something else of them than such parts.
        """
        weights, parts = self._strategy.optimizer_variables, self._strategy.parts
        divided = any(part.slices is not None for part in parts)
        owners = slot_owners(optimizer, len(weights))
        for number, (variable, weight) in enumerate(zip(optimizer.variables, owners, strict=True)):
            shape = tuple(variable.shape)
            part = Part(shape)
            if weight is not None and shape == tuple(weights[weight].shape):
                part = parts[weight]
            elif divided and (weight is None or parts[weight].slices is not None) and shape != ():
                raise UserError(
                    f"optimizer {type(optimizer).__name__} keeps {variable.path}, of shape {shape}, of which nobody "
                    "knows how it is divided with the weights: choose --strategy allreduce, or another optimizer"
                )
            self._held[f"{OPTIMIZER}.{number:04d}"] = _Held(variable, part)

    @property
    def statistics(self) -> list[Any]:
        """What training moves without gradients, such as batch-normalisation statistics; counters are left out."""
        return list(self._statistics.values())

    def add_average(self, averages: Sequence[Any]) -> None:
        """Take in running averages: of each of the strategy's updated variables, then of all statistics or none."""
        parts = [*self._strategy.parts, *(Part(tuple(variable.shape)) for variable in self.statistics)]
        numbers = [*self._trained, *self._statistics]
        if len(averages) == len(self._trained):
            numbers, parts = self._trained, self._strategy.parts
        for number, variable, part in zip(numbers, averages, parts, strict=True):
            self._held[f"{AVERAGE}.{number:04d}"] = _Held(variable, part)

    @property
    def layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of the whole tensors."""
        return {name: (held.part.shape, np.dtype(held.variable.dtype)) for name, held in self._held.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the whole tensors."""
        return {name: held.part.shape for name, held in self._held.items()}

    @property
    def optimizer_bytes(self) -> int:
        """That this rank keeps of the optimizer's state."""
        mine = (np.dtype(h.variable.dtype).itemsize * int(np.prod(h.variable.shape)) for h in self._of(OPTIMIZER))
        return sum(mine)

    def _of(self, kind: str) -> list[_Held]:
        return [held for name, held in self._held.items() if name.startswith(kind)]

    def collect(self, into: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray] | None:
        """Whole tensors, on rank 0, in its arrays where it gives some of this `layout`; None elsewhere.

        Every rank calls it.
        """
        groups = self._strategy.groups
        whole: dict[str, np.ndarray] = {}
        if groups.at_root:
            whole.update(into or {name: np.empty(shape, kind) for name, (shape, kind) in self.layout.items()})
        for name, held in self._held.items():
            groups.collect(held.part, _view(held.variable), whole.get(name))
        return whole if groups.at_root else None

    def collect_per_rank(self) -> dict[str, np.ndarray] | None:
        """What each rank has its own of between two steps of an epoch, [ranks, ...] on rank 0; None elsewhere.

        Statistics move without gradients and are averaged at the end of an epoch only. Every rank calls it.
        """
        world = self._strategy.groups.world
        if world.size == 1:
            return {}
        names = [f"{kind}.{number:04d}" for kind in (WEIGHT, AVERAGE) for number in self._statistics]
        own = {name: np.array(_view(self._held[name].variable)) for name in names if name in self._held}
        gathered = world.gather(own)
        if gathered is None:
            return None
        return {f"{PER_RANK}.{name}": np.stack([rank[name] for rank in gathered]) for name in own}

    def held_here(self) -> dict[str, np.ndarray]:
        """What this rank holds, by name: whole tensors with the strategies that keep all weights on every rank."""
        return {name: np.asarray(held.variable) for name, held in self._held.items()}

    def share(self, stored: Mapping[str, np.ndarray] | None) -> None:
        """Give every rank its parts of what rank 0 has: `stored`, else the weights that it was built with.

        Every rank calls it before the first step; all but rank 0 with None.
        """
        groups = self._strategy.groups
        initial = {f"{WEIGHT}.{number:04d}": value for number, value in enumerate(self._initial)}
        self._initial = []
        source = {**initial, **(stored or {})} if groups.at_root else {}
        has_optimizer = stored is not None and any(name.startswith(OPTIMIZER) for name in stored)
        has_optimizer = groups.world.broadcast(has_optimizer)
        for name, held in self._held.items():
            if name.startswith((OPTIMIZER, AVERAGE)) and not has_optimizer:
                continue  # counters and moments begin at zero everywhere, averages with the weights
            value = groups.hand_out(held.part, source.get(name), np.dtype(held.variable.dtype))
            held.variable.assign(value.reshape(held.variable.shape))
        if groups.world.size > 1:
            self._share_per_rank(groups.world, stored or {})
        self._strategy.gather_weights()

    def _share_per_rank(self, world: Communicator, stored: Mapping[str, np.ndarray]) -> None:
        """Give each rank back what it had of its own, where as many ranks as then go on; else all have the mean."""
        apart = world.broadcast({name: value for name, value in stored.items() if name.startswith(PER_RANK)})
        for name, value in apart.items():
            held = self._held.get(name.removeprefix(f"{PER_RANK}."))
            if held is not None and value.shape == (world.size, *held.part.shape):
                held.variable.assign(value[world.rank])


def _view(variable: Any) -> np.ndarray:
    """A variable's values as they are, without a copy; an update that comes while they are looked at makes one."""
    return np.asarray(variable.value.read_value())
