"""The folder of one run: its paths, and how it is made."""

import os
import shutil
import time
from pathlib import Path

import msgspec

from horovod_flowers.runlog.json_lines import LineLog, write_json
from horovod_flowers.runlog.records import (
    SCHEMA,
    Environment,
    EpochRecord,
    Header,
)
from horovod_flowers.runtime.errors import GoneError, UserError
from horovod_flowers.runtime.files import clear_abandoned, put_aside, write_whole


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
        self.model = path / "model.keras"
        """The file that the model came from, where it came from one."""
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
        """Make the folder, replacing an earlier run of the name where asked to. Only who holds the run calls this."""
        if resume:
            self.result.unlink(missing_ok=True)
            # Of a training that was killed while it wrote; folders are `export` and `evaluate`, maybe at work.
            for leftover in [*self.path.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")]:
                if leftover.is_symlink() or not leftover.is_dir():
                    leftover.unlink(missing_ok=True)
            clear_abandoned(self.path)
            return
        if overwrite and self.path.exists():
            put_aside(self.path, self.path.with_name(f".{self.path.name}.discarded-{os.getpid()}"))
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


def forget_epochs(folder: RunFolder, epochs_done: int) -> None:
    """Leave the records of so many epochs: a run that continues from there repeats the later ones.

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
    except (FileNotFoundError, GoneError) as error:
        raise UserError(
            f"{folder.path} was created by rank 0 but is not there on {host}: choose a --runs-dir that all nodes share"
        ) from error
    log.write(
        Header(
            schema=SCHEMA, rank=rank, size=size, host=host, monotonic_ns=time.monotonic_ns(), unix_seconds=time.time()
        )
    )
    return log
