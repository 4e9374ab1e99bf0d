"""What the launcher's variables say, and how a command ends."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from horovod_flowers.config.run import RunConfig
from horovod_flowers.launch.job_environment import JobEnvironment, Told
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.training.checks_before_mpi import check_launcher
from tests.conftest import clean_environment, run_command

STEP = {
    **{"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"},
    **{"SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"},
}
"""A task of srun's."""


@pytest.mark.parametrize(
    ("variables", "launch"),
    [
        ({}, JobEnvironment("single", 0, 1, 0, 1)),
        (
            {
                "OMPI_COMM_WORLD_RANK": "5",
                "OMPI_COMM_WORLD_SIZE": "8",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
                "SLURM_NTASKS": "2",  # mpirun inside an allocation: Open MPI's word counts
            },
            JobEnvironment("openmpi", 5, 8, 1, 4),
        ),
        (
            {
                "PMIX_RANK": "3",
                "SLURM_NTASKS": "6",
                "SLURM_STEP_NUM_TASKS": "4",
                "SLURM_LOCALID": "1",
                "SLURM_NODEID": "1",
                "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
            },
            JobEnvironment("pmix", 3, 4, 1, 2),
        ),
        (
            {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
            JobEnvironment("pmi", 1, 2, 1, 2),
        ),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, JobEnvironment("single", 0, 1, 0, 1)),
        ({"PMI_RANK": "3", "PMI_SIZE": "4", **STEP}, JobEnvironment("pmi", 3, 4, 1, 2)),  # srun --mpi=pmi2
        ({"PALS_RANKID": "3", "PALS_APID": "7.0", **STEP}, JobEnvironment("pals", 3, 4, 1, 2)),  # older cray_shasta
        (STEP, JobEnvironment("srun", 3, 4, 1, 2)),  # --mpi=none, or of a site's own: MPI is asked as it starts
        (
            {"PMI_RANK": "1", "PMI_SIZE": "2", "PMI_LOCAL_RANK": "0", "PMI_LOCAL_SIZE": "1", "PALS_RANKID": "1"},
            JobEnvironment("pmi", 1, 2, 0, 1),  # cray_shasta; PALS
        ),
        (
            {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1", **STEP},
            JobEnvironment("pmi", 1, 2, 0, 1),  # Hydra, whose daemons are Slurm's tasks
        ),
        (
            {f"MV2_COMM_WORLD_{name}": str(k) for k, name in enumerate(("LOCAL_RANK", "RANK", "LOCAL_SIZE", "SIZE"))},
            JobEnvironment("mvapich", 1, 3, 0, 2),
        ),
    ],
)
def test_launchers(variables: dict[str, str], launch: JobEnvironment) -> None:
    assert JobEnvironment.from_environment(variables) == launch


def test_uneven_slurm_layout() -> None:
    layout = {"PMIX_RANK": "4", "SLURM_NTASKS": "5", "SLURM_TASKS_PER_NODE": "2(x2),1", "SLURM_NODEID": "2"}
    assert JobEnvironment.from_environment(layout).local_size == 1


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        # PALS tells of its node alone; so does one that speaks PMIx.
        (
            {"PALS_RANKID": "3", "PALS_LOCAL_RANKID": "1", "PALS_LOCAL_SIZE": "2"},
            Told("pals", 3, None, 1, 2),
        ),
        ({"PMIX_RANK": "3", "PALS_LOCAL_RANKID": "1", "PALS_LOCAL_SIZE": "2"}, Told("pmix", 3, None, 1, 2)),
        ({"PMI_ID": "1", "PMI_PORT": "n1:4711"}, Told("pmi", 1)),
        ({"PMIX_RANK": "0", "PMI_RANK": "0", "PMI_SIZE": "2"}, Told("pmix", 0, 2)),
        ({"PMI_PORT": "n1:4711"}, Told("unknown launcher")),
        # Hydra's daemons are Slurm's tasks, one a node, and not its ranks.
        ({"PMI_RANK": "3", "PMI_SIZE": "8", **STEP}, Told("pmi", 3, 8)),
        # One of the two was left over: which one, MPI knows.
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "PMI_RANK": "1", "PMI_SIZE": "2"}, Told("openmpi")),
    ],
)
def test_what_variables_do_not_tell_is_asked_of_mpi(variables: dict[str, str], told: Told) -> None:
    asked = []

    def ask(what: Told) -> JobEnvironment:
        asked.append(what)
        return JobEnvironment(what.launcher, 3, 5, 1, 2)

    found = JobEnvironment.from_environment(variables, ask=ask)
    assert (found, asked) == (JobEnvironment(told.launcher, 3, 5, 1, 2), [told])


