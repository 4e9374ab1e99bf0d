"""A study of scripts of one's own: run at one and two ranks, recorded from inside fit, reported; what fails."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from horovod_flowers.runlog.reading.run import RecordedRun, read_run
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.script_folder import waiting_result
from horovod_flowers.runlog.study_attempts import failures
from tests.conftest import PROJECT, Ended, run_command

HOROVODS = """\
import horovod_flowers.keras as hvd
hvd.init()
import keras, numpy as np
model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.01))
model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
data = np.random.default_rng(hvd.rank())
images, labels = data.random((104, 8), np.float32), data.integers(0, 3, 104)
callbacks = [hvd.callbacks.BroadcastGlobalVariablesCallback(0), hvd.callbacks.MetricAverageCallback()]
model.fit(images, labels, batch_size=16, epochs=2, verbose=0, callbacks=callbacks)
"""
ENDS_WITH_3 = """\
import horovod_flowers
ranks = horovod_flowers.start()
import keras, numpy as np
model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
model.compile("sgd", "mse")
ranks.distribute(model)
model.fit(np.zeros((40, 4)), np.zeros((40, 2)), batch_size=8, verbose=0)
raise SystemExit(3)
"""
WITHOUT_INTERFACE = "print('trained by somebody else')\n"
STUDIES: dict[str, dict[str, Any]] = {
    "mine": {
        "ranks": [1, 2],
        "command": [
            *("python", str(PROJECT / "examples" / "fit.py"), "--images", 208),
            *("--batch", "{global_batch}", "--strategy", "{strategy}", "--seed", "{seed}"),
        ],
        "global_batch": 32,
        "threads": 1,
    },
    "horovods": {"ranks": [2], "command": ["python", "horovods.py", "{seed}"], "per_rank_batch": 16, "threads": 1},
    "without": {"ranks": [2], "command": ["python", "without.py"], "global_batch": 8},
    "ends": {"ranks": [1], "command": "python ends.py", "global_batch": 8},
}


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended, Ended]:
    """The folder of a study of four commands, how the study ended, and the report of it."""
    folder = tmp_path_factory.mktemp("studied")
    for name, script in {"horovods": HOROVODS, "ends": ENDS_WITH_3, "without": WITHOUT_INTERFACE}.items():
        (folder / f"{name}.py").write_text(script)
    for name, fields in STUDIES.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"name": name, "repetitions": 1, **fields}))
    words = ["python", "-m", "horovod_flowers.study", *(f"{name}.yaml" for name in STUDIES), "--no-preflight"]
    ended = run_command(words, folder, variables={"FLOWERS_OVERSUBSCRIBE": "1"})
    reported = run_command(["python", "-m", "horovod_flowers.report", "--format", "json"], folder)
    return folder, ended, reported


def test_a_script_is_recorded_at_each_number_of_ranks(studied: tuple[Path, Ended, Ended]) -> None:
    folder, ended, _ = studied
    assert (ended.status, "2 of 5 points failed" in ended.stdout) == (1, True), ended.output
    runs = {1: read_run(folder / "runs" / "mine-1ranks-alone-seed0-run1")}
    runs[2] = read_run(folder / "runs" / "mine-2ranks-allreduce-seed0-run1")
    for ranks, run in runs.items():
        assert (run.environment.world_size, run.environment.global_batch) == (ranks, 32)
        assert run.environment.strategy == ("one rank" if ranks == 1 else "allreduce")
        assert {rank.threads for rank in run.environment.ranks} == {1}
        assert [(epoch.steps, epoch.images) for epoch in run.epochs] == [(7, 208)] * 2  # the last has 16 samples
        assert all(epoch.training_metrics.keys() == {"accuracy"} for epoch in run.epochs)
        assert run.result.progress.steps_done == 14
        shares = run.part_shares
        assert sum(shares.values()) == pytest.approx(1)
        assert all(shares[part] > 0 for part in ("input_wait", "compute", "update"))
        assert (shares["communication"] > 0) is (ranks > 1)
        first, second, dense = 2 * 26**2 * 16 * 9, 2 * 11**2 * 32 * 9 * 16, 2 * 32 * 10
        flops = run.environment.model_flops
        assert flops is not None
        assert flops.images == 32
        assert flops.forward == 32 * (first + second + dense)
        assert flops.backward == 32 * (first + 2 * second + 2 * dense)
    assert runs[1].result.parameters == runs[2].result.parameters
    assert sorted(path.name for path in (folder / "runs").glob(".*.held")) == []


def test_a_script_for_horovod_is_recorded_by_the_batches_of_its_ranks(studied: tuple[Path, Ended, Ended]) -> None:
    run = read_run(studied[0] / "runs" / "horovods-2ranks-seed0-run1")
    assert (run.environment.global_batch, run.environment.strategy) == (32, "allreduce")
    assert {rank.threads for rank in run.environment.ranks} == {1}
    assert [(epoch.steps, epoch.images) for epoch in run.epochs] == [(7, 208)] * 2
    assert all(share > 0 for share in run.part_shares.values())
    assert run.environment.model_flops is not None
    assert run.environment.model_flops.not_counted == []


def rate(run: RecordedRun) -> float:
    """Images a second, from the records."""
    epochs = [run.step_ns[run.epoch_of_step == epoch].sum(axis=0).max() for epoch in np.unique(run.epoch_of_step)]
    return run.images / (sum(epochs) / 1e9)


def test_the_report_gives_a_scripts_speed_up(studied: tuple[Path, Ended, Ended]) -> None:
    folder, _, reported = studied
    assert reported.status == 0, reported.output
    figures = json.loads((folder / "report" / "scaling.json").read_text())
    strong = [point for point in figures["points"] if point["scaling"] == "strong"]
    one, two = sorted(strong, key=lambda point: point["ranks"])
    rates = [rate(read_run(folder / "runs" / point["run_names"])) for point in (one, two)]
    assert [one["images_per_second"], two["images_per_second"]] == pytest.approx(rates)
    assert two["speed_up"] == pytest.approx(rates[1] / rates[0])
    assert two["efficiency"] == pytest.approx(rates[1] / rates[0] / 2)
    parts = ("input_wait", "compute", "communication", "update")
    assert sum(two[f"{part}_share"] for part in parts) == pytest.approx(1)
    assert (two["batch"], two["threads"], two["strategy"]) == (32, "1", "allreduce")
    (weak,) = [point for point in figures["points"] if point["scaling"] == "weak"]
    assert (weak["batch"], weak["speed_up"]) == (16, None)  # its command was not run on one rank


def test_what_leaves_no_record_and_what_ends_otherwise_has_failed(studied: tuple[Path, Ended, Ended]) -> None:
    folder, _, reported = studied
    told = dict(failures(folder / "runs"))
    assert set(told) == {"without-2ranks-run1", "ends-1ranks-run1"}
    assert told["without-2ranks-run1"].startswith(
        "it left no record of its steps, which comes from inside model.fit: add 'ranks = horovod_flowers.start()' at "
        "its beginning and 'ranks.distribute(model)' between compile and fit"
    )
    assert told["ends-1ranks-run1"].startswith("status 3: ")
    assert f"failed: without-2ranks-run1: {told['without-2ranks-run1'][:60]}" in " ".join(reported.stdout.split())
    # It trained, and what it trained is there, but no result stands for it.
    left = RunFolder(folder / "runs" / "ends-1ranks-run1")
    assert waiting_result(left).exists()
    assert not left.result.exists()
    assert "left out: ends-1ranks-run1: unfinished" in reported.stdout
