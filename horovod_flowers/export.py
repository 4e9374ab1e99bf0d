"""Export a trained run as files that load without this suite: a .keras file and a TensorFlow SavedModel.

    python -m horovod_flowers.export runs/NAME
    python -m horovod_flowers.export runs/NAME --checkpoint last --output FOLDER

Both take images of any size, and hold class names and where the model comes from. They are loaded back in another
process and compared with the run before they appear. docs/export.md tells how to load them.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from horovod_flowers.config.command_line import parse
from horovod_flowers.config.options import MOST_THREADS, check_limits, option, positional
from horovod_flowers.config.run import RunConfig
from horovod_flowers.inference.export.exported import (
    FORMAT,
    KERAS_FILE,
    MANIFEST,
    MEMBER,
    SAVED_MODEL,
    SCHEMA,
    Description,
    sha256,
    to_json,
)
from horovod_flowers.inference.trained_model import Checkpoint, TrainedModel, load_run, read_run_config
from horovod_flowers.ranks.startup import connect, find_job, start_tensorflow, take_cores
from horovod_flowers.runlog.environment import versions
from horovod_flowers.runlog.json_lines import read_json
from horovod_flowers.runlog.records import Environment
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.run_hold import RunAtRest, RunHold, check_not_held
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import UserError, first_line
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.runtime.files import own_temporary_files, whole_folder, writable_folder
from horovod_flowers.runtime.machine import utc_now


@dataclass(frozen=True)
class ExportConfig:
    """Options of the export command."""

    run: tuple[str, ...] = positional("folder of a trained run, such as runs/NAME")
    checkpoint: Literal["best", "last"] = option("best", "which of the run's checkpoints")
    output: str | None = option(None, "folder to write, which must not be there (default: export in the run's folder)")
    overwrite: bool = option(False, "replace an earlier export")
    threads: int = option(0, "TensorFlow threads; 0: as many as there are cores", at_least=0, at_most=MOST_THREADS)

    def __post_init__(self) -> None:
        if len(self.run) > 1:
            raise UserError(f"{len(self.run)} runs are given ({', '.join(self.run)}): give one")
        check_limits(self)

    @property
    def folder(self) -> Path:
        """Where the export goes."""
        return Path(self.run[0]) / "export" if self.output is None else Path(self.output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.export`, which one process runs."""
    with error_boundary("horovod_flowers.export"), RunHold("horovod_flowers.export") as hold:
        job = find_job()
        config = parse(ExportConfig, "horovod_flowers.export", __doc__, arguments, job.rank)
        if job.size > 1:
            raise UserError(f"{job.size} ranks are started, and export runs in one process: start it without mpirun")
        run, output = RunFolder(Path(config.run[0])), config.folder
        check_not_held(run.path, "wait for its end")
        trained = read_run_config(run)
        check_output(output, config.overwrite)
        hold.take(output, "wait for its end, or choose another --output")
        ranks = connect(job, config.threads, "auto")
        cores = take_cores(ranks, "auto", config.threads)
        start_tensorflow(ranks, config.threads or cores.physical)
        found = export(run, trained, config.checkpoint, output)
        size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
        say(
            f"exported {found.model}, epoch {found.epoch}, to {output} ({size / 1e6:.1f} MB): {KERAS_FILE}, "
            f"{SAVED_MODEL}/, {MANIFEST}; loaded back, they reproduce the run's answers"
        )


def export(run: RunFolder, config: RunConfig, which: Checkpoint, output: Path) -> Description:
    """Export a checkpoint of a run to the folder `output`, whole or not at all; TensorFlow must have been started.

    Raises UserError where the checkpoint cannot be read, where Keras or TensorFlow cannot write its model, where what
    they wrote does not load without the model's own code, or answers otherwise than the run; and where another process
    trains the run, JobError where one has begun to.
    """
    at_rest = RunAtRest(run.path, run.config, run.checkpoints / f"{which}.safetensors")
    model = load_run(run, which, config)
    description = describe(run, config, which, model)
    with own_temporary_files("export"), whole_folder(output) as folder:
        written = write(folder, model, description)
        at_rest.check()
    return written


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot be written, or is there already and not an export to replace (UserError)."""
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists already: choose another --output, or add --overwrite to replace an export")
    if output.exists() and not (output / MANIFEST).is_file():
        raise UserError(f"{output} is not an export (no {MANIFEST}), so it is not overwritten: choose another --output")
    writable_folder(output.absolute().parent, "choose another folder with --output")


def describe(run: RunFolder, config: RunConfig, which: Checkpoint, model: TrainedModel) -> Description:
    """What is exported and where it comes from; checksums are not there yet."""
    from horovod_flowers.checkpoint.format import read_progress

    progress = read_progress(run.checkpoints / f"{which}.safetensors")
    try:
        trained_on = read_json(run.environment, Environment)
    except (UserError, FileNotFoundError):  # a run from another version: its model is as good
        trained_on = None
    return Description(
        format=FORMAT,
        schema=SCHEMA,
        class_names=list(model.class_names),
        image_size=model.image_size,
        parameters=model.keras_model.count_params(),
        model=config.model.name,
        run=str(config.name or run.path.name),
        checkpoint=which,
        epoch=progress.epochs_done,
        validation_accuracy=progress.validation_accuracy,
        data_digest=progress.data_digest,
        commit=trained_on.commit if trained_on else None,
        versions=trained_on.versions if trained_on else None,
        started_utc=trained_on.started_utc if trained_on else None,
        exported_utc=utc_now(),
        exported_with=versions(),
    )


def write(folder: Path, model: TrainedModel, description: Description) -> Description:
    """Fill a folder with an export, and load it back. Returns the description with checksums and what was compared.

    Raises UserError, as `export` does.
    """
    from horovod_flowers.inference.export.load_back import compare
    from horovod_flowers.inference.export.served import with_preprocessing, write_saved_model

    try:
        whole = with_preprocessing(model.keras_model, model.image_size)
        write_keras(whole, folder / KERAS_FILE, to_json(description))
        write_saved_model(whole, model.image_size, model.class_names, folder / SAVED_MODEL)
        extra = folder / SAVED_MODEL / "assets.extra"
        extra.mkdir()
        (extra / MEMBER).write_bytes(to_json(description))
    except OSError as error:
        raise UserError(
            f"the export cannot be written ({error.strerror or error}): free some space, or choose another --output"
        ) from error
    except Exception as error:  # the user's layers: what they raise is told, not traced
        raise UserError(
            f"model {description.model} cannot be exported ({first_line(error)}): build it from Keras's own layers"
        ) from error
    checked = compare(folder, model, whole, description.model)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    checksums = {str(path.relative_to(folder)): sha256(path) for path in files}
    complete = msgspec.structs.replace(description, files=checksums, checked=checked)
    (folder / MANIFEST).write_bytes(to_json(complete))
    return complete


def write_keras(whole: Any, path: Path, description: bytes) -> None:
    """Write a .keras file with the description as one more member of the zip."""
    whole.save(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, description)


if __name__ == "__main__":
    main()
