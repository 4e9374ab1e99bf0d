"""MPI, launcher and Horovod that do not belong together: one sentence each, before anything starts."""

import platform
import sys
import sysconfig
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from horovod_flowers.launch.job_environment import LAUNCHERS, Told
from horovod_flowers.mpi.identify import all_processes, library_from_text
from horovod_flowers.mpi.intel_mpi import IntelMpi
from horovod_flowers.mpi.library import MpiLibrary
from horovod_flowers.mpi.mpich import CrayMpich, Mpich
from horovod_flowers.mpi.open_mpi import OpenMpi
from horovod_flowers.ranks.horovod_build import horovod_build, refuse_unfit_horovod
from horovod_flowers.ranks.mpi_start import refuse_other_launcher
from horovod_flowers.runtime.console import LAUNCHER_PROCESSES
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import RANK_VARIABLES
from tests.conftest import Ended, Workplace, run_command

OF_OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "0"}


@pytest.mark.parametrize(
    ("told", "library", "variables", "sentence"),
    [
        (
            Told("openmpi", 0, 2, 0, 2), Mpich("5.0.2"), OF_OPEN_MPI,
            "Open MPI's mpirun has started these ranks, and their library is MPICH 5.0.2, .* load the module of MPICH",
        ),
        (
            Told("openmpi", 0, 2, 0, 2), IntelMpi("2021.18"), OF_OPEN_MPI,
            "their library is Intel MPI 2021.18, which it cannot connect: start them with the mpirun",
        ),
        (
            Told("openmpi", 0, 2, 0, 2), OpenMpi("4.1.8"), {"OMPI_COMM_WORLD_SIZE": "2"},
            "OMPI_COMM_WORLD_SIZE is 2, as mpirun sets it, but no mpirun has started this process: unset",
        ),
    ],
)  # fmt: skip
def test_the_launcher_of_another_mpi_is_refused(
    told: Told, library: MpiLibrary, variables: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        refuse_other_launcher(told, library, variables)


@pytest.mark.parametrize(
    ("told", "library", "variables"),
    [
        (Told("openmpi", 0, 2, 0, 2), OpenMpi("5.0.11"), OF_OPEN_MPI),
        (Told("pmi", 0, 2, 0, 2), Mpich("5.0.2"), {"PMI_RANK": "0", "PMI_SIZE": "2"}),
        # Left over from an Open MPI; MPICH's own launcher is there.
        (Told("openmpi"), Mpich("5.0.2"), {"OMPI_COMM_WORLD_SIZE": "4", "PMI_RANK": "0", "PMI_SIZE": "2"}),
        (Told("pmix", 0, 2, 0, 2), CrayMpich("8.1.30"), {"PMIX_RANK": "0"}),
    ],
)
def test_what_may_work_is_left_to_mpi(told: Told, library: MpiLibrary, variables: dict[str, str]) -> None:
    refuse_other_launcher(told, library, variables)


@pytest.fixture
def other_horovod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """other_horovod(needs="libmpi.so.12", tensorflow="2.9.0"): found in place of the installed one."""
    installed = metadata.version("tensorflow-cpu" if platform.machine() == "x86_64" else "tensorflow")

    def make(needs: str | None = "libmpi.so.40", tensorflow: str = installed, tag: str | None = None) -> Path:
        package = tmp_path / "horovod"
        (package / "tensorflow").mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "metadata.json").write_text(f'{{"tensorflow": "{tensorflow}"}}')
        suffix = sysconfig.get_config_var("EXT_SUFFIX") if tag is None else f".{tag}.so"
        named = b"" if needs is None else needs.encode()
        (package / "tensorflow" / f"mpi_lib{suffix}").write_bytes(b"\x7fELF\0libm.so.6\0" + named + b"\0libc.so.6\0")
        monkeypatch.syspath_prepend(tmp_path)
        for name in [name for name in sys.modules if name.split(".")[0] == "horovod"]:
            monkeypatch.delitem(sys.modules, name)
        horovod_build.cache_clear()
        return package

    return make


@pytest.fixture(autouse=True)
def _asked_anew() -> None:
    horovod_build.cache_clear()


def test_the_installed_horovod_fits() -> None:
    build = horovod_build()
    assert build is not None
    assert build.needs is not None
    assert build.mpi is not None
    refuse_unfit_horovod(build.mpi("1"))


