"""Jobs of scripts written for Horovod: mistakes end them in a sentence, and ranks may come and go."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from horovod_flowers.config.command_line import to_yaml
from horovod_flowers.config.script import RECORD_VARIABLE, ScriptConfig
from horovod_flowers.runlog.json_lines import read_lines
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.records import Header, StepRecord
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.script_folder import waiting_result
from tests.conftest import PROJECT, mpirun, run_command

MISTAKES = {
    "model": (2, "rank 1 has another model than rank 0: sequential/dense/kernel [3, 3] float32 there", "rank 1 on "),
    "steps": (2, "rank 1 has 5 batches an epoch and rank 0 has 4, so one would wait for the other", "rank 1 on "),
    "short": (2, "rank 0 has only 4 of 5 batches in epoch 1, and other ranks wait for it", "rank 1 on "),
    "some": (2, "a rank has ended while this one was about to train with it: call fit on all ranks", "Traceback"),
    "callback": (1, "rank 1 on ", "rank 0 on "),
    "hang": (
        1,
        "stops: Horovod has been shut down, since a rank failed, ended, or was waited for too long",
        "rank 1 on ",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_the_job_in_a_sentence(mistake: str, tmp_path: Path) -> None:
    status, sentence, absent = MISTAKES[mistake]
    limits = {"short": {"HOROVOD_STALL_CHECK_TIME_SECONDS": "3"}}
    limits["hang"] = {"HOROVOD_STALL_CHECK_TIME_SECONDS": "5", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "10"}
    words = mpirun(2, "python", "-m", "tests.parallel.horovod_misuse", mistake)
    ended = run_command(words, tmp_path, variables=limits.get(mistake))
    assert ended.status == status, ended.output
    assert sentence in ended.output
    assert absent not in ended.output
    assert "trained" not in ended.output
    assert ("KeyError: 'a callback of rank 1'" in ended.output) == (mistake == "callback")


def test_another_back_end_is_refused(tmp_path: Path) -> None:
    words = ["python", "-c", "import horovod_flowers.keras"]
    ended = run_command(words, tmp_path, variables={"KERAS_BACKEND": "jax"})
    assert ended.status == 1
    assert "Keras' back end is jax (KERAS_BACKEND), and horovod_flowers.keras works with tensorflow" in ended.stderr


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_ported_example_trains_and_is_recorded_for_a_study(ranks: int, tmp_path: Path) -> None:
    file = tmp_path / ".study" / "r.yaml"
    file.parent.mkdir()
    config = ScriptConfig(command="python s.py", name="r", per_rank_batch=32, runs_dir=str(tmp_path), warmup_steps=1)
    file.write_text(to_yaml(config))
    words = mpirun(ranks, "python", PROJECT / "examples" / "horovod_keras.py")
    ended = run_command(words, tmp_path, variables={RECORD_VARIABLE: str(file)})
    assert ended.status == 0, ended.output
    lines = [line for line in ended.stdout.splitlines() if "on images that no rank has seen" in line]
    assert len(lines) == 1  # one rank says it
    number, accuracy = lines[0].split()[0], float(lines[0].split()[3])
    assert int(number) == ranks
    assert accuracy > 0.8
    assert "finished gradual learning rate warmup to " + f"{0.003 * ranks:g}" in ended.stdout
    model: Any = keras.models.load_model(tmp_path / "checkpoint-4.keras")
    assert type(model.optimizer) is keras.optimizers.Adam
    assert int(model.optimizer.iterations) == 4 * 64 // ranks

    folder = RunFolder(tmp_path / "r")
    waiting_result(folder).rename(folder.result)
    run = read_run(folder.path)
    of_run = run.environment
    assert (of_run.world_size, of_run.global_batch) == (ranks, 32 * ranks)
    assert of_run.strategy == ("one rank" if ranks == 1 else "allreduce")
    assert [(epoch.steps, epoch.images) for epoch in run.epochs] == [(64 // ranks, 2048)] * 4
    assert [epoch.learning_rate for epoch in run.epochs][-1] == pytest.approx(0.003 * ranks)
    steps = [each for each in read_lines(folder.steps(0), Header | StepRecord) if isinstance(each, StepRecord)]
    assert len(steps) == 4 * 64 // ranks
    assert all(each.compute_ns > 0 and each.update_ns > 0 for each in steps)
    if ranks > 1:
        weights = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
        (volume,) = of_run.communication_volume or []
        assert (volume.operation, volume.calls, volume.bytes_sent) == ("allreduce", 6, weights * 4)
        assert all(each.communication_ns > 0 for each in steps)


def test_ranks_come_and_go(tmp_path: Path) -> None:
    hosts, script, results = tmp_path / "hosts", tmp_path / "discover.sh", tmp_path / "results.json"
    hosts.write_text("localhost:1\n")
    script.write_text(f"#!/bin/sh\ncat {hosts}\n")
    script.chmod(0o755)
    words = ["horovodrun", "-np", "1", "--min-np", "1", "--max-np", "2", "--host-discovery-script", str(script)]
    words += [
        "--gloo-timeout-seconds",
        "120",
        "--network-interfaces",
        "lo",
        "python",
        "-m",
        "tests.parallel.horovod_elastic",
        str(hosts),
        str(results),
    ]
    ended = run_command(words, tmp_path)
    assert results.exists(), ended.output
    seen, iterations, difference, state = json.loads(results.read_text())
    # Alone; with the rank that has come, where the other was; alone again, from the last commit.
    assert seen == [[1, 0, 0, 0], [2, 0, 2, 2], [1, 1, 2, 6]]
    assert (iterations, state) == (12, [3, 0])
    assert difference < 1e-6
