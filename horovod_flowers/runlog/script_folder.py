"""The folder of a script's run: its records begin, wait for the script's end, and count or are cleared away.

The script may keep files of its own in the folder (checkpoints, say): only records are touched.
"""

from collections.abc import Iterator
from pathlib import Path

from horovod_flowers.config.script import ScriptConfig, is_script
from horovod_flowers.config.yaml_file import options_in
from horovod_flowers.runlog.records import Environment
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.files import write_whole


def waiting_result(folder: RunFolder) -> Path:
    """Where the result of a script lies until the script has ended well: only a study knows how it ends."""
    return folder.path / ".result.json"


def check_is_scripts(folder: RunFolder) -> None:
    """Refuse a folder that holds something else than a script's run (UserError); one without records will do."""
    if folder.config.exists():
        if not is_script(options_in(folder.config)):
            raise UserError(
                f"{folder.path} is a run of horovod_flowers.train: give the study another name in its job file, or "
                "another --runs-dir"
            )
    elif any(_records(folder)):
        raise UserError(
            f"{folder.path} has {next(_records(folder)).name} and no config.yaml, so it is no run of a script: remove "
            "it, or give the study another name"
        )


def clear_records(folder: RunFolder) -> None:
    """Remove the records of an attempt that has not come to its end. Raises UserError as `check_is_scripts` does, and
    for a run that is finished."""
    check_is_scripts(folder)
    if folder.result.exists():
        raise UserError(f"run {folder.path} is finished: it is not begun again")
    for record in _records(folder):
        record.unlink(missing_ok=True)


def begin_records(folder: RunFolder, config_yaml: str) -> None:
    """Make the folder, clear what an earlier attempt has left, and write what the run is.

    Raises UserError as `clear_records` does.
    """
    clear_records(folder)
    folder.steps(0).parent.mkdir(parents=True, exist_ok=True)
    write_whole(folder.config, config_yaml)


def otherwise(config: ScriptConfig, found: Environment) -> str | None:
    """What a script's ranks did otherwise than a study's job file says, in a sentence; None where nothing."""
    asked = config.global_batch_for(found.world_size)
    if found.global_batch != asked:
        return (
            f"its global batch was {found.global_batch}, and the job file says {asked} at {found.world_size} ranks: "
            "hand it to the script by {global_batch} or {per_rank_batch}"
        )
    threads = {rank.threads for rank in found.ranks}
    if config.threads and threads != {config.threads}:
        return (
            f"its ranks computed with {'/'.join(map(str, sorted(threads)))} threads, and the job file says "
            f"{config.threads}: leave the number of threads to it in the script"
        )
    return None


def _records(folder: RunFolder) -> Iterator[Path]:
    """Those that are there, but for config.yaml and result.json."""
    named = (folder.environment, folder.epochs, folder.changes, waiting_result(folder))
    yield from (path for path in named if path.exists())
    yield from folder.step_files()
