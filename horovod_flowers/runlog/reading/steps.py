"""The step files of a run as columns: every record checked, none kept as an object. No TensorFlow here.

msgspec checks and decodes about a million records a second on one core, which is several times what pyarrow's JSON
reader does, and cannot be made to crash by what a file holds.
"""

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from horovod_flowers.runlog.json_lines import read_lines
from horovod_flowers.runlog.records import READABLE_SCHEMAS, SCHEMA, Header, StepRecord
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.files import check_regular

PARTS = ("input_wait", "compute", "communication", "update")

LONGEST_STEP_NS = 10**15  # eleven days
LONGEST_RUN_NS = 10**18  # of all steps of a rank: 31 years, whose sum fits into 64 bits
LATEST_START_NS = 4 * 10**18
LATEST_UNIX_SECONDS = 1e11
_MEETING_SHARE, _MEETING_NS = 0.01, 1_000_000
"""How far apart the end of a step and the beginning of the next one are at most where both are the clock's: a share of
the step, and as much beside."""
MOST_IMAGES = 10**9

_BLOCK_BYTES = 4 * 2**20  # a thousand records are a quarter of this
_READ_AHEAD = 8  # files: on a network file system opening one takes longer than decoding it

_FIELDS = ("epoch", "step", "warmup", "images", "start_ns", *(f"{part}_ns" for part in PARTS), "total_ns")
_EPOCH, _STEP, _WARMUP, _IMAGES, _START = range(5)
_PARTS = slice(5, 9)
_TOTAL = 9
_values = attrgetter(*_FIELDS)
_decode_lines = msgspec.json.Decoder(Header | StepRecord).decode_lines


@dataclass(frozen=True)
class StepTimes:
    """The timed steps of all ranks, warm-up left out."""

    steps: np.ndarray
    """int64 [steps]: their numbers, counted over the run."""
    epoch_of_step: np.ndarray
    """int64 [steps]."""
    start_ns: np.ndarray
    """int64 [steps, ranks]: by the monotonic clock of the rank's host."""
    step_ns: np.ndarray
    """int64 [steps, ranks]: total nanoseconds."""
    part_ns: np.ndarray
    """int64 [steps, ranks, 4]: the PARTS."""
    images: int
    """Over all steps and ranks."""
    clock_offset_seconds: np.ndarray
    """float64 [ranks]: time of day less monotonic clock, from the last header."""
    epoch_seconds: dict[int, float]
    """By epoch, of the slowest rank, warm-up steps too."""
    parted: float
    """Share of the steps that do not begin where the one before ended, in the same epoch, of the rank that has most."""


def read_steps(folder: RunFolder, ranks: int, steps: int, global_batch: int) -> StepTimes:
    """Read the step files of a run of so many `ranks` and `steps`.

    Raises UserError, naming the file, where a record is damaged or contradicts another, a step or a rank is missing, or
    all steps are warm-up. Memory: 48 bytes a rank and step.
    """
    _check_files(folder, ranks)
    with contextlib.closing(_tables([folder.steps(rank) for rank in range(ranks)], ranks, global_batch)) as tables:
        first, first_offset = next(tables)
        numbers, counts = np.arange(len(first)), {len(first)}
        # The file that was read decides how much memory is taken, not a number in another file.
        whole = len(first) == steps and np.array_equal(first[:, _STEP], numbers)
        count = len(first) if whole else 0
        start, total = (np.empty((ranks, count), np.int64) for _ in range(2))
        parts = np.empty((ranks, len(PARTS), count), np.int64)
        offsets = np.empty(ranks, np.float64)
        warmup, images = np.zeros(count, bool), np.zeros(count, np.int64)
        parted = 0.0
        for rank, (table, offset) in enumerate(itertools.chain([(first, first_offset)], tables)):
            counts.add(len(table))
            whole = whole and np.array_equal(table[:, _STEP], numbers)
            if not whole:
                continue
            if not np.array_equal(table[:, _EPOCH], first[:, _EPOCH]):
                raise UserError(f"{folder.steps(rank)} has its steps in other epochs than rank 0")
            start[rank], total[rank], parts[rank] = table[:, _START], table[:, _TOTAL], table[:, _PARTS].T
            parted = max(parted, _parted(table))
            offsets[rank] = offset
            warmup |= table[:, _WARMUP] != 0
            images += table[:, _IMAGES]
    if not whole:
        raise UserError(f"step records have gaps: {sorted(counts)} steps on the ranks, {steps} in the result")
    if (images > global_batch).any():
        step = int(np.argmax(images > global_batch))
        raise UserError(
            f"step {step} has {images[step]} images over all ranks, more than a global batch: {global_batch}"
        )
    if warmup.all():
        raise UserError(f"all of its {steps} steps are warm-up: train for more steps")
    epochs = np.unique(first[:, _EPOCH])
    epoch_seconds = {int(each): float(total[:, first[:, _EPOCH] == each].sum(axis=1).max()) / 1e9 for each in epochs}
    timed = ~warmup
    if not (images[timed].any() and total[:, timed].any()):
        raise UserError("its timed steps have no images or took no time")
    return StepTimes(
        steps=numbers[timed],
        epoch_of_step=first[timed, _EPOCH],
        start_ns=_kept(start, timed).T,
        step_ns=_kept(total, timed).T,
        part_ns=_kept(parts, timed).transpose(2, 0, 1),
        images=int(images[timed].sum()),
        clock_offset_seconds=offsets,
        epoch_seconds=epoch_seconds,
        parted=parted,
    )


