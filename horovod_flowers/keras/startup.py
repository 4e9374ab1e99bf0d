"""Start and end of Horovod, with what a job on real clusters needs beside it."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import horovod.tensorflow as hvd
import tensorflow as tf

from horovod_flowers.keras.argument_error import ArgumentError
from horovod_flowers.keras.recorded_fits import record_fits
from horovod_flowers.launch.job_environment import SINGLE
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.horovod_build import refuse_unfit_horovod
from horovod_flowers.ranks.mpi_start import loaded_library
from horovod_flowers.ranks.single_process import SingleProcess
from horovod_flowers.ranks.startup import STALL_SECONDS, connect, find_job, limit_stalls, share_of_cores
from horovod_flowers.recording.of_fit import recorder_of_process
from horovod_flowers.runtime.console import say, warn
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import end_job_on_uncaught_errors


def init(comm: Any = None, process_sets: Any = None) -> None:
    """Start Horovod on this rank. Every rank calls it, before anything else of this interface.

    Beside Horovod itself: MPI yields the core while it waits where ranks have no spare one; TensorFlow gets as many
    threads as there are cores for this rank, where the script has set none; a rank that is missed in a call for
    120 s ends the job (HOROVOD_STALL_SHUTDOWN_TIME_SECONDS); an exception that the script does not catch does so at
    once, and is told by one rank. Without a launcher there is one rank. Where a study has started the script, each
    `fit` is recorded.

    comm: ranks of MPI's world as a list, or a communicator of mpi4py, to use instead of all ranks.
    process_sets: list of ProcessSet to make; "dynamic" allows for `add_process_set` later.
    Raises UserError where MPI knows of one rank alone though more were started, where Horovod was built for another
    MPI, for a `comm` without MPI, and where a study asks for a record of ranks without MPI.
    """
    if hvd.is_initialized():
        return
    name = Path(sys.argv[0]).name if sys.argv and sys.argv[0] not in ("", "-c") else "python"
    end_job_on_uncaught_errors(name)
    if "HOROVOD_GLOO_RENDEZVOUS_ADDR" in os.environ and "OMPI_COMM_WORLD_SIZE" not in os.environ:
        _refuse_communicator(comm, "horovodrun --gloo")
        if recorder_of_process() is not None:
            raise UserError(
                "a study asks for a record of this run, and that of ranks which horovodrun --gloo connects is not "
                "written: leave out --gloo, or let the study start the script itself (command: [python, SCRIPT])"
            )
        limit_stalls(STALL_SECONDS)
        hvd.init(process_sets=process_sets)
        return
    job = find_job()
    if job.launcher == SINGLE:
        _refuse_communicator(comm, "one process")
        with _one_rank_of_gloo():
            hvd.init(process_sets=process_sets)
        record_fits(Ranks(0, 1, 0, 1, SINGLE, SingleProcess()))
        say(f"{name}: one rank, since no mpirun, srun or horovodrun has started it")
        return
    ranks = connect(job, threads=0, bind="none")
    refuse_unfit_horovod(loaded_library())
    _set_threads(share_of_cores(ranks))
    hvd.init(comm, process_sets)
    if comm is None and hvd.size() != ranks.size:
        raise UserError(
            f"MPI started {ranks.size} ranks but Horovod knows of {hvd.size()}: rebuild Horovod against this "
            "environment's MPI"
        )
    if comm is None:
        record_fits(ranks)
    elif recorder_of_process() is not None:
        warn("hvd.init(comm) leaves out ranks, and a study records fits of all ranks: this run is not recorded")


def shutdown() -> None:
    """End Horovod on this rank. Every rank calls it, or none: it happens by itself when the script ends."""
    hvd.shutdown()


def _refuse_communicator(comm: Any, what: str) -> None:
    if comm is not None:
        raise ArgumentError(f"comm needs MPI, and this is {what}: start with mpirun, or leave comm out")


def _set_threads(cores: int) -> None:
    """Where neither the script nor the user has: TensorFlow would take all cores of the machine in every rank."""
    threading = tf.config.threading
    if threading.get_intra_op_parallelism_threads() or os.environ.get("TF_NUM_INTRAOP_THREADS"):
        return
    with contextlib.suppress(RuntimeError):  # TensorFlow has computed already, and keeps its threads
        threading.set_intra_op_parallelism_threads(cores)


@contextlib.contextmanager
def _one_rank_of_gloo() -> Iterator[None]:
    """Horovod would start MPI, which ends a process that has no mpirun. Processes that this one starts see nothing."""
    values = {f"HOROVOD_{name}_RANK": "0" for name in ("LOCAL", "CROSS")}
    values |= {f"HOROVOD_{name}_SIZE": "1" for name in ("LOCAL", "CROSS")}
    values |= {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1", "HOROVOD_HOSTNAME": "localhost"}
    values |= {"HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo"}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
