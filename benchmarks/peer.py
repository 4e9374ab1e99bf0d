"""What the peers share: where a rank runs, the data that all train on, and the record of the step times.

A peer is one small program that trains the flower CNN as its framework's documentation shows it. Each rank keeps to one
core, feeds the same random images from memory (no decoding, no reading: the easiest case), and writes one file.
"""

import argparse
import json
import os
import time
from pathlib import Path

SIZE, CLASSES = 180, 5


def arguments(description, **choices):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--batch", type=int, default=32, help="images per rank and step")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--warmup-steps", type=int, default=4)
    parser.add_argument("--output", type=Path, required=True, help="folder for rank-N.json")
    for name, values in choices.items():
        parser.add_argument(f"--{name}", choices=values, default=values[0])
    return parser.parse_args()


def told(names, default):
    """By the first of the variables that is set: of Open MPI, of MPICH and Intel MPI, of Slurm."""
    return next((int(os.environ[name]) for name in names if os.environ.get(name)), default)


def place():
    """Rank and world size from the launcher; this process is pinned to its own core."""
    rank = told(("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"), 0)
    size = told(("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"), 1)
    local = told(("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PMI_LOCAL_RANK", "SLURM_LOCALID"), rank)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[local % len(cores)]})
    os.environ["OMP_NUM_THREADS"] = "1"
    return rank, size


def images(rank, batch):
    """float32 [batch, 180, 180, 3] in 0..1, and int labels."""
    import numpy as np

    random = np.random.default_rng(rank)
    return random.random((batch, SIZE, SIZE, 3), np.float32), random.integers(0, CLASSES, batch)


def flower_cnn(keras):
    """The model, of Keras 2 or 3: 26.3 million weights."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((SIZE, SIZE, 3)),
            *(layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D()),
            *(layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D()),
            *(layers.Conv2D(128, 3, activation="relu"), layers.MaxPooling2D()),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dense(CLASSES),
        ]
    )


class Clock:
    """Step times by the monotonic clock, from the end of one step to the end of the next."""

    def __init__(self):
        self.ends = [time.monotonic()]

    def step(self):
        self.ends.append(time.monotonic())

    def write(self, options, rank, size, versions):
        seconds = [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]
        timed = seconds[options.warmup_steps :]
        if len(timed) != options.steps:
            raise SystemExit(f"{len(timed)} steps were timed, not {options.steps}")
        options.output.mkdir(parents=True, exist_ok=True)
        record = {"rank": rank, "size": size, "batch": options.batch, "step_seconds": timed, "versions": versions}
        (options.output / f"rank-{rank}.json").write_text(json.dumps(record))
