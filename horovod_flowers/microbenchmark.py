"""What collective calls cost here, by operation and size; adding up two arrays; and a timestamp inside a step's graph.

    mpirun -np 2 --bind-to none python -m horovod_flowers.microbenchmark --output FILE.json
    mpirun -np 2 --bind-to none python -m horovod_flowers.microbenchmark --measure peak --precisions fp32,bf16

With --measure peak: what the ranks compute at most, all at once, by large matrix products. Part of
`python -m horovod_flowers.bench`, and of a study whose job file says `collectives: true` or `peak: true`.
"""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from horovod_flowers.collectives.config import MicrobenchmarkConfig
from horovod_flowers.collectives.peak import time_products
from horovod_flowers.collectives.timing import sizes, time_calls, time_reductions, timestamp_seconds
from horovod_flowers.config.command_line import parse
from horovod_flowers.config.run import RunConfig
from horovod_flowers.emulation.gauge import CoreReading
from horovod_flowers.model.precision import may_be_bf16, rounds_to_bf16
from horovod_flowers.ranks.affinity import Cores
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.startup import connect, find_job, start_horovod, start_tensorflow, take_cores
from horovod_flowers.runlog import collectives, machine_peak
from horovod_flowers.runlog.collectives import Collectives, MeasuredCalls, write_collectives
from horovod_flowers.runlog.environment import (
    CPU_FEATURES,
    emulation,
    gather_core_gauge,
    gpu_model,
    horovod_settings,
    mpi_settings,
    versions,
    yields_when_idle,
)
from horovod_flowers.runlog.machine_peak import MachinePeak, TimedProducts, write_peak
from horovod_flowers.runlog.records import Operation
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.runtime.files import writable_folder
from horovod_flowers.runtime.machine import cpu_flags, cpu_model, own_command, utc_now
from horovod_flowers.training.setup import agree_on_precision

OPERATIONS: tuple[Operation, ...] = get_args(Operation)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; every rank calls it."""
    with error_boundary("horovod_flowers.microbenchmark"):
        job = find_job()
        config = parse(MicrobenchmarkConfig, "horovod_flowers.microbenchmark", __doc__, arguments, job.rank)
        if job.size < 2 and config.measure == "collectives":
            raise UserError("one rank has no other to communicate with: start at least 2 ranks, with mpirun -np 2")
        if config.measure == "peak" and emulation() is not None:
            raise UserError("a peak is of real nodes, and these are virtual: leave out the network, or --measure peak")
        output = Path(config.output)
        if job.rank == 0:
            writable_folder(output.parent, "choose another file with --output")
        ranks = connect(job, config.threads, config.bind)
        cores = take_cores(ranks, config.bind, config.threads)
        threads = config.threads or ranks.allreduce_min(cores.physical)
        if config.measure == "peak":
            peak = measure_peak(config, ranks, cores, threads)
            if peak is not None:
                write_peak(output, peak)
                tell_peak(peak, output)
        else:
            start_tensorflow(ranks, threads)
            ranks = start_horovod(ranks, config.horovod, 1)
            record = measure(config, ranks, cores, threads)
            if record is not None:
                write_collectives(output, record)
        ranks.barrier()


def measure_peak(config: MicrobenchmarkConfig, ranks: Ranks, cores: Cores, threads: int) -> MachinePeak | None:
    """The record, on rank 0; None elsewhere. Every rank calls it, before TensorFlow has started.

    Raises UserError on all where a precision that was asked for is not there.
    """
    started, flags = utc_now(), cpu_flags()
    bf16 = any(may_be_bf16(asked, flags) for asked in config.chosen_precisions)
    gpu = start_tensorflow(ranks, threads, bf16=bool(ranks.allreduce_min(int(bf16))))
    measured = dict[str, list[TimedProducts]]()
    for asked in config.chosen_precisions:
        precision = agree_on_precision(RunConfig(precision=asked), ranks, gpu)
        if precision == "fp32" and bf16 and not gpu and rounds_to_bf16():  # on aarch64 oneDNN was told at its start
            if ranks.rank == 0:
                say("fp32 is left out: products are computed in bf16 here; measure it alone, with --precisions fp32")
        elif precision not in measured:
            measured[precision] = list(time_products(precision, ranks, config.repetitions))
    import tensorflow as tf

    gpus = tf.config.get_visible_devices("GPU")
    features = [feature for feature in CPU_FEATURES if feature in flags]
    own_gpu = gpu_model(gpus[0]) if gpus else None
    gathered = ranks.gather((os.uname().nodename, cpu_model(), features, own_gpu, cores))
    if gathered is None:
        return None
    nodes = {host: (model, features) for host, model, features, _, _ in gathered}
    return MachinePeak(
        schema=machine_peak.SCHEMA,
        world_size=ranks.size,
        hosts=list(nodes),
        ranks_per_node=[sum(found[0] == host for found in gathered) for host in nodes],
        cpu_models=[model for model, _ in nodes.values()],
        cpu_features=[features for _, features in nodes.values()],
        gpus=[found[3] for found in gathered],
        threads=threads,
        physical_cores=min(found[4].physical for found in gathered),
        oversubscribed=any(found[4].oversubscribed for found in gathered),
        versions=versions(),
        started_utc=started,
        command=own_command(),
        measured=[each for of_precision in measured.values() for each in of_precision],
    )


def tell_peak(record: MachinePeak, output: Path) -> None:
    """A line for each precision."""
    whole = "its GPU" if record.gpus[0] is not None else f"{record.threads} thread(s)"
    shared = " (oversubscribed: ranks shared a core, no peak)" if record.oversubscribed else ""
    for precision in dict.fromkeys(each.precision for each in record.measured):
        found = record.flops_per_second(precision)
        if found is not None:
            say(f"{precision}: {found / 1e9:.1f} GFLOP/s a rank with {whole}, {record.world_size} at once{shared}")
    say(f"peak in {output}")


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
