"""A finished run, read back from its records and checked for gaps. No TensorFlow here."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from horovod_flowers.errors import UserError
from horovod_flowers.runlog import (
    Environment,
    EpochRecord,
    Header,
    Result,
    RunFolder,
    StepRecord,
    read_json,
    read_lines,
)

PARTS = ("input_wait", "compute", "communication", "update")


@dataclass(frozen=True)
class RecordedRun:
    """One run: what was asked for, what it ran on, and its timed steps."""

    name: str
    config: dict[str, Any]
    environment: Environment
    result: Result
    epochs: list[EpochRecord]
    step_ns: np.ndarray
    """int64 [steps, ranks]: total nanoseconds of each timed step on each rank."""
    epoch_of_step: np.ndarray
    """int64 [steps]."""
    part_ns: np.ndarray
    """int64 [steps, ranks, 4]: the PARTS of each step."""
    images: int
    """Training images of the timed steps, over all ranks."""

    @property
    def ranks(self) -> int:
        """World size."""
        return self.environment.world_size

    @cached_property
    def slowest_ns(self) -> np.ndarray:
        """int64 [steps]: a step takes as long as its slowest rank."""
        return self.step_ns.max(axis=1)

    @property
    def timed_seconds(self) -> float:
        """Elapsed seconds of the timed steps: each epoch by its slowest rank, added up.

        Ranks start an epoch together; within it, one that ends a step late may begin the next one late and still be
        on time, so the sum over steps of the slowest rank's seconds would count more than has passed.
        """
        by_epoch = [self.step_ns[self.epoch_of_step == epoch].sum(axis=0) for epoch in np.unique(self.epoch_of_step)]
        return sum(float(ranks.max()) for ranks in by_epoch) / 1e9

    @property
    def median_step_seconds(self) -> float:
        """Median over the timed steps of the slowest rank's seconds."""
        return float(np.median(self.slowest_ns)) / 1e9

    @property
    def part_shares(self) -> dict[str, float]:
        """Share of the ranks' time that each part of a step took; the shares add up to 1."""
        totals = self.part_ns.sum(axis=(0, 1))
        return dict(zip(PARTS, (totals / totals.sum()).tolist(), strict=True))


def read_run(path: Path) -> RecordedRun:
    """Read one run folder.

    Raises UserError, saying why, where it is unfinished, damaged, or has gaps: such a run must not become a figure.
    """
    folder = RunFolder(path)
    try:
        config = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        environment = read_json(folder.environment, Environment)
        result = read_json(folder.result, Result)
        epochs = list(read_lines(folder.epochs, EpochRecord))
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise UserError("unfinished" if missing == folder.result.name else f"no {missing}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"unreadable ({error})") from error
    if not isinstance(config, dict):
        raise UserError("config.yaml does not hold options")
    files = folder.step_files()
    if len(files) != environment.world_size:
        raise UserError(f"step records of {len(files)} of {environment.world_size} ranks")
    by_rank = [_read_steps(file, environment.world_size) for file in files]
    steps = sorted(by_rank[0])
    if any(sorted(records) != steps for records in by_rank) or len(steps) != result.steps:
        counts = sorted({len(records) for records in by_rank})
        raise UserError(f"step records have gaps: {counts} steps on the ranks, {result.steps} in the result")
    timed = [step for step in steps if not any(records[step].warmup for records in by_rank)]
    if not timed:
        raise UserError(f"all of its {len(steps)} steps are warm-up: train for more steps")
    rows = [[records[step] for records in by_rank] for step in timed]
    return RecordedRun(
        name=path.name,
        config=config,
        environment=environment,
        result=result,
        epochs=epochs,
        epoch_of_step=np.array([row[0].epoch for row in rows], np.int64),
        step_ns=np.array([[record.total_ns for record in row] for row in rows], np.int64),
        part_ns=np.array([[[getattr(r, f"{part}_ns") for part in PARTS] for r in row] for row in rows], np.int64),
        images=sum(record.images for row in rows for record in row),
    )


def _read_steps(path: Path, world_size: int) -> dict[int, StepRecord]:
    """Records by step. A resumed run repeats the steps after its checkpoint: the later record counts."""
    records: dict[int, StepRecord] = {}
    for record in read_lines(path, Header | StepRecord):
        if isinstance(record, StepRecord):
            records[record.step] = record
        elif record.size != world_size:
            raise UserError(f"continued with {world_size} ranks after {record.size}: its times are of two kinds")
    return records
