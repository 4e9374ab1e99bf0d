"""What the launcher's variables say, and how a command ends."""

import pytest

from horovod_flowers.config.run import RunConfig
from horovod_flowers.launch.job_environment import JobEnvironment
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.training.checks_before_mpi import check_launcher


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
    ],
)
def test_launchers(variables: dict[str, str], launch: JobEnvironment) -> None:
    assert JobEnvironment.from_environment(variables) == launch


def test_uneven_slurm_layout() -> None:
    layout = {"PMIX_RANK": "4", "SLURM_NTASKS": "5", "SLURM_TASKS_PER_NODE": "2(x2),1", "SLURM_NODEID": "2"}
    assert JobEnvironment.from_environment(layout).local_size == 1


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
