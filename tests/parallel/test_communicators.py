"""Both communicators of several ranks give each rank what it has to get."""

import json
import os
from pathlib import Path

import pytest

from horovod_flowers.ranks.horovod_build import horovod_build
from tests.conftest import Workplace, clean_environment, mpirun, run_command

PROGRAM = ("python", "-m", "tests.parallel.communicator_calls")


@pytest.mark.parametrize("ranks", [2, 3])
def test_over_mpi(workplace: Workplace, ranks: int) -> None:
    output = workplace.folder / "output"
    ended = run_command(mpirun(ranks, *PROGRAM, "mpi", output), workplace.folder)
    assert ended.status == 0, ended.output
    assert output.read_text().startswith(f"{ranks} ranks, Open MPI v")


ASKED = """
import json, os
from horovod_flowers.ranks.startup import connect, find_job
job = find_job()
ranks = connect(job, 1, "auto")
told = [job.launcher, job.rank, job.size, job.local_rank, job.local_size]
gathered = ranks.gather((told, ranks.rank, ranks.size, ranks.local_rank, ranks.local_size))
if gathered:
    print(json.dumps(gathered))
"""


def test_ranks_that_are_told_nothing_of_each_other_ask_mpi(workplace: Workplace) -> None:
    """mpirun's own variables are taken away: what is left says neither how many there are, nor who is near."""
    names = (f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
    without = [word for name in names for word in ("-u", name)]
    ended = run_command(mpirun(2, "env", *without, "python", "-c", ASKED), workplace.folder)
    assert ended.status == 0, ended.output
    assert json.loads(ended.stdout) == [[["pmix", rank, 2, rank, 2], rank, 2, rank, 2] for rank in (0, 1)]


def test_ranks_with_a_horovod_for_another_mpi_end_with_one_sentence(workplace: Workplace) -> None:
    """Found in place of the installed one: a file that names the library of the other ABI."""
    build = horovod_build()
    assert build is not None
    others = {"libmpi.so.40": "libmpi.so.12", "libmpi.so.12": "libmpi.so.40"}
    library = workplace.folder / "horovod" / "tensorflow" / build.file.name
    library.parent.mkdir(parents=True)
    (library.parents[1] / "__init__.py").touch()
    library.write_bytes(f"\0{others[str(build.needs)]}\0".encode())
    path = os.pathsep.join([str(workplace.folder), clean_environment()["PYTHONPATH"]])
    words = mpirun(2, "python", "-m", "horovod_flowers.microbenchmark", "--output", "calls.json")
    ended = run_command(words, workplace.folder, variables={"PYTHONPATH": path})
    assert ended.status == 2, ended.output
    assert ended.output.count("horovod_flowers.microbenchmark: error: Horovod was built for") == 1
    assert f"({others[str(build.needs)]}), and the MPI here is" in ended.output
    assert "Traceback" not in ended.output
    assert not (workplace.folder / "calls.json").exists()


def test_over_gloo(workplace: Workplace) -> None:
    output = workplace.folder / "output"
    words: list[str | Path] = ["horovodrun", "--gloo", "-np", "2", "--network-interfaces", "lo"]
    words += [*PROGRAM, "gloo", output]
    ended = run_command(words, workplace.folder)
    assert ended.status == 0, ended.output
    assert output.read_text() == "2 ranks, None"
