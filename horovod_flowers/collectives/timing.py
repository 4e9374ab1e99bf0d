"""Times collective calls, additions of two arrays, and timestamps inside a graph. Every rank calls each function."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runlog.records import Operation

TIMESTAMPS = 100
UNTIMED_CALLS = 3


def sizes(largest_mb: int) -> list[int]:
    """Message sizes in bytes: 1 KiB, 4 KiB, ... up to the largest."""
    found = [1024]
    while found[-1] * 4 <= largest_mb * 2**20:
        found.append(found[-1] * 4)
    return found


def time_calls(operation: Operation, size: int, ranks: Ranks, repetitions: int) -> list[float]:
    """The slowest rank's seconds in each call. `size`: bytes of its larger side on a rank (allgather: the result)."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    elements = -(-size // 4 // ranks.size) * ranks.size
    values = tf.constant(np.ones(elements, np.float32))
    part = values[: elements // ranks.size]
    splits = tf.fill([ranks.size], elements // ranks.size)
    calls: dict[Operation, Callable[[], Any]] = {
        "allreduce": lambda: hvd.allreduce(values, op=hvd.Sum, name=f"allreduce.{size}"),
        "reducescatter": lambda: hvd.reducescatter(values, op=hvd.Sum, name=f"reducescatter.{size}"),
        "allgather": lambda: hvd.allgather(part, name=f"allgather.{size}"),
        "alltoall": lambda: hvd.alltoall(values, splits=splits, name=f"alltoall.{size}")[0],
    }
    return slowest_seconds(tf.function(calls[operation], autograph=False), ranks, repetitions)


def time_reductions(size: int, ranks: Ranks, repetitions: int) -> list[float]:
    """The slowest rank's seconds in each addition of two fp32 arrays of `size` bytes, all ranks at the same time."""
    total, arrived = (np.ones(size // 4, np.float32) for _ in range(2))
    return slowest_seconds(lambda: np.add(total, arrived, out=total), ranks, repetitions)


def slowest_seconds(call: Callable[[], Any], ranks: Ranks, repetitions: int) -> list[float]:
    """The slowest rank's seconds in each call, all ranks beginning together; the first UNTIMED_CALLS are left out."""
    seconds = []
    for _ in range(UNTIMED_CALLS + repetitions):
        ranks.barrier()
        ranks.allreduce_sum(np.zeros(1))  # aligns the ranks more finely than the patient barrier
        started = time.monotonic()
        call()
        seconds.append(ranks.allreduce_max(time.monotonic() - started))
    return seconds[UNTIMED_CALLS:]


def timestamp_seconds() -> float:
    """What one timestamp inside a step's graph costs: a chain of them against the same chain without."""
    import tensorflow as tf

    from horovod_flowers.strategy.step_timer import StepTimer

    timer = StepTimer()

    def chain(stamped: bool) -> Callable[[tf.Tensor], tf.Tensor]:
        @tf.function(autograph=False)  # it leaves files where temporary ones belong
        def run(value: tf.Tensor) -> tf.Tensor:
            for _ in range(TIMESTAMPS):
                value = value + (tf.cast(timer.after([value]), tf.float32) * 0 if stamped else 1.0)
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
