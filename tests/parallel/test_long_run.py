"""What a rank holds does not grow with the steps it runs."""

import os
import subprocess
import time
from dataclasses import dataclass

import numpy as np
import psutil

from tests.conftest import TIMEOUT_SECONDS, TINY, Workplace, clean_environment, mpirun

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
    words = ["python", "-m", "horovod_flowers.train", "--data.prepared-dir", str(workplace.prepared), *TINY]
    words += [
        "--model.name",
        "tests.parallel.model_zoo:uneven",
        "--global-batch",
        "4",
        "--threads",
        "1",
        "--name",
        "long",
    ]
    words += ["--epochs", str(STEPS // 24), "--data.augment", "--average-decay", "0.9", "--checkpoint-steps", "10"]
    job = subprocess.Popen(
        [str(word) for word in mpirun(2, *words)],
        cwd=workplace.folder,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    run = workplace.folder / "runs" / "long"
    seen: dict[int, list[Seen]] = {0: [], 1: []}
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        while job.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.2)
            for process in psutil.Process(job.pid).children(recursive=True):
                try:
                    if "horovod_flowers.train" in process.cmdline():
                        rank = int(process.environ()["OMPI_COMM_WORLD_RANK"])
                        steps = run / "steps" / f"rank-{rank:05d}.jsonl"
                        step = steps.read_bytes().count(b'"kind":"step"') if steps.exists() else 0
                        memory = process.memory_full_info().uss
                        seen[rank].append(Seen(step, memory, process.num_fds(), process.num_threads()))
                except psutil.Error:  # it has just ended
                    continue
        _, stderr = job.communicate()
    finally:
        if job.poll() is None:
            os.killpg(job.pid, 9)
    assert job.returncode == 0, stderr
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
