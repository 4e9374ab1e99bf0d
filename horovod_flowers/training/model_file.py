"""A model that a file holds (--model.name PATH.keras), kept in the run: what it was trained from may change, or go."""

import zlib
from pathlib import Path

from horovod_flowers.config.run import RunConfig
from horovod_flowers.model.registry import SAVED
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runtime.errors import UserError


def model_source(config: RunConfig) -> str:
    """What a run's model is built from: its name, or the file that the run has kept where it goes on."""
    folder = RunFolder(Path(config.runs_dir) / str(config.name))
    return kept_source(config, folder) if config.resume else config.model.name


def kept_source(config: RunConfig, folder: RunFolder) -> str:
    """The same of a run that is there."""
    kept = config.model.name.endswith(SAVED) and folder.model.is_file()
    return str(folder.model) if kept else config.model.name


def refuse_other_file(name: str, ranks: Ranks) -> None:
    """Refuse a file that is another on one rank (UserError on all). Every rank calls it."""
    if not name.endswith(SAVED):
        return
    path = Path(name)
    crc = zlib.crc32(path.read_bytes()) if path.is_file() else None
    error = None
    if ranks.broadcast(crc) != crc:
        error = UserError(f"model file {name} is another one here than on rank 0: give a path that all nodes share")
    ranks.raise_on_all(error)