def _parted(table: np.ndarray) -> float:
    """Share of a rank's steps, int64 [steps, _FIELDS], that do not begin where the step before ended."""
    total = table[:-1, _TOTAL]
    apart = np.abs(np.diff(table[:, _START]) - total) > _MEETING_NS + _MEETING_SHARE * total
    same = np.diff(table[:, _EPOCH]) == 0
    return float(apart[same].mean()) if same.any() else 0.0


def times_begun(folder: Path) -> int:
    """How often a run was started or resumed: the headers of rank 0's steps."""
    with open(RunFolder(folder).steps(0), "rb") as file:
        return sum(line.startswith(b'{"kind":"header"') for line in file)


def _kept(values: np.ndarray, timed: np.ndarray) -> np.ndarray:
    """The timed steps of values [ranks, ..., steps], moved to the front rank by rank: no second copy of all ranks."""
    count = int(timed.sum())
    for rank in values:
        rank[..., :count] = rank[..., timed]
    return values[..., :count]


def _check_files(folder: RunFolder, ranks: int) -> None:
    """Refuse a folder that does not hold exactly the files of the ranks (UserError)."""
    steps_dir = folder.steps(0).parent
    if steps_dir.is_symlink():
        raise UserError(f"{steps_dir} is a symbolic link, not a folder")
    files = folder.step_files()
    if len(files) != ranks:
        raise UserError(f"step records of {len(files)} of {ranks} ranks")
    if strangers := {file.name for file in files} - {folder.steps(rank).name for rank in range(ranks)}:
        raise UserError(f"{steps_dir / min(strangers)} is of none of the {ranks} ranks, and one of theirs is missing")


def _tables(paths: list[Path], ranks: int, global_batch: int) -> Generator[tuple[np.ndarray, float], None, None]:
    """Columns and clock offset of each rank in turn, while a few threads read what comes next."""
    opened: deque[Future[tuple[BinaryIO, bytes]]] = deque()
    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        ahead = iter(paths)
        try:
            opened.extend(pool.submit(_open, path) for path in itertools.islice(ahead, _READ_AHEAD))
            for rank, path in enumerate(paths):
                file, block = opened.popleft().result()
                opened.extend(pool.submit(_open, path) for path in itertools.islice(ahead, 1))
                with file:
                    yield _RankReader(path, rank, ranks, global_batch).read(file, block)
        finally:
            for future in opened:
                if not future.cancel() and future.exception() is None:
                    future.result()[0].close()


def _open(path: Path) -> tuple[BinaryIO, bytes]:
    """An open file and its first block."""
    check_regular(path)
    # What has become a pipe since must not block.
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb", buffering=0)  # noqa: SIM115 (_tables)
    try:
        return file, file.read(_BLOCK_BYTES) or b""
    except BaseException:
        file.close()
        raise


