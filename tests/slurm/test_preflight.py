"""Preflight across nodes, under each launcher; and what it has to find there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PROJECT, TINY, Ended
from tests.slurm.conftest import Cluster

PREFLIGHT = ("python", "-m", "horovod_flowers.preflight")


def on_two_nodes(cluster: Cluster, launcher: str, *words: str, **variables: str) -> Ended:
    """Start words on one rank of each of two nodes, in an allocation, by our launcher."""
    start = ("python", "-m", "horovod_flowers.launcher", "--ranks", "2", "--launcher", launcher, "--")
    return cluster.run("salloc", "--quiet", "-N", "2", "--ntasks-per-node", "1", *start, *words, **variables)


def batch_job(cluster: Cluster, launcher: str, *words: str) -> tuple[str, str]:
    """The same from a node, as batch scripts do it: there the other nodes' names are known. State and output."""
    start = ["python", "-m", "horovod_flowers.launcher", "--ranks", "2", "--launcher", launcher, "--", *words]
    of_sbatch = ("-N", "2", "--ntasks-per-node", "1", f"--output={launcher}-%j.log", f"--wrap={shlex.join(start)}")
    job = cluster.submit(*of_sbatch)
    return cluster.wait(job), cluster.log(job)


@pytest.mark.parametrize(("launcher", "named"), [("mpirun", "openmpi"), ("horovodrun", "openmpi"), ("srun", "pmix")])
def test_every_launcher_reaches_both_nodes(cluster: Cluster, prepared_folder: Path, launcher: str, named: str) -> None:
    data = ("--data.prepared-dir", str(prepared_folder))
    prepared = cluster.run("python", "-m", "horovod_flowers.prepare", *TINY[:6], *data)
    assert prepared.status == 0, prepared.output
    state, log = batch_job(cluster, launcher, *PREFLIGHT, *TINY, *data)
    assert state == "COMPLETED", log
    assert f"2 rank(s) on 2 node(s), started by {named}" in log
    assert "between nodes at least" in log
    assert all(re.search(rf"{node} +1 .* TCP lo +readable", log) for node in ("n1", "n2"))
    # horovodrun lets mpirun tag each line, which at times writes the next tag behind the one before.
    assert re.search(r"^(\[1,0\]<stdout>:)*ready(\[1,0\]<stdout>:)*$", log, re.MULTILINE), log


def test_a_node_without_the_data_and_one_without_the_runs(cluster: Cluster) -> None:
    """Each node has a /dev/shm of its own."""
    data, runs = "/dev/shm/prepared", "/dev/shm/runs"
    prepare = ("python", "-m", "horovod_flowers.prepare", *TINY[:6], "--data.prepared-dir", data)
    prepared = cluster.run("srun", "-w", "n1", "-N", "1", *prepare)
    assert prepared.status == 0, prepared.output
    ended = on_two_nodes(cluster, "mpirun", *PREFLIGHT, *TINY, "--data.prepared-dir", data, "--runs-dir", runs)
    assert ended.status == 1
    assert f"n2: cannot read the prepared images in {data} (No such file or directory)" in ended.stdout
    assert "remedy: choose a --data.prepared-dir that all nodes share" in ended.stdout
    assert f"n2: does not see the runs folder {runs} of rank 0" in ended.stdout
    assert "not ready: 2 problem(s)" in ended.stdout
    train = ("python", "-m", "horovod_flowers.train", *TINY, "--data.prepared-dir", data, "--runs-dir", runs)
    refused = on_two_nodes(cluster, "mpirun", *train, "--name", "r")
    assert refused.status == 2, refused.output  # and training itself says so too
    assert "choose a --runs-dir that all nodes share" in refused.stderr


def test_tasks_without_pmi_are_recognised(cluster: Cluster) -> None:
    ended = cluster.run("srun", "--mpi=none", "-N", "2", "-n", "2", *PREFLIGHT)
    assert ended.status == 2
    sentence = "Slurm started 2 tasks (SLURM_NTASKS=2) but this process knows of one rank only: start them with 'srun"
    assert ended.stderr.count(sentence) == 1


def test_unlike_code_and_versions_on_the_nodes_are_recognised(cluster: Cluster, tmp_path: Path) -> None:
    """The second node finds another copy of the package first, with another version of NumPy beside it."""
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["cp", "-r", str(PROJECT / "horovod_flowers"), str(other)], check=True)
    (other / "horovod_flowers" / "model.py").open("a").write("# changed\n")
    (other / "numpy-0.0.1.dist-info").mkdir()
    (other / "numpy-0.0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
    script = f'[[ $(hostname) == n2 ]] && cd "{other}" && export PYTHONPATH="{other}"; exec {" ".join(PREFLIGHT)} "$@"'
    ended = on_two_nodes(cluster, "mpirun", "bash", "-c", script, "bash", "--runs-dir", str(tmp_path / "runs"))
    assert ended.status == 1, ended.output
    assert "the code of horovod_flowers on n2 is not that on n1" in ended.stdout
    assert "numpy differs: " in ended.stdout
    assert "0.0.1 on n2" in ended.stdout
    assert "remedy: activate the same environment on every node" in ended.stdout


def test_a_slow_link_is_recognised(networked: Cluster, prepared_folder: Path) -> None:
    slow = [
        "tc",
        "qdisc",
        "add",
        "dev",
        "slurmv2",
        "root",
        "tbf",
        "rate",
        "100mbit",
        "burst",
        "16kb",
        "latency",
        "90ms",
    ]
    limited = subprocess.run(slow, capture_output=True, text=True, check=False)
    if limited.returncode != 0:
        pytest.skip(f"this kernel cannot slow down a link ({limited.stderr.strip()})")
    options = (*TINY, "--data.prepared-dir", str(prepared_folder))
    try:
        state, log = batch_job(networked, "mpirun", *PREFLIGHT, *options)
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", "slurmv2", "root"], check=True)
    assert state == "FAILED", log
    assert "TCP eth0" in log
    assert "slow link: allreduce moves 0.0" in log
    assert "OMPI_MCA_btl_tcp_if_include=NAME" in log
