"""What each MPI is like, found by what library and launcher say of themselves."""

from pathlib import Path

import pytest

from horovod_flowers.mpi.identify import (
    LIBRARIES,
    MANAGERS,
    all_processes,
    all_unbound_variables,
    all_yield_variables,
    installed_library,
    library_from_text,
    manager_of,
)
from horovod_flowers.mpi.library import MpiLibrary, OtherMpi
from horovod_flowers.mpi.mpich import Mpich
from horovod_flowers.mpi.open_mpi import OpenMpi
from horovod_flowers.mpi.process_manager import OtherManager, Start
from horovod_flowers.runtime.errors import UserError
from tests.single.words_of_mpis import LAUNCHERS, program_that_says
from tests.single.words_of_mpis import LIBRARIES as TOLD

HOSTS = (("n1", 2), ("n2", 2), ("n3", 2))
FORWARDED = ("NCCL_DEBUG", "PATH")


@pytest.mark.parametrize(("summary", "text"), TOLD.items())
def test_a_library_is_known_by_what_it_says_and_told_in_one_line(summary: str, text: str) -> None:
    for told in (text, text.replace("\n", "\\n")):  # as records of older versions have it
        library = library_from_text(told)
        assert library.summary == summary
        assert isinstance(library, OtherMpi) == summary.startswith("HPE")


def test_nothing_is_an_error_by_itself(tmp_path: Path) -> None:
    assert library_from_text("").summary == "an MPI that is not known here"
    assert manager_of(str(tmp_path / "none")) == OtherManager(str(tmp_path / "none"))
    assert installed_library("/bin/false") is None


def test_the_installed_library_is_asked_without_starting_it() -> None:
    library = installed_library()
    assert library is not None
    assert library.version


@pytest.mark.parametrize(("summary", "text"), LAUNCHERS.items())
def test_a_launcher_is_known_by_what_it_says(summary: str, text: str, tmp_path: Path) -> None:
    assert manager_of(str(program_that_says(text, tmp_path / "mpirun"))).summary == summary


def test_pals_is_known_by_its_folder_too(tmp_path: Path) -> None:
    program = program_that_says("mpiexec 1.2.12\n", tmp_path / "pals" / "1.2.12" / "bin" / "mpiexec")
    assert manager_of(str(program)).name == "PALS"


WORDS = {
    "Open MPI 4.1.8": {
        "hosts": "-np 4 --bind-to none --map-by slot -H n1:2,n2:2,n3:2 -x NCCL_DEBUG -x PATH",
        "slurm": "-np 4 --bind-to none --map-by slot -x NCCL_DEBUG -x PATH",
        "here": "-np 4 --bind-to none --map-by slot",
        "shared": "-np 4 --bind-to none --map-by slot --oversubscribe",
    },
    "MPICH's Hydra 5.0.2": {
        "hosts": "-np 4 -bind-to none -hosts n1:2,n2:2,n3:2",
        "slurm": "-np 4 -bind-to none",
        "here": "-np 4 -bind-to none",
        "shared": "-np 4 -bind-to none",
    },
    "Intel MPI 2021.19.0": {
        "hosts": "-np 4 -ppn 2 -hosts n1,n2",
        "slurm": "-np 4",
        "here": "-np 4",
        "shared": "-np 4",
    },
    "PALS 1.4.0": {
        "hosts": "-n 4 -ppn 2 --cpu-bind none --hosts n1,n2",
        "slurm": "-n 4 -ppn 2 --cpu-bind none",
        "here": "-n 4 -ppn 4 --cpu-bind none",
        "shared": "-n 4 -ppn 4 --cpu-bind none",
    },
}
WORDS["Open MPI 5.0.11"] = WORDS["Open MPI 4.1.8"]