class _RankReader:
    """Reads and checks one rank's file."""

    def __init__(self, path: Path, rank: int, ranks: int, global_batch: int) -> None:
        self._path = path
        self._rank = rank
        self._ranks = ranks
        self._global_batch = global_batch
        self._offset: float | None = None
        self._records = 0
        self._starts: list[int] = []  # how many records there are before each header

    def read(self, file: BinaryIO, block: bytes) -> tuple[np.ndarray, float]:
        """int64 [steps, _FIELDS] in the order of the steps, and the clock offset. Raises UserError.

        A resumed run repeats the steps after its checkpoint: the later record counts. A last line without its end is
        left out.
        """
        tables, rest = [], b""
        while block:
            lines, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                tables.append(self._table(lines + newline))
            elif len(rest) >= _BLOCK_BYTES:
                raise UserError(f"{self._path} has a line of more than {_BLOCK_BYTES} bytes: it is damaged")
            block = file.read(_BLOCK_BYTES) or b""
        if self._offset is None:
            raise UserError(f"{self._path} holds no records")
        table = np.concatenate(tables)
        if not np.array_equal(table[:, _STEP], np.arange(len(table))):
            self._check_one_writer(table[:, _STEP])
            _, last = np.unique(table[::-1, _STEP], return_index=True)
            table = table[len(table) - 1 - last]
        if (np.diff(table[:, _EPOCH]) < 0).any():
            raise UserError(f"{self._path} has a step of an earlier epoch after one of a later epoch")
        if table[:, _TOTAL].sum(dtype=np.float64) > LONGEST_RUN_NS:
            raise UserError(f"the steps of {self._path} add up to more than {LONGEST_RUN_NS} ns")
        return table, self._offset

    def _check_one_writer(self, numbers: np.ndarray) -> None:
        """Refuse steps that come twice though the run was not started again between them (UserError).

        `numbers`: int64 [records], of the whole file.
        """
        for of_a_start in np.split(numbers, self._starts[1:]):
            found, counts = np.unique(of_a_start, return_counts=True)
            if (counts > 1).any():
                raise UserError(
                    f"{self._path} has step {found[np.argmax(counts > 1)]} twice, and {int((counts > 1).sum())} steps "
                    "in all, without a start between them: two jobs wrote into the run at once"
                )

    def _table(self, lines: bytes) -> np.ndarray:
        """int64 [records, _FIELDS] of whole lines."""
        try:
            records = _decode_lines(lines)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            records = []
        # Two records in a line, or none, pass decode_lines.
        if len(records) != lines.count(b"\n"):
            self._name_damaged_line()
        steps = []
        for record in records:
            if isinstance(record, StepRecord):
                if self._offset is None:
                    raise UserError(f"{self._path} does not begin with a header")
                steps.append(record)
            else:
                self._offset = self._clock_offset(record)
                self._starts.append(self._records + len(steps))
        self._records += len(steps)
        values = itertools.chain.from_iterable(map(_values, steps))
        table = np.fromiter(values, np.int64, len(steps) * len(_FIELDS)).reshape(-1, len(_FIELDS))
        self._check(table)
        return table

    def _name_damaged_line(self) -> None:
        """Raise the UserError that names the first damaged line."""
        for _ in read_lines(self._path, Header | StepRecord):
            pass
        raise UserError(f"{self._path} is damaged or from another version: not one record a line")

    def _clock_offset(self, header: Header) -> float:
        if header.schema not in READABLE_SCHEMAS:
            raise UserError(
                f"{self._path} has run-log schema {header.schema}, this version reads {READABLE_SCHEMAS[0]} to "
                f"{SCHEMA}: use the version that "
                "wrote it"
            )
        if header.size != self._ranks:
            raise UserError(f"continued with {self._ranks} ranks after {header.size}: its times are not comparable")
        if header.rank != self._rank:
            raise UserError(f"{self._path} holds the records of rank {header.rank}")
        if not (abs(header.unix_seconds) <= LATEST_UNIX_SECONDS and header.monotonic_ns <= LATEST_START_NS):
            raise UserError(f"{self._path} has a header with an impossible clock")
        return header.unix_seconds - header.monotonic_ns / 1e9

    def _check(self, table: np.ndarray) -> None:
        """Refuse impossible values, naming the step (UserError)."""
        parts, total = table[:, _PARTS], table[:, _TOTAL]
        for wrong, what in (
            # The longest step first: the sum below must not overflow.
            ((parts > LONGEST_STEP_NS).any(axis=1) | (total > LONGEST_STEP_NS), f"takes above {LONGEST_STEP_NS} ns"),
            (parts.sum(axis=1) != total, "has parts that do not add up to its total_ns"),
            (table[:, _START] > LATEST_START_NS, f"starts after {LATEST_START_NS} ns"),
            (table[:, _IMAGES] > self._global_batch, f"has more images than a global batch, {self._global_batch}"),
        ):
            if wrong.any():
                raise UserError(f"{self._path}: step {table[np.argmax(wrong), _STEP]} {what}")
