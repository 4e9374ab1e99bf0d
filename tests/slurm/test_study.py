"""sbatch slurm/scale.sbatch, over 2 nodes x 2 ranks: cancelled, submitted again, to a report; one point of it fails.
And of a script of the user's own."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from horovod_flowers.runlog.study_attempts import read_record
from tests.slurm.conftest import Cluster, users_folder

TINY = {"image_size": 32, "synthetic_images": 120, "validation_fraction": 0.2}
OPTIONS: dict[str, Any] = {"epochs": 1, "threads": 1, "checkpoint": False, "warmup_steps": 1}


def failing_with_4_ranks(image_size: int, classes: int) -> Any:
    """A user's model that cannot be built with four ranks."""
    import os

    from tests.single.test_model import wide

    if os.environ["OMPI_COMM_WORLD_SIZE"] == "4":
        raise ZeroDivisionError("no model for four")
    return wide(image_size, classes)


def write_job_file(cluster: Cluster, prepared: Path, name: str, **fields: Any) -> str:
    options = OPTIONS | {"data": TINY | {"prepared_dir": str(prepared)}} | fields.pop("options")
    (cluster.folder / f"{name}.yaml").write_text(json.dumps({"name": name, "options": options, **fields}))
    return f"{name}.yaml"


@pytest.fixture(scope="module")
def study(cluster: Cluster, project: Path, prepared_folder: Path) -> tuple[str, str]:
    """The numbers of the job that was cancelled, with one point done, and of the one that did the rest."""
    strong = write_job_file(
        cluster, prepared_folder, "strong", ranks=[1, 2, 4], repetitions=1, options={"global_batch": 16}
    )
    weak = write_job_file(
        cluster,
        prepared_folder,
        "weak",
        ranks=[4],
        repetitions=1,
        order_seed=6,  # the files' seeds add up to an order in which the failing point comes last
        options={"per_rank_batch": 4, "model": {"name": "tests.slurm.test_study:failing_with_4_ranks"}},
    )
    words = (project / "slurm" / "scale.sbatch", strong, weak)
    first = cluster.submit(*words)
    cluster.until(
        lambda: re.search(r"finished after.*\n.*: started\n$", cluster.log(first)), "point after a finished one"
    )
    cluster.until(lambda: len(cluster.processes()) > 2, "processes of the study, its launcher and its ranks", 60)
    cluster.run("scancel", first)
    cluster.until(lambda: cluster.states(first) == {"CANCELLED"}, "cancelled job", 60)
    cluster.until(lambda: not cluster.processes(), "end of all its processes", 60)
    second = cluster.submit(*words)
    cluster.wait(second)
    return first, second


def test_a_cancelled_study_leaves_no_process_and_is_not_put_back(cluster: Cluster, study: tuple[str, str]) -> None:
    first, _ = study
    shown = cluster.show(first)
    assert (shown["JobState"], shown["Restarts"]) == ("CANCELLED", "0")
    assert "requeueing the job" not in cluster.log(first)


def test_submitted_again_it_runs_what_was_missing(cluster: Cluster, study: tuple[str, str]) -> None:
    first, second = study
    (done,) = [line.split()[2] for line in cluster.log(first).splitlines() if "finished after" in line]
    assert "study: 4 points, 3 to run" in cluster.log(second)
    assert done.rstrip(":") not in cluster.log(second).partition("Scaling")[0]


def test_a_point_that_fails_does_not_sink_the_study(cluster: Cluster, study: tuple[str, str]) -> None:
    _, second = study
    log = cluster.log(second)
    assert cluster.show(second)["JobState"] == "FAILED"
    assert cluster.show(second)["ExitCode"] == "1:0"
    name = "weak-4ranks-allreduce-auto-seed0-run1"
    record = read_record(cluster.folder / "runs" / ".study" / f"{name}.json")
    assert record.attempts[-1].outcome == "failed"
    assert "no model for four" in str(record.attempts[-1].reason)
    assert f"failed: {name}: status 2: " in log
    finished = {path.parent.name for path in (cluster.folder / "runs").glob("*/result.json")}
    assert finished == {f"strong-{k}-auto-seed0-run1" for k in ("1ranks-alone", "2ranks-allreduce", "4ranks-allreduce")}


def test_the_report_is_made_and_says_that_nodes_were_one_machine(cluster: Cluster, study: tuple[str, str]) -> None:
    points = json.loads((cluster.folder / "report" / "scaling.json").read_text())["points"]
    assert [point["ranks"] for point in points] == [1, 2, 4]
    assert (points[0]["oversubscribed"], points[-1]["oversubscribed"]) == (False, len(os.sched_getaffinity(0)) < 4)
    environment = json.loads(
        (cluster.folder / "runs" / "strong-4ranks-allreduce-auto-seed0-run1" / "environment.json").read_text()
    )
    assert [(host["host"], host["ranks"]) for host in environment["hosts"]] == [("n1", 2), ("n2", 2)]
    assert "4 rank(s) on 2 node(s), started by openmpi" in cluster.log(study[0])


SCRIPT = """
import sys
import horovod_flowers
ranks = horovod_flowers.start()
import keras, numpy as np
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
ranks.distribute(model)
model.fit(np.ones((64, 4)), np.ones(64), batch_size=int(sys.argv[1]), epochs=2, verbose=0)
"""


def test_a_script_of_ones_own_is_measured_on_two_nodes(
    slurm: dict[str, str], project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cluster = users_folder(slurm, tmp_path_factory)
    (cluster.folder / "my script.py").write_text(SCRIPT)
    mine = {
        "name": "mine",
        "ranks": [1, 4],
        "command": ["python", "my script.py", "{global_batch}"],
        "global_batch": 16,
    }
    (cluster.folder / "my study.yaml").write_text(
        json.dumps(mine | {"threads": 1, "warmup_steps": 1, "repetitions": 1})
    )
    job = cluster.submit(project / "slurm" / "scale.sbatch", "my study.yaml")
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    points = json.loads((cluster.folder / "report" / "scaling.json").read_text())["points"]
    assert [(point["ranks"], point["runs"], point["epochs"]) for point in points] == [(1, 1, 2), (4, 1, 2)]
    assert all(point["median_step_seconds"] > 0 for point in points)
    environment = json.loads((cluster.folder / "runs" / "mine-4ranks-run1" / "environment.json").read_text())
    assert [(host["host"], host["ranks"]) for host in environment["hosts"]] == [("n1", 2), ("n2", 2)]
