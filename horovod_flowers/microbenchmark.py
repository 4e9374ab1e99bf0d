"""What collective calls cost here, by operation and size; adding up two arrays; and a timestamp inside a step.

    mpirun -np 2 --bind-to none python -m horovod_flowers.microbenchmark --output FILE.json

Part of `python -m horovod_flowers.bench`, and of a study whose job file says `collectives: true`.
"""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from horovod_flowers.collectives.config import MicrobenchmarkConfig
from horovod_flowers.collectives.timing import sizes, time_calls, time_reductions, timestamp_seconds
from horovod_flowers.config.command_line import parse
from horovod_flowers.emulation.gauge import CoreReading
from horovod_flowers.ranks.affinity import Cores
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.startup import connect, find_job, start_horovod, start_tensorflow, take_cores
from horovod_flowers.runlog import collectives
from horovod_flowers.runlog.collectives import Collectives, MeasuredCalls, write_collectives
from horovod_flowers.runlog.environment import (
    emulation,
    gather_core_gauge,
    horovod_settings,
    mpi_settings,
    versions,
    yields_when_idle,
)
from horovod_flowers.runlog.records import Operation
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.runtime.files import writable_folder
from horovod_flowers.runtime.machine import cpu_model, own_command, utc_now

OPERATIONS: tuple[Operation, ...] = get_args(Operation)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; every rank calls it."""
    with error_boundary("horovod_flowers.microbenchmark"):
        job = find_job()
        config = parse(MicrobenchmarkConfig, "horovod_flowers.microbenchmark", __doc__, arguments, job.rank)
        if job.size < 2:
            raise UserError("one rank has no other to communicate with: start at least 2 ranks, with mpirun -np 2")
        output = Path(config.output)
        if job.rank == 0:
            writable_folder(output.parent, "choose another file with --output")
        ranks = connect(job, config.threads, config.bind)
        cores = take_cores(ranks, config.bind, config.threads)
        threads = config.threads or ranks.allreduce_min(cores.physical)
        start_tensorflow(ranks, threads)
        ranks = start_horovod(ranks, config.horovod, 1)
        record = measure(config, ranks, cores, threads)
        if record is not None:
            write_collectives(output, record)
        ranks.barrier()


def measure(config: MicrobenchmarkConfig, ranks: Ranks, cores: Cores, threads: int) -> Collectives | None:
    """The record, on rank 0; None elsewhere. Every rank calls it."""
    started, messages = utc_now(), sizes(config.largest_mb)
    emulated = emulation()
    network = None if emulated is None else emulated.network
    shrink = 1.0 if network is None else network.shrink  # the record says what the messages stand for
    reading = None if emulated is None else CoreReading(precedence=True)
    measured = [
        MeasuredCalls(
            operation=name, bytes=round(size * shrink), seconds=time_calls(name, size, ranks, config.repetitions)
        )
        for name in OPERATIONS
        for size in messages
    ]
    gauge = None if reading is None else gather_core_gauge(ranks, reading.until_now())
    reduction_seconds = statistics.median(time_reductions(messages[-1], ranks, config.repetitions))
    timestamp = ranks.allreduce_max(timestamp_seconds())
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
        mpi_settings=mpi_settings(),
        emulated=emulated,
        core_gauge=gauge,
    )


if __name__ == "__main__":
    main()
