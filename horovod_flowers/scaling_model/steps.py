"""The tasks of a strategy's step: the computing of a measured step (runlog/step_profile.py), cut where calls begin or
are waited for, and the calls that the strategy makes (strategy/step_calls.py).

The times of a profile are of one rank without communication. Sorted, their differences are the pieces of computing.
What differs from one rank's computing: a gradient from factors takes as many rows as all ranks have together, where all
of the kernel is updated; and an optimizer takes its time for the elements that a rank updates.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from horovod_flowers.config.choices import DIVIDING, StrategyName
from horovod_flowers.runlog.step_profile import ProfiledBatch
from horovod_flowers.scaling_model.step_tasks import Call, Part, RankGroup, Task
from horovod_flowers.strategy.step_calls import Members, Moment, StepCall, StepWeight


@dataclass(frozen=True)
class DividedStep:
    """How the ranks divide a step."""

    strategy: StrategyName
    ranks: int
    calls: Sequence[StepCall] = ()
    layers: Collection[int] = ()
    """Numbers of the kernels of Dense layers that are taken over."""
    group: int = 1
    """Ranks that divide one copy of them (tensor, mesh)."""

    @property
    def dividing(self) -> bool:
        """Whether activations travel within the passes."""
        return self.strategy in DIVIDING and self.group > 1

    def rank_group(self, members: Members) -> RankGroup:
        """The ranks of a call."""
        groups = {
            "all ranks": RankGroup(self.ranks),
            "group": RankGroup(self.group),
            "copies": RankGroup(self.ranks // self.group, self.group),
        }
        return groups[members]

    def updated_share(self, weights: Sequence[StepWeight]) -> float:
        """Of all elements, those that one rank updates."""
        parts = dict.fromkeys(self.layers, self.group if self.dividing else 1)
        if self.strategy == "sharded":
            divided = {number for call in self.calls if call.before == "end" for number in call.weights}
            parts = dict.fromkeys(divided, self.ranks)
        updated = sum(weight.elements / parts.get(number, 1) for number, weight in enumerate(weights))
        return updated / sum(weight.elements for weight in weights)


@dataclass(frozen=True)
class _Piece:
    """Computing up to a moment of a step."""

    seconds: float
    moment: Moment
    weight: int | None = None
    """Of a layer, its kernel; of a gradient, the weight."""


def _pieces(step: DividedStep, batch: ProfiledBatch) -> list[_Piece]:
    """The recorded moments in their order, each with the computing since the one before."""
    moments: list[tuple[float, int, Moment, int | None]] = [(batch.forward_seconds, 0, "end", None)]
    for dense in (dense for dense in batch.dense if dense.kernel in step.layers):
        moments.append((dense.input_ready_seconds, 1, "input", dense.kernel))
        moments.append((dense.output_ready_seconds, 2, "product", dense.kernel))
        moments.append((dense.output_gradient_ready_seconds, 3, "output gradient", dense.kernel))
        if dense.input_gradient_ready_seconds is not None:
            moments.append((dense.input_gradient_ready_seconds, 4, "input gradient", dense.kernel))
    for number, seconds in enumerate(batch.gradient_ready_seconds):
        moment: Moment = "kernel gradient" if number in step.layers else "gradients"
        moments.append((seconds, 5, moment, number))
    now, found = 0.0, []
    for seconds, _, moment, weight in sorted(moments, key=lambda each: each[:2]):
        found.append(_Piece(max(0.0, seconds - now), moment, weight))
        now = max(now, seconds)
    found.append(_Piece(max(0.0, batch.gradients_seconds - now), "gradients"))
    return _input_gradients_first(found) if step.dividing else found


def _input_gradients_first(pieces: Sequence[_Piece]) -> list[_Piece]:
    """A layer that is divided computes its inputs' gradient before its kernel's, while which that travels."""
    found = list(pieces)
    for piece in pieces:
        if piece.moment == "input gradient":
            kernel = next(each for each in pieces if each.moment == "kernel gradient" and each.weight == piece.weight)
            found.remove(kernel)
            found.insert(found.index(piece) + 1, kernel)
    return found


@dataclass
class _Builder:
    """The tasks, as far as they are there."""

    step: DividedStep
    tasks: list[Task] = field(default_factory=list)
    pending: float = 0.0
    """Computing that nothing has been made of yet."""
    gates: set[int] = field(default_factory=set)
    """Calls that all further computing of the passes waits for."""

    def compute(self, name: str, seconds: float, after: Iterable[int], part: Part = "passes") -> int:
        self.tasks.append(Task(name, tuple(sorted(set(after))), seconds, part=part))
        return len(self.tasks) - 1

    def passes(self, name: str, own_seconds: float, more: Iterable[int] = ()) -> int:
        """What is pending, and `own_seconds` that wait for `more` besides."""
        waits = list(more)
        if self.pending and waits:
            self.compute("passes", self.pending, self.gates)
            self.pending = 0.0
        done = self.compute(name, self.pending + own_seconds, [*self.gates, *waits])
        self.pending = 0.0
        return done

    def call(self, call: StepCall, after: Iterable[int]) -> int:
        made = Call(call.operation, call.bytes, self.step.rank_group(call.members))
        self.tasks.append(Task(f"{call.operation} after {call.after}", tuple(sorted(set(after))), call=made))
        return len(self.tasks) - 1

    def calls(self, after: Moment, kernel: int | None, done: Iterable[int]) -> list[int]:
        """Those that wait for a moment, of one layer or of all."""
        waits = list(done)
        of_layer = [call for call in self.step.calls if call.after == after and kernel in (None, *call.weights)]
        return [self.call(call, waits) for call in of_layer]


def step_tasks(step: DividedStep, weights: Sequence[StepWeight], batch: ProfiledBatch) -> list[Task]:
    """The tasks of one step with an update, in the order in which one rank computes.

    batch: the profile of steps with as many rows as a rank of `step` has.
    """
    build = _Builder(step)
    factors: dict[int, list[int]] = {kernel: [] for kernel in step.layers}
    ends: list[int] = []  # what the update waits for
    last_of = _last_of_each_call(step, batch)
    for piece in _pieces(step, batch):
        kernel = piece.weight
        if kernel in step.layers and kernel is not None:
            ends += _layer_piece(build, piece, kernel, factors)
        elif kernel in last_of:
            done = build.passes(f"gradient {kernel}", piece.seconds)
            ends += [done, *(build.call(call, [done]) for call in last_of[kernel])]
        else:
            build.pending += piece.seconds
    ends.append(build.passes("passes", 0.0))
    ends += build.calls("combined gradients", None, ends)
    share = step.updated_share(weights)
    updated = build.compute("update", batch.update_seconds * share, ends, "update")
    build.calls("update", None, [updated])
    return build.tasks


def _last_of_each_call(step: DividedStep, batch: ProfiledBatch) -> dict[int, list[StepCall]]:
    """The calls of gradients, by the weight whose gradient is there last."""
    found: dict[int, list[StepCall]] = {}
    for call in step.calls:
        if call.after == "gradients":
            last = max(call.weights, key=lambda number: batch.gradient_ready_seconds[number])
            found.setdefault(last, []).append(call)
    return found


def _layer_piece(build: _Builder, piece: _Piece, kernel: int, factors: dict[int, list[int]]) -> list[int]:
    """A moment of a layer that is taken over; gives what the update waits for."""
    dividing, moment, seconds = build.step.dividing, piece.moment, piece.seconds
    if moment == "kernel gradient":
        every_row = not dividing and build.step.strategy == "allreduce"
        own = seconds * build.step.ranks if every_row else seconds
        # What has just been sent back is for the layers before this one.
        back = {call for call in build.gates if build.tasks[call].name == "alltoall after input gradient"}
        build.gates -= back
        done = build.passes(f"kernel gradient {kernel}", own, factors[kernel])
        build.gates |= back
        return [done, *build.calls("kernel gradient", kernel, [done])]
    if dividing and moment == "input gradient":
        done = build.passes(f"input gradient {kernel}", seconds)
        build.gates |= set(build.calls(moment, kernel, [done]))
        return []
    if moment == "product" and not dividing:
        build.pending += seconds
        return []
    done = build.passes(f"{moment} {kernel}", seconds)
    made = build.calls(moment, kernel, [done])
    if dividing:
        build.gates |= set(made)
    else:
        factors[kernel] += made
    return []


def without_calls(tasks: Sequence[Task]) -> list[Task]:
    """The same computing, one task after the other, without anything to wait for."""
    return [replace(task, after=()) for task in tasks if task.call is None]
