"""When the MPI library's own calls are bound to the functions that they mean: before TensorFlow brings others.

mpi4py's wheel loads the library with lazy binding: a function is looked up when it is first called. TensorFlow 2.21
exports the functions of its hwloc, and Open MPI's wheel those of its own, of another release; hwloc_topology_destroy,
which Open MPI calls for the first time as it ends, would by then be TensorFlow's, and a rank would crash in it. An
mpi4py that was built for one MPI is loaded as Python loads extensions, bound at once.
"""

import ctypes
import importlib.util
import mmap
import os
import sys
from pathlib import Path

from horovod_flowers.runtime.errors import UserError

CALLED_LAST = "hwloc_topology_destroy"


def bind_at_load() -> None:
    """Have every call within the MPI library bound as mpi4py loads it, which it has not done yet."""
    from mpi4py import _mpiabi

    if getattr(_mpiabi, "LIBMPI_MODE", 0) is None:  # that is, mpi4py's own choice
        _mpiabi.LIBMPI_MODE = os.RTLD_NOW | os.RTLD_LOCAL


def refuse_late_binding(library: Path | None) -> None:
    """Refuse an MPI library that a script has loaded before, in a process that would crash as it ends (UserError).

    library: the file of the MPI library that this process has loaded. A TensorFlow that was imported before the library
    was loaded does no harm: all calls are its own then.
    """
    if library is None or not _bound_late() or _came_first("tensorflow", "mpi4py.MPI"):
        return
    if _has_function(library) and _tensorflow_has_function():
        raise UserError(
            f"mpi4py.MPI was imported before MPI was started here, so that {library.name} would call a function of "
            "this TensorFlow as it ends, and crash: import mpi4py.MPI behind horovod_flowers.start() (or hvd.init()), "
            "or set LD_BIND_NOW=1 for the ranks"
        )


def _bound_late() -> bool:
    """Whether mpi4py has loaded its library with lazy binding."""
    from mpi4py import _mpiabi

    of_wheel = getattr(_mpiabi, "_registry", None)
    return bool(of_wheel) and _mpiabi.LIBMPI_MODE is None and not os.environ.get("LD_BIND_NOW")


def _came_first(module: str, other: str) -> bool:
    """Whether a module was imported before another that was."""
    imported = list(sys.modules)
    return module in imported and imported.index(module) < imported.index(other)


def _has_function(library: Path) -> bool:
    """Whether the library, or one that it brings, has a function of that name for others to call."""
    return hasattr(ctypes.CDLL(str(library)), CALLED_LAST)


def _tensorflow_has_function() -> bool:
    """Whether TensorFlow, which need not be imported, has one of the same name for all to call."""
    found = importlib.util.find_spec("tensorflow")
    for folder in (found.submodule_search_locations or []) if found else []:
        for file in Path(folder).glob("libtensorflow_framework.so*"):
            with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if content.find(b"\0" + CALLED_LAST.encode() + b"\0") >= 0:
                    return True
    return False
