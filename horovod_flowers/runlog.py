"""The record of a run: what was asked for, on what machine, and what every step took. Schema: docs/run-log.md.

    RUNS/NAME/config.yaml                 the resolved configuration
    RUNS/NAME/environment.json            hosts, cores, versions, commit
    RUNS/NAME/steps/rank-00000.jsonl      a header, then one record a step; one file a rank, written by that rank
    RUNS/NAME/epochs.jsonl                one record an epoch
    RUNS/NAME/changes.jsonl               one record each time that ranks came or went (--elastic)
    RUNS/NAME/result.json                 final metrics; there once the run has finished
    RUNS/NAME/checkpoints/                last.safetensors, best.safetensors, those before the last

Lines are appended and never changed, so a run that dies keeps what it had; the other files appear whole. Readers check
every record against its type. No TensorFlow here.
"""

import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec

from horovod_flowers.errors import UserError
from horovod_flowers.files import write_whole, writing

SCHEMA = 2

LARGEST = 2**63 - 1
"""Of a whole number: what readers keep in 64 bits."""

Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=LARGEST)]
Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
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
    learning_rate: float
    """Of the last step."""
    training_seconds: Seconds
    """Of the slowest rank, steps only."""
    training_loss: float | None
    training_accuracy: Share
    validation_images: Count | None = None
    """Null, with the rest, where the strategy does not train one model."""
    validation_loss: float | None = None
    validation_accuracy: Share | None = None
    validation_seconds: Seconds | None = None
    checkpoint_seconds: Seconds | None = None
    """That the training waited for checkpoints, within and after the epoch; null in older records."""


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Final metrics."""

    schema: int
    epochs: Count
    steps: Count
    training_seconds: Seconds
    """Sum over the epochs of the slowest rank's seconds."""
    best_validation_accuracy: Share | None
    best_epoch: Count | None
    last_validation_accuracy: Share | None
    parameters: Count
    optimizer_bytes: list[Count]
    """Kept by each rank of the optimizer's state."""
    peak_memory_bytes: list[Count]
    """Largest resident memory of each rank's process."""
    data_digest: str
    training_images: Count
    validation_images: Count
    stopped_early: bool = False
    """Whether --early-stopping ended it before its last epoch."""

    def ends(self, epochs: int) -> bool:
        """Whether nothing is left of a run of that many epochs."""
        return self.stopped_early or self.epochs >= epochs


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


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One strategy's timed steps at the start of a run ('auto')."""

    strategy: str
    steps: Positive
    median_step_seconds: Seconds
    """Median over the steps of the slowest rank's seconds."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each rank sends by one kind of collective call in a step with one update, by formula."""

    operation: Operation
    ranks: Annotated[int, msgspec.Meta(ge=1)]
    """That take part in one call."""
    calls: Count
    """A step, as the strategy makes them; Horovod may fuse some that come together into one."""
    bytes_sent: Annotated[float, msgspec.Meta(ge=0)]
    """By each rank in all of these calls (strategy/traffic.py)."""


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
    traffic: list[Traffic] | None = None
    """Empty where nothing is sent. Null in older records, and where the model's own code decides how often and on what
    a divided layer works."""


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


Structure = TypeVar("Structure")