@pytest.mark.parametrize("summary", LAUNCHERS)
def test_each_has_words_of_its_own(summary: str, tmp_path: Path) -> None:
    manager = manager_of(str(program_that_says(LAUNCHERS[summary], tmp_path / "mpirun")))
    starts = {
        "hosts": Start(4, HOSTS, here=False, forwarded=FORWARDED),
        "slurm": Start(4, HOSTS, scheduler="slurm", here=False, forwarded=FORWARDED),
        "here": Start(4, (("here", 4),), forwarded=FORWARDED),
        "shared": Start(4, (("here", 2),), oversubscribe=True),
    }
    assert {name: " ".join(manager.start_words(start)) for name, start in starts.items()} == WORDS[summary]


def test_intel_mpi_is_told_of_unequal_nodes_by_names_alone(tmp_path: Path) -> None:
    manager = manager_of(str(program_that_says(LAUNCHERS["Intel MPI 2021.19.0"], tmp_path / "mpirun")))
    unequal = Start(5, (("n1", 1), ("n2", 3), ("n3", 1)), here=False)
    assert " ".join(manager.start_words(unequal)) == "-np 5 -ppn 1 -hosts n1,n2,n2,n2,n3"
    last = Start(5, (("n1", 2), ("n2", 2), ("n3", 2)), here=False)
    assert " ".join(manager.start_words(last)) == "-np 5 -ppn 2 -hosts n1,n2,n3"


def test_an_unknown_launcher_is_called_as_the_standard_says(tmp_path: Path) -> None:
    manager = manager_of(str(program_that_says("ParaStation 9\nmore", tmp_path / "mpiexec")))
    assert manager.start_words(Start(4, (("here", 4),))) == ["-n", "4"]
    assert manager.start_words(Start(4, HOSTS, scheduler="slurm", here=False)) == ["-n", "4"]
    assert manager.start_words(Start(4, HOSTS, here=False, own_options=True)) == ["-n", "4"]
    with pytest.raises(UserError, match=r"mpiexec is a launcher that is not known here \(ParaStation 9\), so how"):
        manager.start_words(Start(4, HOSTS, here=False))


def test_which_launcher_starts_which_library(tmp_path: Path) -> None:
    managers = {
        name: manager_of(str(program_that_says(text, tmp_path / name / "x"))) for name, text in LAUNCHERS.items()
    }
    starts = {
        name: [manager.starts(library) for library in (OpenMpi("4.1.8"), Mpich("5.0.2"), OtherMpi(""))]
        for name, manager in managers.items()
    }
    assert starts == {
        "Open MPI 4.1.8": [True, False, True],
        "Open MPI 5.0.11": [True, False, True],
        "MPICH's Hydra 5.0.2": [False, True, True],
        "Intel MPI 2021.19.0": [False, True, True],
        "PALS 1.4.0": [True, True, True],
    }
    signals = {
        name: [manager.signal_of(status) for status in (0, 1, 2, 3, 75, 9, 10, 137, 139)]
        for name, manager in managers.items()
    }
    assert signals["Open MPI 4.1.8"] == [None, None, None, None, None, None, None, 9, 11]
    assert signals["Intel MPI 2021.19.0"] == signals["Open MPI 4.1.8"]
    assert signals["MPICH's Hydra 5.0.2"] == [None, None, None, None, None, 9, 10, 9, 11]


def test_what_is_set_of_every_library_together() -> None:
    assert all_yield_variables() == {"OMPI_MCA_mpi_yield_when_idle": "1", "I_MPI_THREAD_YIELD": "3"}
    assert all_unbound_variables()["I_MPI_PIN"] == "0"
    assert {"orted", "prted", "hydra_pmi_proxy", "hydra_bstrap_proxy", "mpiexec"} <= all_processes()


def test_each_class_says_what_it_is() -> None:
    kinds: list[type[MpiLibrary]] = [*LIBRARIES.values(), OtherMpi]
    for kind in kinds:
        library = kind("1.2")
        assert library.name
        assert library.module
        assert library.interface_advice
        assert library.typed_start(2)[0] in ("mpirun", "mpiexec", "srun")
        assert library.srun_advice.startswith("srun ")
    assert all(kind.name and kind.processes for kind in MANAGERS.values())
