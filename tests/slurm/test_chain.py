"""slurm/submit.sh: prepared on the login node, a job array of the points, and the report that waits for it."""

import json
import re
from pathlib import Path

import pytest

from tests.slurm.conftest import Cluster

pytestmark = pytest.mark.usefixtures("time_limited")  # for test_requeue.py: its minute passes meanwhile

SMALL = ("--data.image-size=32", "--data.synthetic-images", "120", "--data.validation-fraction", "0.2")


def test_a_chain_of_array_and_dependent_report(cluster: Cluster, project: Path) -> None:
    job_file = {"name": "chain", "ranks": [1, 2], "repetitions": 1, "options": {"global_batch": 16, "threads": 1}}
    (cluster.folder / "chain of mine.yaml").write_text(json.dumps(job_file))
    words = (project / "slurm" / "submit.sh", "chain of mine.yaml", "--", "--no-checkpoint", *SMALL)
    submitted = cluster.run("bash", *words, FLOWERS_TASKS_PER_NODE="1")
    assert submitted.status == 0, submitted.output
    assert "prepared 120 images of 5 classes at 32 pixels" in submitted.stdout  # before any job started
    arrays = re.findall(r"job (\d+): (\d) rank\(s\), points (\d)", submitted.stdout)
    assert sorted(ranks for _, ranks, _ in arrays) == ["1", "2"]
    (report,) = re.findall(r"job (\d+): the report", submitted.stdout)
    waiting = cluster.show(report)
    assert {number for number, _, _ in arrays} <= set(re.findall(r"afterany:(\d+)", waiting["Dependency"]))
    assert cluster.wait(report) == "COMPLETED", cluster.log(report)
    for number, ranks, point in arrays:
        assert cluster.states(number) == {"COMPLETED"}
        assert cluster.show(number)["NumNodes"] == ranks  # one rank a node: just the nodes that it needs
        assert "all of 1 points finished" in cluster.log(f"{number}_{point}")
    assert "2 ranks (allreduce) against one rank: speed-up" in cluster.log(report)
    again = cluster.run("bash", *words, FLOWERS_TASKS_PER_NODE="1")
    assert "every point is finished" in again.stdout
    assert cluster.wait(re.findall(r"job (\d+): the report", again.stdout)[0]) == "COMPLETED"