class RunFolder:
    """Paths of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.epochs = path / "epochs.jsonl"
        self.changes = path / "changes.jsonl"
        self.result = path / "result.json"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.predictions = path / "evaluation" / "predictions.jsonl"
        self._steps = path / "steps"

    def steps(self, rank: int) -> Path:
        """The step file of one rank."""
        return self._steps / f"rank-{rank:05d}.jsonl"

    def step_files(self) -> list[Path]:
        """The step files that are there."""
        return sorted(self._steps.glob("rank-*.jsonl"))

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is any."""
        return any(self.checkpoints.glob("*.safetensors"))

    def check(self, overwrite: bool, resume: bool) -> None:
        """Refuse a name that is taken, or a run to resume that is not there (UserError).

        Changes nothing that exists.
        """
        exists = self.path.exists()
        if resume:
            if not (self.config.exists() and self.environment.exists()):
                raise UserError(f"there is no run {self.path} to resume: check --name and --runs-dir")
        elif exists and not overwrite:
            raise UserError(
                f"run {self.path} exists already: choose another --name, add --overwrite to replace it, or --resume to "
                "continue it"
            )
        elif exists and not (self.config.exists() and self._steps.is_dir()) and not self._is_just_begun():
            raise UserError(
                f"{self.path} is not a run (no config.yaml), so it is not overwritten: choose another --name"
            )

    def _is_just_begun(self) -> bool:
        """Whether its job died between making the folder and the first file in it."""
        if not self._steps.is_dir() or any(self._steps.iterdir()):
            return False
        return all(path == self._steps or path.name.startswith(".config.yaml.") for path in self.path.iterdir())

    def create(self, overwrite: bool, resume: bool) -> None:
        """Make the folder, replacing an earlier run of the name where asked to. One rank calls this."""
        if resume:
            self.result.unlink(missing_ok=True)
            # Of a process that was killed while it wrote.
            for leftover in [*self.path.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")]:
                leftover.unlink(missing_ok=True)
            return
        if overwrite and self.path.exists():
            self.path.rename(self.path.with_name(f".{self.path.name}.discarded-{os.getpid()}"))
        for discarded in self.path.parent.glob(f".{self.path.name}.discarded-*"):  # also by a job that died over it
            shutil.rmtree(discarded, ignore_errors=True)
        try:
            self._steps.mkdir(parents=True)
        except FileExistsError as error:
            raise UserError(f"run {self.path} was created by another job just now: choose another --name") from error

    def write_start(self, config_yaml: str, environment: Environment) -> None:
        """Write what was asked for and what it runs on. One rank calls this."""
        write_whole(self.config, config_yaml)
        write_json(self.environment, environment)


def _cut_torn_line(path: Path) -> None:
    """Remove a last line without its end, left by a rank that died while writing: a resumed run writes on behind it."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        contents = file.read()
        file.truncate(contents.rfind(b"\n") + 1)


class LineLog:
    """Appends records as JSON lines, one write each: a crash costs at most the line being written."""

    def __init__(self, path: Path, durable: bool = False) -> None:
        """durable: each record is on storage before `write` returns."""
        self._path, self._durable = path, durable
        _cut_torn_line(path)
        with writing(path):
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed in close)
        self._encode = msgspec.json.Encoder().encode

    def write(self, record: msgspec.Struct) -> None:
        """Append one record. Raises StorageError where there is no room for it."""
        line = self._encode(record) + b"\n"
        with writing(self._path):
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, "a record was written in part only")
            if self._durable:
                os.fsync(self._file.fileno())

    def sync(self) -> None:
        """Force what was written to storage."""
        with writing(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Force what was written to storage; nothing is written after it."""
        self.sync()
        self._file.close()


def forget_epochs(folder: RunFolder, epochs_done: int) -> None:
    """Leave the records of so many epochs: a run that goes on from there repeats the later ones.

    A damaged record goes, too. Rank 0 calls it.
    """
    decode = msgspec.json.Decoder(EpochRecord).decode

    def stays(line: bytes) -> bool:
        try:
            return line.endswith(b"\n") and decode(line).epoch <= epochs_done
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False

    if folder.epochs.exists():
        lines = folder.epochs.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if stays(line)]
        if kept != lines:
            write_whole(folder.epochs, b"".join(kept).decode())


def open_step_log(folder: RunFolder, rank: int, size: int, host: str) -> LineLog:
    """Open this rank's step file and write its header. Raises UserError where this node does not see the run folder."""
    try:
        log = LineLog(folder.steps(rank))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder.path} was created by rank 0 but is not there on {host}: choose a --runs-dir that all nodes share"
        ) from error
    log.write(
        Header(
            schema=SCHEMA, rank=rank, size=size, host=host, monotonic_ns=time.monotonic_ns(), unix_seconds=time.time()
        )
    )
    return log


def write_json(path: Path, record: msgspec.Struct) -> None:
    """Write one record as an indented JSON file, whole or not at all."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(record), indent=1).decode() + "\n")


def read_json(path: Path, kind: type[Structure]) -> Structure:
    """Read and check one record. Raises FileNotFoundError, or UserError where it is damaged or of another schema."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a file")  # a named pipe would never end
        record: Any = msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged or of another version ({error})") from error
    _check_schema(path, record)
    return record


def read_lines(path: Path, kind: Any) -> Iterator[Any]:
    """Read and check a file of JSON lines. A last line without its end (the writer died) is left out.

    Raises UserError naming the line that is damaged.
    """
    decode = msgspec.json.Decoder(kind).decode
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise UserError(f"{path}, line {number}, is damaged or of another version ({error})") from error
            _check_schema(path, record)
            yield record


def _check_schema(path: Path, record: Any) -> None:
    schema = getattr(record, "schema", SCHEMA)
    if schema != SCHEMA:
        raise UserError(
            f"{path} has run-log schema {schema}, this version reads {SCHEMA}: use the version that wrote it"
        )
