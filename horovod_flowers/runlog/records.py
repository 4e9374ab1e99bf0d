"""The record of a run: what was asked for, on what machine, and what every step took. Schema: docs/run-log.md.

    RUNS/NAME/config.yaml                 the resolved configuration
    RUNS/NAME/environment.json            hosts, cores, versions, commit
    RUNS/NAME/steps/rank-00000.jsonl      a header, then one record a step; one file a rank, written by that rank
    RUNS/NAME/epochs.jsonl                one record an epoch
    RUNS/NAME/changes.jsonl               one record each time that ranks came or went (--elastic)
    RUNS/NAME/result.json                 final metrics; there once the run has finished
    RUNS/NAME/checkpoints/                last.safetensors, best.safetensors, those before the last
    RUNS/NAME/model.keras                 a copy of the file that the model came from (--model.name PATH.keras)

Lines are appended and never changed, so a run that dies keeps what it had; the other files appear whole. Readers check
every record against its type. No TensorFlow here.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec

from horovod_flowers.runlog.emulation import CoreGauge, Emulation
from horovod_flowers.runlog.field_types import Count, Nanoseconds, Positive, Seconds, Share
from horovod_flowers.runlog.model_flops import ModelFlops
from horovod_flowers.runlog.resources import Resources
from horovod_flowers.runlog.training_progress import TrainingProgress

SCHEMA = 3
READABLE_SCHEMAS = (2, 3)
"""Older ones are brought up to date as they are read (older_schemas.py)."""

Cause: TypeAlias = Literal["rank lost", "hosts changed"]
Operation: TypeAlias = Literal["allreduce", "reducescatter", "allgather", "alltoall"]


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="header"):
    """First line of a rank's step file; again where a resumed run goes on."""

    schema: int
    rank: Count
    size: Positive
    host: str
    monotonic_ns: Nanoseconds
    """Reading of the clock that times the steps, taken together with `unix_seconds`: relates hosts to each other."""
    unix_seconds: float


class StepRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="step"):
    """One step of one rank. The four parts add up to `total_ns`, which runs from the end of the step before."""

    epoch: Positive
    step: Count
    """Counted over the run, from 0."""
    warmup: bool
    """Left out of timings: the first steps build graphs and fill caches."""
    images: Count
    loss: float | None
    """Mean loss of this rank's images; null where it has none, or where it is not a finite number."""
    start_ns: Nanoseconds
    input_wait_ns: Nanoseconds
    """Waiting for the batch."""
    compute_ns: Nanoseconds
    """Forward and backward pass, and the communication hidden behind them."""
    communication_ns: Nanoseconds
    """Waiting for other ranks and the network with nothing left to compute."""
    update_ns: Nanoseconds
    """The optimizer."""
    total_ns: Nanoseconds


class EpochRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One epoch over all ranks."""

    epoch: Positive
    steps: Count
    images: Count
    """Training images seen by all ranks."""
    learning_rate: float | None
    """Of the last step; null where a script's optimizer has none."""
    training_seconds: Seconds
    """Of the slowest rank, steps only."""
    training_loss: float | None
    training_accuracy: Share | None
    """Null where a script's model has no such metric."""
    validation_images: Count | None = None
    """Null, with the rest, where the strategy does not train one model."""
    validation_loss: float | None = None
    validation_accuracy: Share | None = None
    validation_seconds: Seconds | None = None
    checkpoint_seconds: Seconds | None = None
    """That the training waited for checkpoints, within and after the epoch; null in older records."""
    training_metrics: dict[str, float | None] = {}
    """What a compiled model, or a script's, measures, by name, over all ranks; null where it is not a finite number."""
    validation_metrics: dict[str, float | None] = {}


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Final metrics."""

    schema: int
    progress: TrainingProgress
    parameters: Count
    optimizer_bytes: list[Count]
    """Kept by each rank of the optimizer's state."""
    peak_memory_bytes: list[Count]
    """Largest resident memory of each rank's process."""
    data_digest: str | None
    """Null, with the next two, where a script reads data of its own."""
    training_images: Count | None
    validation_images: Count | None
    stopped_early: bool = False
    """Whether --early-stopping ended it before its last epoch."""
    core_gauge: CoreGauge | None = None
    """Of an emulated run, over its timed steps: whether its times are a measurement."""
    resources: Resources | None = None
    """What it took of the machine; null in older records."""

    def ends(self, epochs: int) -> bool:
        """Whether nothing is left of a run of that many epochs."""
        return self.stopped_early or self.progress.epochs_done >= epochs


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ranks that came or went while a run trained (--elastic)."""

    utc: str
    """When the ranks went on, to the second."""
    monotonic_ns: Nanoseconds
    """The same, by the clock of the host of rank 0."""
    cause: Cause
    step: Count
    """The first step that these ranks train."""
    steps_lost: Count
    """That the ranks before them had done after the last commit: they are done again."""
    ranks_before: Positive
    ranks_after: Positive
    left: list[str]
    """HOST:SLOT of those that went."""
    joined: list[str]
    slots: list[str]
    """HOST:SLOT of each rank from now on, as the discovery script names the hosts."""
    pause_seconds: Seconds
    """From when rank 0 noticed until the ranks went on."""


class RankEnvironment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where one rank ran."""

    rank: Count
    local_rank: Count
    local_size: Positive
    host: str
    cores: list[Count]
    """Logical CPUs that the rank was pinned to, or could use."""
    physical_cores: Positive
    """How many cores these are, hyperthreads of one core counted once."""
    threads: Positive
    oversubscribed: bool
    """Whether another rank ran on one of these cores."""
    gpu: str | None


