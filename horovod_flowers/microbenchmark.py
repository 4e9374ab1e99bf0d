"""What collective calls cost here, by operation and size; adding up two arrays; and a timestamp inside a step.

    mpirun -np 2 --bind-to none python -m horovod_flowers.microbenchmark --output FILE.json

Part of `python -m horovod_flowers.bench`, and of a study whose job file says `collectives: true`.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from horovod_flowers import collectives
from horovod_flowers.affinity import Cores
from horovod_flowers.collectives import Collectives, MeasuredCalls, write_collectives
from horovod_flowers.command_line import parse
from horovod_flowers.config import HorovodConfig
from horovod_flowers.environment import cpu_model, horovod_settings, utc_now, versions, yields_when_idle
from horovod_flowers.errors import UserError
from horovod_flowers.files import writable_folder
from horovod_flowers.launch import Launch, error_boundary, own_command
from horovod_flowers.options import option
from horovod_flowers.ranks import Ranks, connect, start_horovod, start_tensorflow, take_cores
from horovod_flowers.runlog import Operation

OPERATIONS: tuple[Operation, ...] = get_args(Operation)
TIMESTAMPS = 100
UNTIMED_CALLS = 3


@dataclass(frozen=True)
class MicrobenchmarkConfig:
    """Options of the microbenchmark."""

    output: str = option("microbenchmark.json", "file to write")
    largest_mb: int = option(64, "largest message in MB; each size is four times the one before, from 1 KB")
    repetitions: int = option(15, f"timed calls of each size, after {UNTIMED_CALLS} more")
    threads: int = option(1, "cores of each rank; 0: as many as its share of the node's cores")
    bind: Literal["auto", "none"] = option("auto", "auto: pin each rank to its share of the node's cores")
    horovod: HorovodConfig = field(default_factory=HorovodConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.largest_mb <= 1024:
            raise UserError(f"largest_mb is {self.largest_mb}: give 1 to 1024")
        if self.repetitions < 3:
            raise UserError(f"repetitions is {self.repetitions}: give at least 3")
        if self.threads < 0:
            raise UserError(f"threads is {self.threads}: give 0 or a positive whole number")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; every rank calls it."""
    with error_boundary("horovod_flowers.microbenchmark"):
        launch = Launch.from_environment(os.environ)
        description = (__doc__ or "").splitlines()[0]
        config = parse(MicrobenchmarkConfig, "horovod_flowers.microbenchmark", description, arguments, launch.rank)
        if launch.size < 2:
            raise UserError("one rank has nobody to talk to: start at least 2, with mpirun -np 2")
        output = Path(config.output)
        if launch.rank == 0:
            writable_folder(output.parent, "choose another file with --output")
        ranks = connect(launch, config.threads, config.bind)
        cores = take_cores(ranks, config.bind, config.threads)
        threads = config.threads or ranks.smallest(cores.physical)
        start_tensorflow(ranks, threads)
        ranks = start_horovod(ranks, config.horovod, 1)
        record = measure(config, ranks, cores, threads)
        if record is not None:
            write_collectives(output, record)
        ranks.barrier()


def measure(config: MicrobenchmarkConfig, ranks: Ranks, cores: Cores, threads: int) -> Collectives | None:
    """The record, on rank 0; None elsewhere. Every rank calls it."""
    started, messages = utc_now(), sizes(config.largest_mb)
    measured = [
        MeasuredCalls(operation=name, bytes=size, seconds=time_calls(name, size, ranks, config.repetitions))
        for name in OPERATIONS
        for size in messages
    ]
    reduction_seconds = statistics.median(time_reductions(messages[-1], ranks, config.repetitions))
    timestamp = ranks.largest(timestamp_seconds())
    gathered = ranks.gather((cores.oversubscribed, os.uname().nodename, cpu_model()))
    if gathered is None:
        return None
    nodes = {host: model for _, host, model in gathered}
    return Collectives(
        schema=collectives.SCHEMA,
        world_size=ranks.size,
        hosts=list(nodes),
        cpu_models=list(nodes.values()),
        threads=threads,
        oversubscribed=any(oversubscribed for oversubscribed, _, _ in gathered),
        yield_when_idle=yields_when_idle(),
        horovod_settings=horovod_settings(),
        versions=versions(),
        started_utc=started,
        command=own_command(),
        measured=measured,
        reduction_bytes_per_second=messages[-1] / reduction_seconds,
        timestamp_seconds=timestamp,
    )


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
    return _slowest_seconds(tf.function(calls[operation]), ranks, repetitions)


def time_reductions(size: int, ranks: Ranks, repetitions: int) -> list[float]:
    """The slowest rank's seconds in each addition of two fp32 arrays of `size` bytes, all ranks at the same time."""
    total, arrived = (np.ones(size // 4, np.float32) for _ in range(2))
    return _slowest_seconds(lambda: np.add(total, arrived, out=total), ranks, repetitions)


def _slowest_seconds(call: Callable[[], Any], ranks: Ranks, repetitions: int) -> list[float]:
    seconds = []
    for _ in range(UNTIMED_CALLS + repetitions):
        ranks.barrier()
        ranks.total(np.zeros(1))  # aligns the ranks more finely than the patient barrier
        started = time.monotonic()
        call()
        seconds.append(ranks.largest(time.monotonic() - started))
    return seconds[UNTIMED_CALLS:]


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