@pytest.mark.parametrize(
    ("made", "library", "sentence"),
    [
        (
            {"needs": "libmpi.so.12"}, OpenMpi("4.1.8"),
            r"was built for MPICH \(libmpi.so.12\), and the MPI here is Open MPI v4.1.8: load the module of MPICH",
        ),
        (
            {"needs": "libmpi.so.40"}, IntelMpi("2021.18"),
            r"was built for Open MPI \(libmpi.so.40\), and the MPI here is Intel MPI 2021.18: load the module of",
        ),
        ({"needs": None}, Mpich("5.0.2"), r"was built without MPI \(HOROVOD_WITH_MPI=1\): build it again"),
        (
            {"tensorflow": "2.9.0"}, OpenMpi("4.1.8"),
            r"was built for TensorFlow 2.9.0, and 2\.\d+\.\d+ is installed: build it again .* TensorFlow 2.9.0$",
        ),
        (
            {"tag": "cpython-37m-x86_64-linux-gnu"}, OpenMpi("4.1.8"),
            "was built for cpython-37m-x86_64-linux-gnu, and this Python is cpython-3.*: build it again",
        ),
    ],
)  # fmt: skip
def test_a_horovod_that_was_built_for_something_else(
    other_horovod: Callable[..., Path], made: dict[str, str | None], library: MpiLibrary, sentence: str
) -> None:
    other_horovod(**made)
    with pytest.raises(UserError, match=sentence):
        refuse_unfit_horovod(library)


@pytest.mark.parametrize("named", ["libmpi_gnu_123.so.12", "libmpich.so.12"])  # a Cray's, Debian's
def test_a_horovod_that_takes_another_mpi_of_its_abi(other_horovod: Callable[..., Path], named: str) -> None:
    other_horovod(needs=named)
    for library in (Mpich("5.0.2"), IntelMpi("2021.18"), CrayMpich("8.1.30")):
        refuse_unfit_horovod(library)
    refuse_unfit_horovod(None)  # over Gloo


def test_a_horovod_without_tensorflow(other_horovod: Callable[..., Path]) -> None:
    next((other_horovod() / "tensorflow").iterdir()).unlink()
    with pytest.raises(UserError, match="was built without TensorFlow"):
        refuse_unfit_horovod(None)


