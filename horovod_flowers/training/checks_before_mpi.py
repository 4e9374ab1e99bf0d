"""What is refused before MPI starts."""

from pathlib import Path

from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.opening import find_images, split_checked
from horovod_flowers.data.order import validation_range
from horovod_flowers.data.preparing import command_for
from horovod_flowers.launch.job_environment import ELASTIC, JobEnvironment
from horovod_flowers.model.precision import choose
from horovod_flowers.model.registry import check_file, check_name
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.run_hold import RunHold
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.files import writable_folder
from horovod_flowers.runtime.machine import cpu_flags
from horovod_flowers.training.emulation import emulation_of, network_shrink
from horovod_flowers.training.initial_weights import check_weights
from horovod_flowers.training.resume import IN_USE, check_continues, read_trained_on


def check_launcher(config: RunConfig, job: JobEnvironment) -> None:
    """Refuse ranks that may come and go without --elastic, and --elastic where they cannot (UserError)."""
    command = "horovodrun -np N --min-np M --host-discovery-script SCRIPT (docs/elastic.md)"
    if job.launcher == ELASTIC and not config.elastic:
        raise UserError(f"{command} starts ranks without MPI: add --elastic, or start with horovodrun -np N, or mpirun")
    if config.elastic and job.launcher != ELASTIC:
        raise UserError(f"elastic training is started with {command}, not {job.launcher}: or add --no-elastic")


def check_before_mpi(config: RunConfig, job: JobEnvironment, hold: RunHold) -> None:
    """Refuse everything that can be known without the other ranks. Rank 0 looks at files, for all, and holds the run.

    Raises UserError.
    """
    check_name(config.model.name, config.model.options)
    config.global_batch_for(job.size)
    config.model_parallel_size_for(job.size, job.local_size)
    if job.rank != 0:
        return
    emulation = emulation_of(config, job.size, network_shrink())
    if emulation is None:  # else nothing is computed here
        choose(config.precision, cpu_flags(), gpu=Path("/dev/nvidiactl").exists())
        if not config.resume:
            check_file(config.model.name)
    if config.model.weights is not None:
        check_weights(Path(config.model.weights))
    writable_folder(Path(config.runs_dir), "choose another folder with --runs-dir")
    if config.name is not None:
        folder = RunFolder(Path(config.runs_dir) / config.name)
        hold.take(folder.path, IN_USE)
        folder.check(config.overwrite, config.resume)
        if config.resume:
            check_continues(folder, config, job.size)
    if emulation is not None:
        return
    found = find_images(config, read_trained_on(config))
    if found.prepared is not None:
        split_checked(found.prepared, config, job.size)
        return
    if config.data.source != "synthetic" or config.elastic:  # ranks that come in the middle do not wait for drawings
        raise UserError(f"the photos are not prepared: run '{command_for(config.data)}' first (on the login node)")
    begin, end = validation_range(config.data.synthetic_images, config.data)
    config.check_against(job.size, begin, end - begin)
