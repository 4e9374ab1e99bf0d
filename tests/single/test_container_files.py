"""What goes into a container, and how the host's MPI is taken there; tests/container builds and runs one."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT, run_command

CONTAINERS = PROJECT / "containers"
HOST_MPI = CONTAINERS / "host_mpi.sh"
LOADED = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(open('/proc/self/maps').read())"


def test_dockerfile_and_apptainer_definition_bring_the_same() -> None:
    """Files that only one of them takes would be missing in the other."""
    ignored = (CONTAINERS / "Dockerfile.dockerignore").read_text().splitlines()
    taken = {line[1:] for line in ignored if line.startswith("!")}
    definition = (CONTAINERS / "apptainer.def").read_text()
    files = re.search(r"^%files\n(.*?)\n\n", definition, re.MULTILINE | re.DOTALL)
    assert files is not None
    assert {line.split()[0] for line in files[1].splitlines()} == taken
    assert all((PROJECT / name).exists() for name in taken)


def test_both_install_the_same_packages() -> None:
    """But for the compiler, which the definition takes out again, and the Dockerfile leaves behind."""
    dockerfile = (CONTAINERS / "Dockerfile").read_text().replace("\\\n", " ")
    builds, runs = (
        set(shlex.split(line)) for line in re.findall(r"no-install-recommends ([\w +-]+?)\s+&&", dockerfile)
    )
    definition = re.search(r"no-install-recommends (.*)", (CONTAINERS / "apptainer.def").read_text())
    assert definition is not None
    assert set(definition[1].split()) == builds | runs
    assert "g++" in builds - runs


def shell(folder: str | Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Words behind host_mpi.sh, as a container runs them."""
    return subprocess.run(
        ["sh", "-c", f'. {shlex.quote(str(HOST_MPI))}; exec "$@"', "sh", *words],
        env={**os.environ, "FLOWERS_HOST_MPI": str(folder), **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_hosts_library_is_the_one_that_is_loaded(tmp_path: Path) -> None:
    """Though the environment has one, which mpi4py takes else."""
    own = next(Path(sys.prefix, "lib").glob("libmpi.so.[14]*"))
    name = ".".join(own.name.split(".")[:3])
    host = tmp_path / "host mpi"
    host.mkdir()
    # A file of its own, which a host would have there; what it loads in its turn is found where it really lies.
    (host / name).write_bytes(own.read_bytes())
    needed = subprocess.run(["ldd", own], capture_output=True, text=True, check=True).stdout
    beside = sorted({str(Path(path).parent) for path in re.findall(r"=> (/\S+)", needed)} | {str(own.parent)})
    loaded = shell(host, sys.executable, "-c", LOADED, LD_LIBRARY_PATH=":".join(beside))
    assert loaded.returncode == 0, loaded.stderr
    assert f"{host}/{name}" in loaded.stdout
    assert str(own.parent / name) not in loaded.stdout
    assert str(own.parent / name) in run_command([sys.executable, "-c", LOADED], tmp_path).stdout


@pytest.mark.parametrize("name", ["empty", "not there"])
def test_a_folder_without_a_library_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    refused = shell(tmp_path / name, "echo", "run")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith(
        f"FLOWERS_HOST_MPI is '{tmp_path / name}', where there is neither libmpi.so.12 nor"
    )
    assert refused.stderr.count("\n") == 1


def test_without_it_nothing_changes() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    printed = subprocess.run(
        ["sh", "-c", f'. {shlex.quote(str(HOST_MPI))}; echo "${{LD_LIBRARY_PATH-unset}} ${{MPI4PY_LIBMPI-unset}}"'],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert printed == "unset unset\n"
