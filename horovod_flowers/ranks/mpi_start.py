"""The start of MPI on this rank: the library is loaded and asked what it is, told what it needs to know, then started.

What does not fit together is refused in between, while this process can still say so: most libraries end a process
themselves, in words of their own, once they were started.
"""

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from horovod_flowers.launch.job_environment import SRUN, Told, apart_in_slurm
from horovod_flowers.mpi.identify import library_from_text
from horovod_flowers.mpi.library import MpiLibrary
from horovod_flowers.mpi.mpich import OF_PMI
from horovod_flowers.mpi.open_mpi import OF_AN_MPIRUN, OpenMpi
from horovod_flowers.ranks.horovod_build import horovod_build
from horovod_flowers.ranks.mpi_binding import bind_at_load, refuse_late_binding
from horovod_flowers.runtime.errors import UserError, first_line
from horovod_flowers.runtime.temporary_space import refuse_full_temporary_folder

if TYPE_CHECKING:
    from mpi4py import MPI

HOST_MPI = "FLOWERS_HOST_MPI"
"""The folder, in a container, in which the host's MPI library lies (docs/clusters.md)."""


def start_mpi(told: Told, yields: bool, environment: Mapping[str, str] = os.environ) -> "MPI.Intracomm":
    """The communicator of all ranks. Starts MPI unless this process has done so.

    told: by the launcher. yields: whether a rank that waits gives up its core, where it is not told otherwise.
    Raises UserError where there is no MPI or no room for it, where launcher and library are not of one kind, and where
    MPI knows of this rank alone though more were started.
    """
    library = load_mpi()
    from mpi4py import MPI

    if not MPI.Is_initialized():
        refuse_other_launcher(told, library, environment)
        if (lacking := library.lacking(library_file(), environment, _on_several_nodes(told))) is not None:
            raise UserError(lacking)
        if isinstance(library, OpenMpi) and told.local_rank in (0, None):
            refuse_full_temporary_folder()
        _Found.pinned = library.pins(environment)
        variables = {**library.unbound_variables, **(library.yield_variables if yields else {})}
        to_start = library.start_variables(MPI.Get_library_version(), environment)
        _Found.start_note = library.start_note if to_start and not to_start.keys() & environment.keys() else ""
        for name, value in {**variables, **to_start}.items():
            os.environ.setdefault(name, value)
        before = os.sched_getaffinity(0)
        _start()
        _Found.narrowed = os.sched_getaffinity(0) < before
    world = MPI.COMM_WORLD
    if world.Get_size() == 1 and _tells_of_others(told):
        raise UserError(_apart(told, library))
    return world


def _on_several_nodes(told: Told) -> bool:
    return told.size is not None and told.local_size is not None and told.size > told.local_size


def _tells_of_others(told: Told) -> bool:
    return (told.size or 1) > 1 or (told.rank or 0) > 0 or (told.local_size or 1) > 1


class _Found:
    """What a process finds out once."""

    narrowed = pinned = False
    start_note = ""


def pinned_by_mpi() -> bool:
    """Whether MPI itself left this process fewer CPUs than there are for it: before it started, or as MPI did."""
    return _Found.narrowed or _Found.pinned


def start_note() -> str | None:
    """What is worth knowing of how MPI was started here; None for nothing."""
    return _Found.start_note or None


def load_mpi() -> MpiLibrary:
    """What the MPI library of this process is. Loads it and starts nothing. Raises UserError where there is none, and
    where a script has loaded it so that a rank would crash as it ends."""
    try:
        import mpi4py

        if "mpi4py.MPI" not in sys.modules:
            mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
            bind_at_load()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an ABI that it lacks: the error follows
            from mpi4py import MPI
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(_no_library(error)) from error
    refuse_late_binding(library_file())
    _refuse_own_in_container(os.environ)
    return library_from_text(MPI.Get_library_version())


def _refuse_own_in_container(environment: Mapping[str, str]) -> None:
    """Refuse the container's own MPI where the host's is asked for (UserError): its ranks would not find each other."""
    host, file = environment.get(HOST_MPI), library_file()
    if host and file is not None and not file.resolve().is_relative_to(Path(host).resolve()):
        raise UserError(
            f"{HOST_MPI} is {host}, but the MPI library that was loaded is {file}: bind the folder of the host's "
            f"libmpi into the container, and set MPI4PY_LIBMPI to the library in it ({host}/libmpi.so.12 or .40)"
        )