def test_an_mpi_that_is_not_there_any_more(workplace: Workplace) -> None:
    """As after 'module unload': mpi4py finds no library."""
    of_rank = {"OMPI_COMM_WORLD_SIZE": "1", "PMIX_RANK": "0", "MPI4PY_LIBMPI": "/gone/libmpi.so.40"}
    ended = workplace.train("--name", "r", variables=of_rank)
    assert ended.status == 2, ended.output
    assert "no MPI library can be loaded (MPI4PY_LIBMPI is /gone/libmpi.so.40, where none lies): " in ended.stderr
    assert "so load the module of " in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_ranks_that_mpi_does_not_connect(workplace: Workplace) -> None:
    """As under the mpiexec of another MPI: each would train by itself."""
    of_rank = {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
    ended = workplace.train("--name", "r", variables=of_rank)
    assert ended.status == 2, ended.output
    assert "the launcher (mpiexec of MPICH or Intel MPI) started 2 ranks but MPI (" in ended.stderr
    assert ") knows of 1, so that each would work by itself: start them with the mpirun (mpiexec) of " in ended.stderr
    assert not (workplace.folder / "runs" / "r").exists()


def test_the_hosts_mpi_that_was_not_taken(workplace: Workplace) -> None:
    """In a container whose own was loaded."""
    variables = {"OMPI_COMM_WORLD_SIZE": "1", "PMIX_RANK": "0", "FLOWERS_HOST_MPI": "/host/mpi"}
    ended = workplace.train("--name", "r", variables=variables)
    assert ended.status == 2, ended.output
    assert "FLOWERS_HOST_MPI is /host/mpi, but the MPI library that was loaded is /" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_intel_mpi_without_libfabric(tmp_path: Path) -> None:
    library, file = IntelMpi("2021.18"), tmp_path / "lib" / "libmpi.so.12"
    file.parent.mkdir()
    file.touch()
    said = library.lacking(file, {}, several_nodes=True)
    if said is not None:  # the system has one
        assert said.startswith("Intel MPI 2021.18 needs libfabric, and libfabric.so.1 is not found: load the module")
    assert library.lacking(file, {}, several_nodes=False) is None  # through shared memory
    assert library.lacking(file, {"I_MPI_FABRICS": "ofi"}, several_nodes=False) == said
    (tmp_path / "opt" / "mpi" / "libfabric" / "lib").mkdir(parents=True)
    (tmp_path / "opt" / "mpi" / "libfabric" / "lib" / "libfabric.so.1").touch()
    assert library.lacking(file, {}, several_nodes=True) is None


def test_a_script_with_a_horovod_for_another_python_ends_with_a_sentence(
    other_horovod: Callable[..., Path], tmp_path: Path
) -> None:
    other_horovod(tag="cpython-37m-x86_64-linux-gnu")
    path = {"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"}
    ended: Ended = run_command(["python", "-c", "import horovod_flowers.keras"], tmp_path, variables=path)
    assert (ended.status, ended.stderr.count("\n")) == (2, 1), ended.output
    assert "and this Python is cpython-3" in ended.stderr


@pytest.mark.parametrize(
    "text",
    [
        "Open MPI v4.1.8, package: Open MPI root@here Distribution, ident: 4.1.8, repo rev: v4.1.8, Feb 04, 2025",
        "MPICH Version:      5.0.2\nMPICH Release date: Thu Jan 1\nMPICH ABI:          17:2:5",
        "Intel(R) MPI Library 2021.18 for Linux* OS\n",
        "MPI VERSION    : CRAY MPICH version 8.1.30.8 (ANL base 3.4a2)\nMPI BUILD INFO : Sat Jun 01\n",
        "MVAPICH2 Version      :\t2.3.7\nMVAPICH2 Release date : Wed March 02",
    ],
)
def test_a_record_names_the_library_in_one_line_that_is_understood(text: str) -> None:
    library = library_from_text(text)
    assert "\n" not in library.summary
    again = library_from_text(library.summary)
    assert (type(again), again.version, again.summary) == (type(library), library.version, library.summary)


def test_settings_that_decide_how_ranks_talk() -> None:
    given = {"OMPI_MCA_btl": "tcp", "OMPI_MCA_ess_base": "x", "I_MPI_FABRICS": "shm", "MPIR_CVAR_CH4_NETMOD": "ofi"}
    given |= {"I_MPI_HYDRA_ENV": "all", "I_MPI_THREAD_YIELD": "3", "I_MPI_PIN_MAPPING": "2:0 0,1 1"}
    assert OpenMpi("4").settings(given) == {"btl": "tcp"}
    assert Mpich("5").settings(given) == {"MPIR_CVAR_CH4_NETMOD": "ofi"}
    found = IntelMpi("1").settings(given)
    assert found == {"I_MPI_FABRICS": "shm", "I_MPI_THREAD_YIELD": "3", "MPIR_CVAR_CH4_NETMOD": "ofi"}
    pinned = [{}, {"I_MPI_PIN_MAPPING": "2:0 0,1 1"}, {"I_MPI_PIN_MAPPING": "1:0 0", "I_MPI_PIN": "0"}]
    assert [IntelMpi("1").pins(environment) for environment in pinned] == [False, True, False]
    assert [kind.yields(given) for kind in (OpenMpi("4"), Mpich("5"), IntelMpi("1"))] == [False, False, True]


def test_the_progress_display_knows_every_launcher() -> None:
    assert all_processes() <= LAUNCHER_PROCESSES


def test_a_mistake_is_told_by_one_rank_of_every_launcher() -> None:
    assert {name for launcher in LAUNCHERS for name in launcher.rank} <= {*RANK_VARIABLES}


WHEEL = "MPICH Version:      5.0.2\nMPICH ABI:          18:2:6\nMPICH Device:       ch4:ucx ofi\nMPICH CC:  cc\n"
OF_SLURM = {"PMI_FD": "11", "PMI_RANK": "1", "PMI_SIZE": "2", "SLURM_PROCID": "1", "SLURM_STEP_NUM_NODES": "2"}


@pytest.mark.parametrize(
    ("told", "environment", "netmod"),
    [
        (WHEEL, OF_SLURM, "ofi"),
        (WHEEL, {**OF_SLURM, "SLURM_STEP_NUM_NODES": "1"}, None),
        (WHEEL, {**OF_SLURM, "UCX_NET_DEVICES": "mlx5_0:1"}, None),
        (WHEEL, {**OF_SLURM, "MPI_LOCALNRANKS": "1"}, None),  # Hydra, whose daemons Slurm has started
        (WHEEL, {"PMI_FD": "11", "PMI_RANK": "1", "PMI_SIZE": "2"}, None),
        (WHEEL.replace("ucx ofi", "ucx"), OF_SLURM, None),  # there is no other
        (WHEEL.replace("ucx ofi", "ofi"), OF_SLURM, None),
    ],
)
def test_mpich_keeps_its_addresses_short_for_slurm(told: str, environment: dict[str, str], netmod: str | None) -> None:
    found = library_from_text(told).start_variables(told, environment)
    assert found.get("MPIR_CVAR_CH4_NETMOD") == netmod
