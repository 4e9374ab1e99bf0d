"""Which MPI library Python finds, and of which kind a program is that starts ranks: both are asked."""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from horovod_flowers.mpi.hydra import Hydra
from horovod_flowers.mpi.intel_mpi import IntelHydra, IntelMpi
from horovod_flowers.mpi.library import MpiLibrary, OtherMpi
from horovod_flowers.mpi.mpich import CrayMpich, Mpich, Mvapich, ParaStation
from horovod_flowers.mpi.open_mpi import OpenMpi, OpenMpi5Run, OpenMpiRun
from horovod_flowers.mpi.pals import Pals
from horovod_flowers.mpi.process_manager import OtherManager, ProcessManager

SECONDS_TO_ANSWER = 60.0
"""A file system that has to be woken takes many."""

LIBRARIES: Mapping[str, type[MpiLibrary]] = MappingProxyType(
    {
        r"Open MPI v?(?P<version>[\w.]+)": OpenMpi,
        r"Intel(?:\(R\))? MPI (?:Library )?(?:Version )?(?P<version>[\d.]+)": IntelMpi,
        r"(?:CRAY MPICH version|Cray MPICH) (?P<version>[\w.]+)": CrayMpich,
        r"MVAPICH2?(?:-\w+)?(?: Version\s*:)?\s+(?P<version>[\w.]+)": Mvapich,
        r"ParaStation MPI\D*(?P<version>[\d.]*)": ParaStation,
        r"MPICH(?: Version\s*:)?\s+(?P<version>\d[\w.]*)": Mpich,
    }
)
"""By what MPI.Get_library_version() says of them, or their summary in records, the more special ones first."""

MANAGERS: Mapping[str, type[ProcessManager]] = MappingProxyType(
    {
        r"\((?:Open MPI|OpenRTE)\) (?P<version>[5-9][\w.]*|\d\d[\w.]*)": OpenMpi5Run,
        r"\(PRRTE\) (?P<version>[\w.]+)": OpenMpi5Run,
        r"\((?:Open MPI|OpenRTE)\) (?P<version>[\w.]+)": OpenMpiRun,
        r"Intel\(R\) MPI Library.*?Version (?P<version>[\d.]+)": IntelHydra,
        r"HYDRA build details:\s*Version:\s*(?P<version>[\w.]+)": Hydra,
        r"\bPALS\b\D*(?P<version>[\d.]*)": Pals,
    }
)
"""By what `mpirun --version` or `mpiexec --version` says, likewise."""


def library_from_text(text: str) -> MpiLibrary:
    """The library that MPI.Get_library_version() has told of, in one line or many, or a record by its summary.

    OtherMpi where it is not known.
    """
    for pattern, kind in LIBRARIES.items():
        if found := re.search(pattern, text):
            return kind(version=found["version"])
    return OtherMpi(version="", told=_first_line(text))


@functools.cache
def installed_library(python: str = sys.executable) -> MpiLibrary | None:
    """The library that mpi4py finds, asked in a process of its own, without starting MPI.

    None where there is none, or it cannot be asked: what is the matter is told by whoever needs it.
    """
    program = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
    told = _told([python, "-c", program], statuses=(0,))
    return None if told is None else library_from_text(told)


def manager_of(program: str) -> ProcessManager:
    """Of which kind a program is that starts ranks, on PATH or by its path; OtherManager where that is not known."""
    return replace(_manager_at(shutil.which(program) or program), program=program)


@functools.cache
def _manager_at(path: str) -> ProcessManager:
    told = _told([path, "--version"]) or ""
    for pattern, kind in MANAGERS.items():
        if found := re.search(pattern, told, re.DOTALL):
            return kind(path, found["version"])
    if "pals" in Path(os.path.realpath(path)).parts:
        return Pals(path)
    return OtherManager(path, told=_first_line(told))


def _told(words: list[str], statuses: tuple[int, ...] | None = None) -> str | None:
    """What a command says; None where it cannot be started, ends with another status, or does not end."""
    # Intel MPI's mpirun is a script, which finds what it calls on PATH alone.
    path = os.pathsep.join([str(Path(words[0]).parent), os.environ.get("PATH", os.defpath)])
    try:
        done = subprocess.run(
            words,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if statuses is None else subprocess.DEVNULL,
            env={**os.environ, "PATH": path},
            text=True,
            errors="replace",
            timeout=SECONDS_TO_ANSWER,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return None if statuses is not None and done.returncode not in statuses else done.stdout


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.replace("\\n", "\n").splitlines() if line.strip()), "")


def all_yield_variables() -> dict[str, str]:
    """Of every library: what is not an MPI's own variable it does not read."""
    return {name: value for kind in LIBRARIES.values() for name, value in kind.yield_variables.items()}


def all_unbound_variables() -> dict[str, str]:
    """Of every library, likewise."""
    return {name: value for kind in LIBRARIES.values() for name, value in kind.unbound_variables.items()}


def all_processes() -> frozenset[str]:
    """Names of the processes that any of them leaves beside the ranks of a node."""
    return frozenset(name for kind in MANAGERS.values() for name in kind.processes)