def loaded_library() -> MpiLibrary | None:
    """The library of this process, once it was loaded."""
    return load_mpi() if "mpi4py.MPI" in sys.modules else None


def refuse_other_launcher(told: Told, library: MpiLibrary, environment: Mapping[str, str]) -> None:
    """Refuse the launcher of another MPI than the library, where that would end this process itself (UserError)."""
    if told.launcher == "openmpi" and not environment.keys() & {*OF_AN_MPIRUN, *OF_PMI}:
        raise UserError(
            f"OMPI_COMM_WORLD_SIZE is {told.size}, as mpirun sets it, but no mpirun has started this process: unset "
            "the variables that begin with OMPI_COMM_WORLD, or start with mpirun"
        )
    alone = is_alone(library, environment)
    foreign = told.launcher == "openmpi" and library.abi == "MPICH" and not environment.keys() & OF_PMI
    if foreign and (_tells_of_others(told) or not alone):
        raise UserError(
            f"Open MPI's mpirun has started these ranks, and their library is {library.summary}, which it cannot "
            f"connect: start them with the mpirun (mpiexec) of {library.name}: load {library.module}, or put its "
            "folder first on PATH; or use an environment that was built with Open MPI"
        )
    if alone and _tells_of_others(told):
        raise UserError(_apart(told, library))


def is_alone(library: MpiLibrary, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the library would find no other rank here, as can be seen before it starts.

    It may end a process that it has to start alone, in words of its own.
    """
    return library.is_alone(library_file(), environment)


def library_file() -> Path | None:
    """The file of the MPI library that this process has loaded."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            path = line.split(maxsplit=5)[-1]
            if re.fullmatch(r"libmpi(_\w+)?\.so(\.\d+)*", Path(path).name):
                return Path(path)
    return None


def _apart(told: Told, library: MpiLibrary) -> str:
    """Of ranks that do not find each other."""
    if told.launcher == SRUN:
        return apart_in_slurm(told.size, library.srun_advice)
    how = LAUNCHER_NAMES.get(told.launcher, told.launcher)
    if told.launcher in ("pmi", "pmix", "pals") and "SLURM_STEP_NUM_TASKS" in os.environ:
        how = "Slurm's srun"
    count = "several" if told.size is None else told.size
    return (
        f"the launcher ({how}) started {count} ranks but MPI ({library.summary}) knows of 1, so that each would work "
        f"by itself: start them with the mpirun (mpiexec) of {library.name}, or {library.srun_advice}; or load the "
        "module of the launcher's own MPI"
    )


LAUNCHER_NAMES = {
    "openmpi": "Open MPI's mpirun",
    "pmi": "mpiexec of MPICH or Intel MPI",
    "pals": "mpiexec of PALS",
    "mvapich": "mpirun of MVAPICH",
}
"""In sentences; others as they are."""


def _start() -> None:
    """As mpi4py does when it is imported."""
    from mpi4py import MPI, rc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another MPI's mpiexec: told below, in one sentence
        if rc.threads:
            MPI.Init_thread(getattr(MPI, f"THREAD_{str(rc.thread_level).upper()}"))
        else:
            MPI.Init()


def _no_library(error: BaseException) -> str:
    """What to load."""
    if isinstance(error, ModuleNotFoundError) and error.name == "mpi4py":
        return "mpi4py is not installed in this environment, and ranks talk through it: install it (./flowers does)"
    build = horovod_build()
    of = f"Horovod was built with {build.mpi.name} ({build.needs})" if build and build.mpi else "there is none"
    what = build.mpi.module if build and build.mpi else "the module of the MPI that this environment was built with"
    return (
        f"no MPI library can be loaded ({_reason(error)}): {of}, so load {what}, as when it was built, or put the "
        "folder of its library on LD_LIBRARY_PATH"
    )


def _reason(error: BaseException) -> str:
    """Of the lines in which mpi4py says what it has tried, the one that is not just that no library lies there."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    there = [line for line in lines[1:] if not re.match(r"\S*libmpi[\w.]*: cannot open shared object file", line)]
    given = os.environ.get("MPI4PY_LIBMPI")
    if there:
        return first_line(RuntimeError(there[0]))
    if given:
        return f"MPI4PY_LIBMPI is {given}, where none lies"
    return first_line(RuntimeError(lines[0] if lines else "mpi4py cannot be imported"))