class HostEnvironment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One node."""

    host: str
    cpu_model: str | None
    logical_cpus: Positive
    memory_bytes: Count
    cpu_features: list[str]
    ranks: Positive
    physical_cores: Positive | None = None
    """How many of the node's cores are online, hyperthreads counted once; null in older records."""
    cpu_governor: str | None = None
    """Of Linux' frequency scaling (cpufreq), such as performance; null, with the next, where Linux does not tell."""
    max_mhz: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """The highest clock that it may give a CPU."""
    mhz: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Of the fastest CPU as the run began."""


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One strategy's timed steps at the start of a run ('auto')."""

    strategy: str
    steps: Positive
    median_step_seconds: Seconds
    """Median over the steps of the slowest rank's seconds."""


class CommunicationVolume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each rank sends by one kind of collective call in a step with one update, by formula."""

    operation: Operation
    ranks: Annotated[int, msgspec.Meta(ge=1)]
    """That take part in one call."""
    calls: Count
    """A step, as the strategy makes them; Horovod may fuse some that come together into one."""
    bytes_sent: Annotated[float, msgspec.Meta(ge=0)]
    """By each rank in all of these calls (strategy/communication_volume.py)."""


class Environment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the run ran on."""

    schema: int
    world_size: Positive
    global_batch: Positive
    launcher: str
    oversubscribed: bool
    """Whether any two ranks shared a core."""
    hosts: list[HostEnvironment]
    ranks: list[RankEnvironment]
    versions: dict[str, str]
    mpi_library: str | None
    horovod_features: list[str]
    horovod_settings: dict[str, str]
    """HOROVOD_* variables as they were set when it started; what is not there is Horovod's own default."""
    yield_when_idle: bool
    strategy: str
    """The one that trained: the fastest of `trials` where 'auto' was asked for."""
    strategy_notes: list[str]
    """What it did to which layers."""
    trials: list[Trial]
    precision: str
    commit: str | None
    started_utc: str
    command: list[str]
    communication_volume: list[CommunicationVolume] | None = None
    """Empty where nothing is sent. Null in older records, and where the model's own code decides how often and on what
    a divided layer works."""
    mpi_settings: dict[str, str] = {}
    """Settings of MPI's transports and collective calls: Open MPI's parameters without OMPI_MCA_, other MPIs' variables
    as they are; what is not there is its own default."""
    emulated: Emulation | None = None
    """What was emulated; null where all was real."""
    model_flops: ModelFlops | None = None
    """What a step takes; null in older records, and of emulated runs."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a trained model takes one image for, mostly one that it was not trained on."""

    image: Count
    """Its number in the prepared data, or its place among the photos that were given."""
    label: str
    predicted: str
    probability: Share
    """Of the predicted class."""
    label_probability: Share | None = None
    """Of the label; null, with the rest, where an earlier version wrote it."""
    rank_of_label: Positive | None = None
    """1 where the label is the most probable class, 2 where one class is more probable, and so on."""
    photo: str | None = None
    """CLASS/FILE of a photo that was given; null for images of the prepared data."""
