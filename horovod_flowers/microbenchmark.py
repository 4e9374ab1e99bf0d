"""What collective calls cost here: latency and bandwidth of allreduce, reduce-scatter and alltoall, and of a timestamp.

    mpirun -np 2 --bind-to none python -m horovod_flowers.microbenchmark --output FILE.json

Part of `python -m horovod_flowers.bench`.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from horovod_flowers.command_line import parse
from horovod_flowers.config import HorovodConfig, option
from horovod_flowers.errors import UserError
from horovod_flowers.files import write_whole
from horovod_flowers.launch import Launch, error_boundary
from horovod_flowers.ranks import Ranks, connect, start_horovod, start_tensorflow, take_cores

OPERATIONS = ("allreduce", "reducescatter", "alltoall")
TIMESTAMPS = 200


@dataclass(frozen=True)
class MicrobenchmarkConfig:
    """Options of the microbenchmark."""

    output: str = option("microbenchmark.json", "file to write")
    largest_mb: int = option(64, "largest message in MB; each size is four times the one before, from 1 KB")
    repetitions: int = option(15, "timed calls of each size, after three more")
    threads: int = option(1, "cores of each rank")

    def __post_init__(self) -> None:
        if not 1 <= self.largest_mb <= 1024:
            raise UserError(f"largest_mb is {self.largest_mb}: give 1 to 1024")
        if self.repetitions < 3:
            raise UserError(f"repetitions is {self.repetitions}: give at least 3")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; every rank calls it."""
    with error_boundary("horovod_flowers.microbenchmark"):
        launch = Launch.from_environment(os.environ)
        description = (__doc__ or "").splitlines()[0]
        config = parse(MicrobenchmarkConfig, "horovod_flowers.microbenchmark", description, arguments, launch.rank)
        if launch.size < 2:
            raise UserError("one rank has nobody to talk to: start at least 2, with mpirun -np 2")
        ranks = connect(launch, config.threads, "auto")
        cores = take_cores(ranks, "auto", config.threads)
        start_tensorflow(ranks, config.threads)
        ranks = start_horovod(ranks, HorovodConfig(), 1)
        measured = [
            {
                "operation": operation,
                "bytes": size,
                "median_seconds": statistics.median(time_calls(operation, size, ranks, config.repetitions)),
            }
            for operation in OPERATIONS
            for size in sizes(config.largest_mb)
        ]
        record = {
            "ranks": ranks.size,
            "oversubscribed": bool(ranks.largest(cores.oversubscribed)),
            "measured": measured,
            "timestamp_seconds": ranks.largest(timestamp_seconds()),
        }
        if ranks.rank == 0:
            write_whole(Path(config.output), json.dumps(record, indent=1) + "\n")
        ranks.barrier()


def sizes(largest_mb: int) -> list[int]:
    """Message sizes in bytes: 1 KiB, 4 KiB, ... up to the largest."""
    found = [1024]
    while found[-1] * 4 <= largest_mb * 2**20:
        found.append(found[-1] * 4)
    return found


def time_calls(operation: str, size: int, ranks: Ranks, repetitions: int) -> list[float]:
    """The slowest rank's seconds in each call, after three more; `size` is the bytes of each rank's input."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    elements = -(-size // 4 // ranks.size) * ranks.size
    values = tf.constant(np.ones(elements, np.float32))
    splits = tf.fill([ranks.size], elements // ranks.size)
    calls: dict[str, Callable[[], Any]] = {
        "allreduce": lambda: hvd.allreduce(values, op=hvd.Sum, name=f"allreduce.{size}"),
        "reducescatter": lambda: hvd.reducescatter(values, op=hvd.Sum, name=f"reducescatter.{size}"),
        "alltoall": lambda: hvd.alltoall(values, splits=splits, name=f"alltoall.{size}")[0],
    }
    call = tf.function(calls[operation])
    seconds = []
    for _ in range(repetitions + 3):
        ranks.barrier()
        ranks.total(np.zeros(1))  # aligns the ranks more finely than the patient barrier
        started = time.monotonic()
        call()
        seconds.append(ranks.largest(time.monotonic() - started))
    return seconds[3:]


def timestamp_seconds() -> float:
    """What one timestamp inside a step's graph costs: a chain of them against the same chain without."""
    import tensorflow as tf

    from horovod_flowers.strategy.waits import Waits

    waits = Waits()

    def chain(stamped: bool) -> Callable[[tf.Tensor], tf.Tensor]:
        @tf.function
        def run(value: tf.Tensor) -> tf.Tensor:
            for _ in range(TIMESTAMPS):
                value = value + (tf.cast(waits.after([value]), tf.float32) * 0 if stamped else 1.0)
            return value

        return run

    medians = []
    for graph in (chain(True), chain(False)):
        seconds = []
        for _ in range(12):
            started = time.monotonic()
            graph(tf.zeros([1]))
            seconds.append(time.monotonic() - started)
        medians.append(statistics.median(seconds[2:]))
    return max(0.0, medians[0] - medians[1]) / TIMESTAMPS


if __name__ == "__main__":
    main()
