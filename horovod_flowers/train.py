"""Train a Keras model data-parallel over MPI ranks, and record what every step took.

    horovodrun -np 8 python -m horovod_flowers.train
    mpirun -np 2 --bind-to none python -m horovod_flowers.train --epochs 10 --data.source tf_flowers
    python -m horovod_flowers.train --help

Order of work: configuration and data are checked on every rank alone; then MPI, cores, TensorFlow and Horovod start;
then the run folder is made and training begins. TensorFlow is imported late: a mistake is told before it loads. Rank 0
holds the run from its first look at it to the end.
"""

from collections.abc import Sequence
from pathlib import Path

from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.opening import open_data
from horovod_flowers.launch.job_environment import JobEnvironment
from horovod_flowers.ranks.stall_watch import StallWatch, longest
from horovod_flowers.ranks.startup import connect, find_job, start_tensorflow, take_cores
from horovod_flowers.ranks.stop_request import StopRequest
from horovod_flowers.runlog.run_hold import RunHold
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import GoneError, JobError, StorageError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.training.checks_before_mpi import check_before_mpi, check_launcher
from horovod_flowers.training.emulation import INTER_OP_THREADS, emulation_of, network_shrink
from horovod_flowers.training.resume import has_ended, read_config, read_trained_on
from horovod_flowers.training.setup import (
    agree_on_precision,
    begin_records,
    may_all_be_bf16,
    set_up,
    start_horovod_if_needed,
    with_name,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.train`."""
    with (
        error_boundary("horovod_flowers.train"),
        StopRequest() as request,
        StallWatch("horovod_flowers.train") as watch,
        RunHold("horovod_flowers.train") as hold,
    ):
        job = find_job(elastic=True)
        config = read_config(arguments, job.rank, hold)
        check_launcher(config, job)
        if config.elastic:
            from horovod_flowers.training.elastic.job import train_elastic

            if not is_complete(config, job.rank):
                train_elastic(config, job, request, hold)
            return
        check_before_mpi(config, job, hold)

        ranks = connect(job, config.threads, config.bind, round(longest(config.stall_seconds)))
        if ranks.allreduce_max(int((ranks.rank, ranks.size) != (job.rank, job.size))):
            # MPI's answer counts, and what was looked at was for another rank's, or another number of them.
            job = JobEnvironment(job.launcher, ranks.rank, ranks.size, ranks.local_rank, ranks.local_size)
            hold.give_up()
            ranks.barrier()
            check_before_mpi(config, job, hold)
        config = with_name(config, ranks, hold)
        # Asked of rank 0 alone, which holds the run: another may have looked before it ended.
        if ranks.broadcast(ranks.rank == 0 and is_complete(config, ranks.rank)):
            return
        watch.begin(ranks, Path(config.runs_dir) / f".stall-{config.name}", config.stall_seconds)
        emulation = ranks.broadcast(emulation_of(config, ranks.size, network_shrink()) if ranks.rank == 0 else None)
        if emulation is not None:
            prepared, images = emulation.images(config, ranks.size)
        else:
            prepared, images = open_data(config, ranks, read_trained_on(config) if ranks.rank == 0 else None)
        cores = take_cores(ranks, config.bind, config.threads)
        # The same everywhere: a rank with more of them would only wait for the others.
        threads = config.threads or ranks.allreduce_min(cores.physical)
        if emulation is not None:  # ranks that sleep need no cores, but threads to sleep in
            start_tensorflow(ranks, 1, INTER_OP_THREADS)
            threads, precision = emulation.profile.threads, emulation.precision
        else:
            gpu = start_tensorflow(ranks, threads, bf16=may_all_be_bf16(config, ranks))
            precision = agree_on_precision(config, ranks, gpu)
        ranks = start_horovod_if_needed(config, ranks, 1.0 if emulation is None else emulation.shrink)
        trainer, environment = set_up(
            config, ranks, prepared, images, cores, threads, precision, request, emulation=emulation
        )
        if config.replay_step is not None:
            from horovod_flowers.training.replay import replay

            replay(trainer.engine, trainer.progress, config.replay_step)
            return
        begin_records(trainer, environment)
        ranks.barrier()
        try:
            trainer.run()
        except GoneError:  # nothing continues in a folder that is no longer there
            raise
        except StorageError as error:
            there = trainer.folder.has_checkpoint
            kept = "its last checkpoint" if there else "the beginning, since it has no checkpoint yet"
            raise JobError(f"{error}; --resume-or-start --name {config.name} then continues from {kept}") from error


def is_complete(config: RunConfig, rank: int) -> bool:
    """Whether --resume-or-start finds nothing left to do; says so on rank 0."""
    if not (config.resume_or_start and has_ended(config)):
        return False
    if rank == 0:
        say(f"run {Path(config.runs_dir) / str(config.name)} is complete: nothing to do")
    return True


if __name__ == "__main__":
    main()