def test_a_launcher_that_sets_nothing_is_found_among_the_parents(tmp_path: Path) -> None:
    """A shell of that name stands for it: between it and its rank there are others that only start something."""
    # In one call: of two processes that print, the ends of lines may come after both texts.
    program = "import os; from horovod_flowers.launch.launchers_above import launcher_above as found; "
    program += "os.write(1, f'{found()}\\n'.encode())"
    (tmp_path / "mpiexec").symlink_to("/bin/bash")
    script = tmp_path / "start"
    script.write_text('shift 2; sh -c \'env X=1 "$@"; true\' sh "$@"; true\n')
    ended = run_command([tmp_path / "mpiexec", script, "-n", "4", "python", "-c", program], tmp_path)
    assert ended.stdout == "LauncherAbove(name='mpiexec', ranks=4)\n", ended.output
    # A daemon's command does not say how many; it has started two alike.
    (tmp_path / "hydra_pmi_proxy").symlink_to("/bin/bash")
    script.write_text('"$@" & "$@"; wait\n')
    both = "import os, pathlib as p, time\nhere = lambda what: p.Path(f'{what}{os.getpid()}.here').touch()\n"
    both += "def wait(what):\n    here(what)\n    while len([*p.Path().glob(f'{what}*.here')]) < 2: time.sleep(0.01)\n"
    ended = run_command(
        [tmp_path / "hydra_pmi_proxy", script, "python", "-c", f"{both}wait('begun')\n{program}\nwait('told')"],
        tmp_path,
    )
    assert ended.stdout == "LauncherAbove(name='hydra_pmi_proxy', ranks=2)\n" * 2, ended.output
    script.write_text('shift 2; sh -c \'env X=1 "$@"; true\' sh "$@"; true\n')
    # What a rank starts by itself is none of the ranks.
    of_rank = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])"
    ended = run_command([tmp_path / "mpiexec", script, "-n", "4", "python", "-c", of_rank], tmp_path)
    assert ended.stdout == "None\n", ended.output


def test_slurm_tasks_that_do_not_know_of_each_other_are_refused() -> None:
    with pytest.raises(UserError, match="Slurm started 4 tasks .* knows of one rank only"):
        JobEnvironment.from_environment({"SLURM_NTASKS": "4", "SLURM_PROCID": "2"})


def test_horovodrun_without_mpi_is_refused() -> None:
    with pytest.raises(UserError, match="leave out --gloo"):
        JobEnvironment.from_environment(
            {"HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1", "HOROVOD_RANK": "1", "HOROVOD_SIZE": "2"}
        )


def test_horovodrun_with_a_discovery_script_is_for_commands_that_can_be_elastic() -> None:
    variables = {f"HOROVOD_{name}": value for name, value in (("RANK", "1"), ("SIZE", "3"), ("LOCAL_SIZE", "2"))}
    variables |= {"HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1", "HOROVOD_ELASTIC": "1"}
    assert JobEnvironment.from_environment(variables, elastic=True) == JobEnvironment("horovodrun-elastic", 1, 3, 0, 2)
    with pytest.raises(UserError, match="leave out --gloo"):
        JobEnvironment.from_environment(variables)
    with pytest.raises(UserError, match="--host-discovery-script"):
        JobEnvironment.from_environment({**variables, "HOROVOD_ELASTIC": "0"}, elastic=True)


def test_elastic_training_and_its_launcher_belong_together() -> None:
    with pytest.raises(UserError, match=r"--host-discovery-script .*, not openmpi: or add --no-elastic"):
        check_launcher(RunConfig(elastic=True), JobEnvironment("openmpi", 0, 2, 0, 2))
    with pytest.raises(UserError, match="without MPI: add --elastic"):
        check_launcher(RunConfig(), JobEnvironment("horovodrun-elastic", 0, 2, 0, 2))


def test_user_errors_end_with_status_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, error_boundary("command"):
        raise UserError("this was given: try that")
    assert end.value.code == 2
    assert capsys.readouterr().err == "command: error: this was given: try that\n"


def test_defects_end_with_status_1_a_traceback_and_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, error_boundary("command"):
        raise RuntimeError("broken")
    assert end.value.code == 1
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert "command: rank 0 on " in text


def test_a_mistake_before_mpi_starts_ends_the_ranks_of_hydra(tmp_path: Path) -> None:
    """It would leave the others waiting in MPI_Init. What it listens on is a socket here."""
    program = "from horovod_flowers.runtime.exit import *\nwith error_boundary('x'):\n    raise UserError('mine')"
    for rank, said in ((0, "x: error: mine\n"), (1, f"x: error: mine [rank 1 on {os.uname().nodename}]\n")):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            of_hydra = {"PMI_RANK": str(rank), "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2", "PMI_FD": str(theirs.fileno())}
            with subprocess.Popen(
                [sys.executable, "-c", program],
                env=clean_environment() | of_hydra,
                stderr=subprocess.PIPE,
                text=True,
                pass_fds=[theirs.fileno()],
            ) as process:
                ours.settimeout(60)
                assert ours.recv(100) == b"cmd=abort exitcode=2\n"
                process.kill()
                assert process.stderr is not None
                assert process.stderr.read() == said
