"""The record of a measured training step on one rank: what `python -m horovod_flowers.step_profile` writes.

When each gradient is computed, what an update takes, and how much that varies, without any communication: what a
prediction for many ranks starts from, and what an emulated run sleeps for. No TensorFlow here.

RUNS/.step_profiles/NAME.json    of a study; schema: docs/run-log.md
"""

import math
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any

import msgspec

from horovod_flowers.config.choices import Precision
from horovod_flowers.runlog.field_types import Count, Positive, Seconds
from horovod_flowers.runlog.record_file import read_record, write_record
from horovod_flowers.runtime.errors import UserError

SCHEMA = 1
LONGEST_SECONDS = 86_400.0
"""Of a step: an emulated run sleeps for it."""


class ProfiledWeight(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trainable weight of the model."""

    path: str
    """As Keras names it, such as dense/kernel."""
    shape: list[Positive]
    """Empty of a scalar."""
    elements: Positive
    dense: bool
    """Whether it is the kernel of a Dense layer that a strategy may take over (`ProfiledBatch.dense` has its times)."""
    whole: str | None = None
    """Why each rank has to have all of it, such as 'constraint MaxNorm'; null where ranks may update parts of it."""


class ProfiledDense(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When what goes into a Dense layer and comes out of it was there: seconds from the begin of the step, medians."""

    kernel: Count
    """Its number among the weights."""
    layer: str
    """Its name, as --shard-layers takes it."""
    rows_per_image: Positive
    """1, or the positions of a sequence."""
    input_ready_seconds: Seconds
    output_ready_seconds: Seconds
    output_gradient_ready_seconds: Seconds
    input_gradient_ready_seconds: Seconds | None
    """Null where nothing before the layer is trained."""


class ProfiledBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Steps with one per-rank batch. A step begins when its batch is there; reading it is no part of it."""

    rows: Positive
    """Images of a step on a rank."""
    step_seconds: Annotated[list[Seconds], msgspec.Meta(min_length=1)]
    """Of each timed step, in their order, which shows how much they vary. Nothing but the step's own timestamps is in
    its way; the times below, which need more of them, are scaled to the median of these."""
    forward_seconds: Seconds
    """From the begin of the step until the loss was there, as all that follows a median over steps."""
    gradient_ready_seconds: list[Seconds]
    """From the begin of the step until each weight's gradient was computed, in the order of the weights."""
    gradients_seconds: Seconds
    """From the begin of the step until all gradients were computed."""
    update_seconds: Seconds
    """From then until the weights were updated, which ends the step."""
    dense: list[ProfiledDense]
    """In the order of the forward pass."""


class StepProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What steps took on one rank, and of what."""

    schema: int
    model: str
    """As --model.name has it."""
    options: dict[str, Any]
    """Of the run, by dotted names: those that decide what a step computes (docs/run-log.md)."""
    classes: Positive
    precision: Precision
    threads: Positive
    """Of the rank."""
    clips_by_norm: bool
    """Whether an update needs the norms of whole gradients."""
    synchronised: list[str]
    """Names of layers of batch normalisation that see the images of all ranks."""
    weights: list[ProfiledWeight]
    """The trainable ones, in the model's order."""
    non_trainable_elements: Count
    batches: Annotated[list[ProfiledBatch], msgspec.Meta(min_length=1)]
    """One for each per-rank batch that was measured."""
    timestamp_seconds: Seconds
    """What one timestamp inside a step's graph costs."""
    host: str
    cpu_model: str | None
    gpu: str | None
    versions: dict[str, str]
    started_utc: str
    command: list[str]

    @property
    def elements(self) -> int:
        """Of all trainable weights."""
        return sum(weight.elements for weight in self.weights)

    def batch_of(self, rows: int) -> ProfiledBatch | None:
        """The steps with that per-rank batch, where it was measured."""
        return next((batch for batch in self.batches if batch.rows == rows), None)


def step_profile_file(runs_dir: Path, name: str) -> Path:
    """Where a study keeps the profile of that name."""
    return runs_dir / ".step_profiles" / f"{name}.json"


def write_step_profile(path: Path, record: StepProfile) -> None:
    """Write the record, whole or not at all."""
    write_record(path, record)


def read_step_profile(path: Path) -> StepProfile:
    """Read and check a record.

    Raises FileNotFoundError, or UserError where it is damaged, of another schema, or contradicts itself.
    """
    again = ": delete it, and measure it again"
    record = read_record(path, StepProfile, SCHEMA, "step profile ", if_damaged=again, if_older=again)
    if (wrong := _contradiction(record)) is not None:
        raise UserError(f"step profile {path} contradicts itself ({wrong}){again}")
    return record


_MEASURED = ("batches", "timestamp_seconds", "host", "started_utc", "command")
"""Fields that two measurements of the same work may differ in."""


def extended(before: StepProfile, more: StepProfile, path: Path) -> StepProfile:
    """The record `before` with the batches of another one of the same work; the largest batch comes first.

    What else differs (when, by which command) is kept as it was before. Raises UserError where they are of different
    work, or of different processors or versions; path: of `before`, for the sentence.
    """
    for name in StepProfile.__struct_fields__:
        if name not in _MEASURED and getattr(before, name) != getattr(more, name):
            raise UserError(
                f"step profile {path} differs in {name} from what is measured now, which cannot be added to it: "
                "measure all batches into another file (--output)"
            )
    batches = sorted([*before.batches, *more.batches], key=lambda batch: -batch.rows)
    return msgspec.structs.replace(before, batches=batches)


def _contradiction(record: StepProfile) -> str | None:
    """What cannot be true of it, in a few words."""
    rows = [batch.rows for batch in record.batches]
    return next(
        chain(_in_weights(record), _repeated(rows), *(_in_batch(record, batch) for batch in record.batches)), None
    )


def _repeated(rows: list[int]) -> Iterator[str]:
    if len(set(rows)) < len(rows):
        yield f"it has a batch twice: {', '.join(map(str, rows))}"


def _in_weights(record: StepProfile) -> Iterator[str]:
    if not record.weights:
        yield "it has no weights"
    for weight in record.weights:
        if math.prod(weight.shape) != weight.elements:
            yield f"{weight.path} of shape {weight.shape} has {weight.elements} elements"
        if weight.dense and len(weight.shape) != 2:
            yield f"{weight.path} of shape {weight.shape} is no kernel of a Dense layer"


def _in_batch(record: StepProfile, batch: ProfiledBatch) -> Iterator[str]:
    of, last = f"batch {batch.rows}", batch.gradients_seconds
    if len(batch.gradient_ready_seconds) != len(record.weights):
        yield f"{of} has {len(batch.gradient_ready_seconds)} gradients of {len(record.weights)} weights"
    if sorted(dense.kernel for dense in batch.dense) != [k for k, weight in enumerate(record.weights) if weight.dense]:
        yield f"{of} has times of other Dense layers than the weights tell"
    if max(last + batch.update_seconds, *batch.step_seconds) > LONGEST_SECONDS:
        yield f"{of} has a step of more than {LONGEST_SECONDS / 3600:g} hours"
    if any(seconds > last for seconds in (batch.forward_seconds, *batch.gradient_ready_seconds)):
        yield f"{of} has its loss or a gradient after all gradients"
    for dense in batch.dense:
        times = [dense.input_ready_seconds, dense.output_ready_seconds, batch.forward_seconds]
        times += [dense.output_gradient_ready_seconds, batch.gradient_ready_seconds[dense.kernel]]
        if any(later < earlier for earlier, later in pairwise(times)):
            yield f"{of} has times of {dense.layer} in an impossible order"
