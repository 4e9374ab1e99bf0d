"""What a rank holds does not grow with the steps it runs."""

import contextlib
import time
from dataclasses import dataclass

import numpy as np
import psutil

from tests.conftest import TIMEOUT_SECONDS, Workplace
from tests.parallel.running_job import training

STEPS = 2160
FIRST, LAST = 700, 2120
"""Between which steps memory is compared: allocators and caches have filled by the first."""
MOST_BYTES_A_STEP = 2500


@dataclass(frozen=True)
class Seen:
    """One look at one rank from outside."""

    step: int
    memory_bytes: int
    files: int
    threads: int


def test_memory_files_and_threads_stay_as_they_are(workplace: Workplace) -> None:
    """90 epochs with validation, checkpoints, augmentation and averages of two ranks."""
    options = ["--model.name", "tests.parallel.model_zoo:uneven", "--global-batch", "4", "--threads", "1"]
    options += ["--name", "long", "--epochs", str(STEPS // 24), "--data.augment", "--average-decay", "0.9"]
    run = workplace.folder / "runs" / "long"
    seen: dict[int, list[Seen]] = {0: [], 1: []}
    deadline = time.monotonic() + TIMEOUT_SECONDS
    with training(workplace, *options, "--checkpoint-steps", "10") as job:
        while job.process.poll() is None:
            assert time.monotonic() < deadline, job.output
            time.sleep(0.2)
            for rank, looks in seen.items():
                with contextlib.suppress(psutil.Error, AssertionError):  # not yet there, or it has just ended
                    process, steps = job.rank(rank), run / "steps" / f"rank-{rank:05d}.jsonl"
                    step = steps.read_bytes().count(b'"kind":"step"') if steps.exists() else 0
                    memory = process.memory_full_info().uss
                    looks.append(Seen(step, memory, process.num_fds(), process.num_threads()))
        assert job.end(30) == 0, job.output
    for rank, looks in seen.items():
        timed = [look for look in looks if FIRST <= look.step <= LAST]
        assert timed[-1].step - timed[0].step > 1000, (rank, timed)
        # Robust against a look that fell into a checkpoint or an evaluation: medians of the first and last third.
        third = len(timed) // 3
        grown = {
            name: float(np.median([getattr(look, name) for look in timed[-third:]]))
            - float(np.median([getattr(look, name) for look in timed[:third]]))
            for name in ("step", "memory_bytes", "files", "threads")
        }
        assert grown["memory_bytes"] / grown["step"] < MOST_BYTES_A_STEP, (rank, grown, timed)
        assert abs(grown["files"]) <= 2, (rank, grown)
        assert abs(grown["threads"]) <= 2, (rank, grown)
