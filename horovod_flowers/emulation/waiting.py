"""Ranks that wait sleep: builds waiting.c into the user's cache, once, and loads it before a rank's own libraries."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from horovod_flowers.runtime.errors import UserError, harmless
from horovod_flowers.runtime.files import whole_file

SOURCE = "waiting.c"
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O2", "-shared", "-fPIC")
LIBRARIES = ("-ldl",)
MICROSECONDS = 20_000
"""A rank sleeps at most for so long at a time while it waits; what comes from another rank wakes it before."""
_SECONDS_TO_BUILD = 120


def waiting_library(environment: Mapping[str, str] = os.environ) -> Path:
    """The library, built where it is not there yet. Raises UserError where it cannot be."""
    source = resources.files("horovod_flowers.emulation").joinpath(SOURCE).read_bytes()
    digest = hashlib.blake2b(source + repr((FLAGS, os.uname().machine)).encode(), digest_size=8).hexdigest()
    path = cache_folder(environment) / f"waiting-{digest}.so"
    if not path.is_file():
        _build(source, path, environment)
    return path


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """What this user keeps of us between jobs (XDG base directories). Raises UserError where there is no place."""
    given = Path(environment.get("XDG_CACHE_HOME", ""))
    try:
        return (given if given.is_absolute() else Path.home() / ".cache") / "horovod_flowers"
    except RuntimeError as error:
        raise UserError(
            "this user has no home folder, where emulation would keep what it builds: set XDG_CACHE_HOME to a folder "
            "that can be written"
        ) from error


def _build(source: bytes, path: Path, environment: Mapping[str, str]) -> None:
    compiler = next(filter(None, (shutil.which(name, path=environment.get("PATH")) for name in COMPILERS)), None)
    if compiler is None:
        raise UserError(
            f"there is no C compiler ({', '.join(COMPILERS)}) on PATH, with which emulation builds what lets waiting "
            "ranks sleep: install one (gcc), or load the site's module of it"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished:
            words = [compiler, *FLAGS, "-x", "c", "-", "-o", str(unfinished), *LIBRARIES]
            built = subprocess.run(words, check=False, input=source, capture_output=True, timeout=_SECONDS_TO_BUILD)
            if built.returncode != 0:
                lines = built.stderr.decode("utf-8", "replace").strip().splitlines()
                raise UserError(
                    f"{compiler} cannot build {SOURCE} ({harmless(lines[0]) if lines else 'it says nothing'}): try "
                    "another compiler, first on PATH as cc"
                )
    except OSError as error:
        raise UserError(
            f"cannot write in {path.parent} ({error.strerror or error}): set XDG_CACHE_HOME to a folder that can be "
            "written"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{compiler} did not build {SOURCE} within {_SECONDS_TO_BUILD} s: try again") from error


def variables_of_waiting(library: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a rank's environment needs; what else is to be loaded first stays so."""
    others = environment.get("LD_PRELOAD", "")
    loaded = f"{library}:{others}" if others else library
    return {"LD_PRELOAD": loaded, "FLOWERS_WAITING_US": environment.get("FLOWERS_WAITING_US", str(MICROSECONDS))}
