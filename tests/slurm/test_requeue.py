"""A job at its time limit, or pre-empted, is requeued and ends with the weights of one that was not interrupted."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from horovod_flowers.runlog.reading.run import read_run
from tests.slurm.conftest import SLOW, Cluster, submit_slow


@pytest.fixture(scope="module")
def whole(cluster: Cluster, prepared_folder: Path) -> Path:
    """A run of two ranks on two nodes that nobody stopped."""
    words = ["-N", "2", "--ntasks-per-node", "1", "python", "-m", "horovod_flowers.launcher", "--ranks", "2", "--"]
    words += ["python", "-m", "horovod_flowers.train", "--name", "whole", *SLOW]
    words += ["--data.prepared-dir", str(prepared_folder)]
    ended = cluster.run("salloc", "--quiet", *words, SLOW_WHILE="/no/such/file")
    assert ended.status == 0, ended.output
    return cluster.folder / "runs" / "whole"


def assert_it_went_on(cluster: Cluster, job: str, nodes: str, whole: Path, asked: str) -> None:
    """The job's log tells the story, and the weights are those of the run that was left alone."""
    log = cluster.log(job)
    story = [
        f"job {job} on {nodes}, restart 0 of at most 10",
        asked,
        "checkpoint written, --resume",
        "requeueing the job",
        f"job {job} on {nodes}, restart 1 of at most 10",
        "resuming after epoch ",
        "finished: best validation accuracy",
    ]
    places = [log.find(line) for line in story]
    assert -1 not in places, (story[places.index(-1)], log)
    assert places == sorted(places), log
    run = cluster.folder / "runs" / f"flowers-train-{job}"
    expected = load_file(whole / "checkpoints" / "last.safetensors")
    for name, value in load_file(run / "checkpoints" / "last.safetensors").items():
        assert np.array_equal(value, expected[name]), name
    assert len(read_run(run).epochs) == len(read_run(whole).epochs) == 30


def test_ranks_that_srun_started_stop_on_sigterm(
    cluster: Cluster, project: Path, prepared_folder: Path, time_limited: tuple[Cluster, str], whole: Path
) -> None:
    """As pre-emption does it: SIGTERM to the job's steps."""
    job = submit_slow(cluster, project, prepared_folder, FLOWERS_LAUNCHER="srun")
    steps = cluster.folder / "runs" / f"flowers-train-{job}" / "steps" / "rank-00000.jsonl"
    cluster.until(lambda: steps.exists() and '"epoch":2' in steps.read_text(), "second epoch")
    cluster.run("scancel", "--signal=TERM", job)
    cluster.wait_for_restart(job)
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    assert "started by pmix" in cluster.log(job)
    assert_it_went_on(cluster, job, "n[1-2]", whole, "stopped on request (SIGTERM)")


def test_restarts_are_limited(cluster: Cluster, project: Path, prepared_folder: Path) -> None:
    job = submit_slow(cluster, project, prepared_folder, MAX_RESTARTS="0")
    cluster.until(lambda: "restart 0 of at most 0" in cluster.log(job), "start of the job")
    cluster.run("scancel", "--batch", "--signal=TERM", job)
    assert cluster.wait(job) == "FAILED"
    assert cluster.show(job)["ExitCode"] == "75:0"
    assert "not requeued; resubmit it to continue" in cluster.log(job)
    assert cluster.processes() == []


def test_a_time_limit_puts_the_job_back_and_it_goes_on(time_limited: tuple[Cluster, str], whole: Path) -> None:
    """Slurm's own signal."""
    cluster, job = time_limited
    cluster.wait_for_restart(job)
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    assert "asked to stop (USR1): ended with status 75" in cluster.log(job)
    assert_it_went_on(cluster, job, "n[3-4]", whole, "stopped on request (SIGUSR1)")
