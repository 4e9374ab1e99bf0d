"""What the installed Horovod was built for, read from its files before it is loaded; and its import, with a sentence
where it cannot be.

A Horovod that was built for another Python, TensorFlow or MPI ends in an undefined symbol, a crash, or ranks that never
meet.
"""

import contextlib
import importlib.util
import json
import mmap
import re
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from horovod_flowers.mpi.library import MpiLibrary
from horovod_flowers.mpi.mpich import Mpich
from horovod_flowers.mpi.open_mpi import OpenMpi
from horovod_flowers.runtime.errors import UserError, first_line

AGAIN = "build it again in this environment (./flowers does; ./flowers --mpi system with the MPI of a loaded module)"
_BY_SONAME: dict[int, type[MpiLibrary]] = {40: OpenMpi, 12: Mpich}
"""The number behind .so: it stands for the binary interface."""


@dataclass(frozen=True)
class HorovodBuild:
    """What Horovod's library for TensorFlow was built for."""

    file: Path
    """The library of this Python; not there where it was built for another."""
    pythons: tuple[str, ...]
    """The tags of those that are there, such as 'cpython-311-x86_64-linux-gnu'."""
    needs: str | None
    """The MPI library that it names, such as 'libmpi.so.40'; None where it was built without MPI."""
    tensorflow: str | None
    """The version that it was built for."""

    @property
    def mpi(self) -> type[MpiLibrary] | None:
        """Of what kind that library is; None where it is of none that is known."""
        return None if self.needs is None else _BY_SONAME.get(int(self.needs.rpartition(".")[2]))


@cache
def horovod_build() -> HorovodBuild | None:
    """Of the Horovod that an import would find; None where there is none."""
    spec = importlib.util.find_spec("horovod")
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(next(iter(spec.submodule_search_locations)))
    file = root / "tensorflow" / f"mpi_lib{sysconfig.get_config_var('EXT_SUFFIX')}"
    tags = tuple(sorted(found.name.split(".")[1] for found in file.parent.glob("mpi_lib.*.so")))
    built_for = None
    with contextlib.suppress(OSError, ValueError, AttributeError):  # an older Horovod has none
        built_for = json.loads((root / "metadata.json").read_text(encoding="utf-8")).get("tensorflow")
    return HorovodBuild(file, tags, _library_named_in(file), built_for)


def _library_named_in(file: Path) -> str | None:
    """The libmpi that the dynamic section of a shared library names, such as libmpi_gnu_123.so.12, or Debian's
    libmpich.so.12."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as contents:
            found = re.search(rb"\0(libmpi\w*\.so\.\d+)\0", contents)
            return None if found is None else found[1].decode("ascii")
    except (OSError, ValueError):
        return None


def refuse_unfit_horovod(library: MpiLibrary | None) -> None:
    """Refuse a Horovod that was built for something else than what is here (UserError).

    library: the MPI of these ranks; None where they talk without.
    """
    build = horovod_build()
    if build is None:
        raise UserError(f"Horovod is not installed in this environment: {AGAIN}")
    if not build.file.exists():
        if build.pythons:
            raise UserError(
                f"Horovod in {build.file.parent} was built for {', '.join(build.pythons)}, and this Python is "
                f"{sysconfig.get_config_var('SOABI')}: {AGAIN}"
            )
        raise UserError(
            f"Horovod in {build.file.parent} was built without TensorFlow (HOROVOD_WITH_TENSORFLOW=1): {AGAIN}"
        )
    installed = tensorflow_version()
    if build.tensorflow and installed and build.tensorflow.split(".")[:2] != installed.split(".")[:2]:
        raise UserError(
            f"Horovod was built for TensorFlow {build.tensorflow}, and {installed} is installed: {AGAIN}, or install "
            f"TensorFlow {build.tensorflow}"
        )
    if library is None:
        return
    if build.needs is None:
        raise UserError(f"Horovod in {build.file.parent} was built without MPI (HOROVOD_WITH_MPI=1): {AGAIN}")
    if build.mpi is not None and library.abi is not None and build.mpi.abi != library.abi:
        raise UserError(
            f"Horovod was built for {build.mpi.abi} ({build.needs}), and the MPI here is {library.summary}: load "
            f"{build.mpi.module} and start with its mpirun, or {AGAIN}"
        )


def tensorflow_version() -> str | None:
    """Of the TensorFlow that is installed, which need not be imported; None where there is none."""
    if (module := sys.modules.get("tensorflow")) is not None:
        return str(getattr(module, "__version__", "")) or None
    for name in ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tf-nightly"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def import_horovod(library: MpiLibrary | None) -> Any:
    """The module horovod.tensorflow. Raises UserError where it was built for something else, or cannot be loaded."""
    if "horovod.tensorflow" not in sys.modules:
        refuse_unfit_horovod(library)
    try:
        import horovod.tensorflow as hvd
    except Exception as error:
        # TensorFlow's NotFoundError, an ImportError, an OSError, or Horovod's own of a version
        raise UserError(_why_not(error)) from error
    return hvd


def _why_not(error: BaseException) -> str:
    said = str(error)
    if missing := re.search(r"(lib[\w+.-]+\.so[\w.]*): cannot open shared object file", said):
        build = horovod_build()
        kind = build.mpi if build is not None and build.needs == missing[1] else None
        remedy = kind.module if kind is not None else "the modules that were loaded when it was built"
        return (
            f"Horovod cannot be loaded, since {missing[1]} is not found: load {remedy}, or put its folder on "
            "LD_LIBRARY_PATH"
        )
    if symbol := re.search(r"undefined symbol:? (\w+)", said):
        return (
            f"Horovod cannot be loaded (undefined symbol {symbol[1]}): it was built for another TensorFlow or MPI than "
            f"is here: {AGAIN}"
        )
    return f"Horovod cannot be loaded ({first_line(error)}): {AGAIN}"
