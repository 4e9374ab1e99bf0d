"""Room for temporary files on this node: what an MPI starts with, whose own words for a lack of it name neither."""

import contextlib
import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.files import TEMPORARY_REMEDY, unfinished

NEEDED_BYTES = 8 * 2**20
"""Of the two files that PMIx maps on each node at its start."""
AMPLE_BYTES = 64 * 2**20
"""Below which the preflight says so: other programs take from it, too."""
SHARED_BYTES_A_RANK = 4 * 2**20
"""Of the memory in /dev/shm: Open MPI's segment for messages within a node."""
SHARED_MEMORY = Path("/dev/shm")


def temporary_folder_of_mpi(environment: Mapping[str, str] = os.environ) -> Path:
    """Where Open MPI puts its files: its own setting, else the variables that it asks, else /tmp."""
    names = ("OMPI_MCA_orte_tmpdir_base", "TMPDIR", "TEMP", "TMP")
    return Path(next((environment[name] for name in names if environment.get(name)), "/tmp"))


def refuse_full_temporary_folder(folder: Path | None = None) -> None:
    """Prove that there is room for an MPI to start on this node, by writing as much (UserError)."""
    folder = folder or temporary_folder_of_mpi()
    probe = unfinished(folder / "horovod_flowers-room")
    try:
        try:
            probe.write_bytes(bytes(NEEDED_BYTES))
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
    except OSError as error:
        left = ""
        with contextlib.suppress(OSError):
            left = f", {shutil.disk_usage(folder).free / 2**20:.1f} MiB free"
        where = f"{folder} on {os.uname().nodename}, the folder for temporary files,"
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{where} cannot be written ({error.strerror or error}), and MPI starts with "
                f"{NEEDED_BYTES / 2**20:.0f} MiB there: set TMPDIR to another folder"
            ) from error
        raise UserError(
            f"{where} has no room for the {NEEDED_BYTES / 2**20:.0f} MiB that MPI starts with "
            f"({error.strerror or error}{left}): {TEMPORARY_REMEDY}"
        ) from error


def clear_files_of_mpirun(process: int) -> None:
    """Remove what an mpirun has left of that process id, which was killed: 8 MiB, which Open MPI never takes away."""
    for folder in temporary_folder_of_mpi().glob(f"ompi.*.{os.geteuid()}/pid.{process}"):
        shutil.rmtree(folder, ignore_errors=True)


def scarce_space(ranks: int) -> tuple[str, ...]:
    """What this node has little room in, for so many ranks on it: a sentence each."""
    found = []
    wanted = {temporary_folder_of_mpi(): AMPLE_BYTES, SHARED_MEMORY: SHARED_BYTES_A_RANK * ranks}
    for folder, needed in wanted.items():
        with contextlib.suppress(OSError):  # not there
            free = shutil.disk_usage(folder).free
            if free < needed:
                found.append(f"{folder} has {free / 2**20:.1f} MiB free, and {needed / 2**20:.0f} are needed")
    return tuple(found)
