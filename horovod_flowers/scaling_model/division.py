"""How a setting divides a step over so many ranks, and the tasks of that step: from a profile, or from runs alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from horovod_flowers.config.choices import DIVIDING
from horovod_flowers.runlog.records import CommunicationVolume
from horovod_flowers.runlog.step_profile import ProfiledBatch, StepProfile
from horovod_flowers.scaling_model.measured_steps import MeasuredStep, Setting, Workload
from horovod_flowers.scaling_model.step_tasks import Call, RankGroup, Task
from horovod_flowers.scaling_model.steps import DividedStep, step_tasks
from horovod_flowers.strategy.call_contents import MOST_BYTES
from horovod_flowers.strategy.communication_volume import DenseShape
from horovod_flowers.strategy.step_calls import StepWeight, kernels_by_factors, large_kernels, step_calls

RANKS_THAT_FUSE = 2
"""Up to so many ranks Horovod fuses what is ready at the same time (ranks/startup.py)."""
FORWARD_SHARE = 1 / 3
"""Of the passes, where no profile tells: a backward pass takes the operations of two forward passes (Hernandez and
Brown 2020, arXiv 2005.04305, section 2)."""


class CannotDivideError(Exception):
    """A setting does not exist for a number of ranks; the text says why."""


def weights_of(profile: StepProfile) -> list[StepWeight]:
    """The weights of a profiled model, as calls depend on them."""
    rows_per_image = {dense.kernel: dense.rows_per_image for dense in profile.batches[0].dense}
    return [
        StepWeight(
            weight.elements,
            DenseShape(weight.shape[0], weight.shape[1], rows_per_image[number]) if number in rows_per_image else None,
            weight.whole is not None,
        )
        for number, weight in enumerate(profile.weights)
    ]


def divide(setting: Setting, ranks: int, work: Workload, profile: StepProfile) -> DividedStep:
    """The step of a profiled model. Raises CannotDivideError with a reason."""
    weights = weights_of(profile)
    group = setting.group_of(ranks)
    check_group(setting, ranks)
    rows = work.rows(ranks)
    large = _large(profile, weights, work)
    layers: list[int] = []
    if setting.strategy in DIVIDING:
        layers = _to_divide(profile, weights, large, group, work)
    elif setting.strategy in ("allreduce", "sharded") and setting.compression == "none":
        large = large_kernels(weights, work.shard_above)
        layers = kernels_by_factors(
            weights, large, images=rows, ranks=ranks, dense_gradients=setting.dense_gradients,
            factor_value_bytes=work.value_bytes, rows_only=setting.strategy == "sharded",
        )  # fmt: skip
        if setting.dense_gradients == "factors" and not layers:
            raise CannotDivideError(f"the model has no Dense layer of {work.shard_above:,} weights or more")
    packs = ranks > RANKS_THAT_FUSE and not work.fuses_tensors
    calls = step_calls(
        setting.strategy, weights, ranks=ranks, images=rows, layers=layers, group=group,
        factor_value_bytes=work.value_bytes,
        gradient_value_bytes=2 if setting.compression == "fp16" else 4,
        packs_bytes=MOST_BYTES if packs else 0,
        clips_by_norm=profile.clips_by_norm,
    )  # fmt: skip
    return DividedStep(setting.strategy, ranks, calls, layers, group)


def check_group(setting: Setting, ranks: int) -> None:
    """Raise CannotDivideError where the groups of a mesh do not fill the ranks."""
    if not is_a_mesh_there(setting, ranks):
        raise CannotDivideError(f"groups of {setting.group_of(ranks)} do not divide {ranks} ranks into several")


def is_a_mesh_there(setting: Setting, ranks: int) -> bool:
    """Whether so many ranks make several groups of a mesh; true of what is no mesh."""
    group = setting.group_of(ranks)
    return setting.strategy != "mesh" or (ranks % group == 0 and group < ranks)


def _large(profile: StepProfile, weights: Sequence[StepWeight], work: Workload) -> list[int]:
    if work.shard_layers is None:
        return large_kernels(weights, work.shard_above)
    names = {dense.layer: dense.kernel for dense in profile.batches[0].dense}
    return [names[name] for name in work.shard_layers if name in names]


def _to_divide(
    profile: StepProfile, weights: Sequence[StepWeight], large: Sequence[int], group: int, work: Workload
) -> list[int]:
    if not large:
        raise CannotDivideError(f"the model has no Dense layer of {work.shard_above:,} weights or more to divide")
    for kernel in large:
        layer = weights[kernel].layer
        if layer is not None and layer.inputs < group:
            name = next(dense.layer for dense in profile.batches[0].dense if dense.kernel == kernel)
            raise CannotDivideError(
                f"Dense layer {name} has {layer.inputs} inputs, too few to divide over {group} ranks"
            )
    return list(large)


def profiled_tasks(step: DividedStep, profile: StepProfile, batch: ProfiledBatch) -> list[Task]:
    """The tasks of a step, by the times of a batch of its rows."""
    return step_tasks(step, weights_of(profile), batch)


@dataclass(frozen=True)
class _Entry:
    """Calls of one kind, carried to another number of ranks."""

    operation: str
    calls: list[Call]


def volume_at(measured: MeasuredStep, ranks: int, work: Workload) -> list[CommunicationVolume]:
    """What a setting sends over `ranks`, from what it sends over those that were measured.

    Gradients and weights stay as large as they are; activations grow with the rows of a rank, and with the ranks where
    those of all come together. Raises CannotDivideError where the volume was not recorded.
    """
    setting = measured.setting
    if measured.volume is None or setting is None:
        raise CannotDivideError("what its steps send was not recorded")
    check_group(setting, ranks)
    rows = work.rows(ranks) / work.rows(measured.ranks)
    before, now = setting.group_of(measured.ranks), setting.group_of(ranks)
    found = []
    for entry in measured.volume:
        size = entry.bytes_sent / sent_share(entry.operation, entry.ranks)
        over = ranks
        if setting.strategy in DIVIDING:
            of_weights = entry.operation == "allreduce"
            if not of_weights:
                over = now
                size *= rows if entry.operation == "alltoall" else rows * now / before
            elif entry.ranks != measured.ranks:
                over = ranks // now
        elif entry.operation == "alltoall":
            size *= rows
        elif entry.operation == "allgather" and setting.strategy == "allreduce":
            size *= rows * ranks / measured.ranks
        sent = sent_share(entry.operation, over) * size
        found.append(CommunicationVolume(operation=entry.operation, ranks=over, calls=entry.calls, bytes_sent=sent))
    return found


def gradient_volume(parameters: int, call_bytes: float, ranks: int) -> list[CommunicationVolume]:
    """Of fp32 gradients that are averaged in full calls."""
    size = 4 * parameters
    calls = max(1, math.ceil(size / call_bytes))
    sent = sent_share("allreduce", ranks) * size
    return [CommunicationVolume(operation="allreduce", ranks=ranks, calls=calls, bytes_sent=sent)]


def sent_share(operation: str, ranks: int) -> float:
    """Of the larger side, what a rank sends in a call."""
    return (2 if operation == "allreduce" else 1) * (ranks - 1) / ranks


def calls_of_volume(setting: Setting, ranks: int, volume: Sequence[CommunicationVolume]) -> list[_Entry]:
    """The calls, all of one kind alike."""
    found = []
    for entry in volume:
        if entry.ranks < 2 or not entry.calls:
            continue
        group = setting.group_of(ranks)
        across = setting.strategy in DIVIDING and entry.ranks != ranks and entry.operation == "allreduce"
        members = RankGroup(entry.ranks, group if across else 1)
        size = entry.bytes_sent / sent_share(entry.operation, entry.ranks) / entry.calls
        found.append(_Entry(entry.operation, [Call(entry.operation, size, members)] * entry.calls))
    return found


def unprofiled_tasks(setting: Setting, entries: Sequence[_Entry], passes: float, update: float) -> list[Task]:
    """The tasks of a step of which nobody recorded when its gradients are there: evenly over the backward pass.

    Calls of activations stand between the passes, where nothing hides them.
    """
    activations = [
        call for entry in entries for call in entry.calls
        if setting.strategy in DIVIDING and entry.operation != "allreduce"
    ]  # fmt: skip
    after = [
        call for entry in entries for call in entry.calls
        if setting.strategy == "sharded" and entry.operation == "allgather"
    ]  # fmt: skip
    gradients = [call for entry in entries for call in entry.calls if call not in activations and call not in after]
    tasks = [Task("forward", (), passes * FORWARD_SHARE)]
    gate = 0
    for call in activations:
        tasks.append(Task(f"{call.operation} of activations", (gate,), call=call))
        gate = len(tasks) - 1
    pieces = max(1, len(gradients))
    ends = []
    for number in range(pieces):
        tasks.append(Task("backward", (gate,), passes * (1 - FORWARD_SHARE) / pieces))
        ends.append(len(tasks) - 1)
        if gradients:
            tasks.append(Task(f"{gradients[number].operation} of gradients", (ends[-1],), call=gradients[number]))
            ends.append(len(tasks) - 1)
    tasks.append(Task("update", tuple(ends), update, part="update"))
    updated = len(tasks) - 1
    tasks += [Task(f"{call.operation} of weights", (updated,), call=call) for call in after]
    return tasks
