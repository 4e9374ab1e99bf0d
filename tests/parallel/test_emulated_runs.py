"""Emulated runs on real ranks: what each strategy computes and sends under steps that sleep, and what such a run is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.step_profile import write_step_profile
from horovod_flowers.strategy.communication_volume import DenseShape, volume_per_step
from tests.conftest import Ended, Workplace, mpirun, run_command
from tests.parallel.emulated_strategies import CASES
from tests.single.step_profiles import profile

PASSES, UPDATE, KERNEL = 0.3, 0.1, 0.03
"""Seconds of the profile: forward and backward pass, update, and of the passes the gradient of the large kernel."""
ELEMENTS = [weight.elements for weight in profile().weights]
LARGE, SMALL = DenseShape(4096, 256), DenseShape(256, 5)


def updated(divided: list[int], ranks: int) -> float:
    """Seconds of an update where these weights are divided."""
    whole = sum(ELEMENTS)
    return UPDATE * (whole - sum(ELEMENTS[k] for k in divided) * (1 - 1 / ranks)) / whole


SECONDS = {
    "none": PASSES + UPDATE,
    "allreduce reduced": PASSES + UPDATE,
    # Of the images of all ranks.
    "allreduce factors": PASSES + 3 * KERNEL + UPDATE,
    "sharded reduced": PASSES + updated([0, 2], 4),
    "sharded factors": PASSES + updated([0, 2], 4),
    "tensor": PASSES + updated([2], 4),
    "tensor of both": PASSES + updated([2, 4], 4),
    "mesh of 2": PASSES + updated([2], 2),
}


def whole(*apart: int) -> list[int]:
    """Elements of a call for all weights but these."""
    return [sum(elements for number, elements in enumerate(ELEMENTS) if number not in apart)]


VOLUMES: dict[str, dict[str, Any]] = {
    "allreduce factors": {"strategy": "allreduce", "small": whole(2), "layers": [LARGE], "factored": True},
    "sharded reduced": {
        "strategy": "sharded",
        "small": whole(0, 2),
        "divided": [ELEMENTS[0], ELEMENTS[2]],
        "layers": [],
    },
    "sharded factors": {
        "strategy": "sharded",
        "small": whole(0, 2),
        "divided": [ELEMENTS[0]],
        "layers": [LARGE],
        "factored": True,
    },
    "tensor": {"strategy": "tensor", "small": whole(2), "layers": [LARGE]},
    "tensor of both": {"strategy": "tensor", "small": whole(2, 4), "layers": [LARGE, SMALL]},
    "mesh of 2": {"strategy": "mesh", "small": whole(2), "layers": [LARGE], "group": 2},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder: Path = tmp_path_factory.mktemp("emulated")
    write_step_profile(folder / "p.json", profile())
    words = mpirun(4, "python", "-m", "tests.parallel.emulated_strategies", folder / "p.json", folder / "found.json")
    ended = run_command(words, folder)
    assert ended.status == 0, ended.output
    return json.loads((folder / "found.json").read_text())


def test_every_rank_sleeps_for_its_part_of_what_was_measured(found: dict[str, list[dict[str, Any]]]) -> None:
    assert list(found) == list(CASES)
    for name, ranks in found.items():
        for rank in ranks:
            computed = rank["computed"]
            assert sum(seconds for _, seconds in computed) == pytest.approx(SECONDS[name], rel=2e-3), name
            places = [place for place, _ in computed]
            assert sorted(places) == list(range(len(places))), name  # each part once
            # No step ends before its parts, one after the other, have.
            assert rank["record"]["total_ns"] > SECONDS[name] * 0.998e9, name
            assert rank["record"]["update_ns"] > (SECONDS[name] - PASSES - 3 * KERNEL) * 0.998e9, name


def test_parts_come_in_the_order_in_which_they_were_measured(found: dict[str, list[dict[str, Any]]]) -> None:
    for name in ("none", "allreduce reduced", "sharded reduced"):
        for rank in found[name]:
            assert [place for place, _ in rank["computed"]] == list(range(12)), name
    # The gradient of a divided kernel is computed once that of the outputs has come from all ranks: beside the way back
    # of the inputs' gradient, for which what lies before the layer has to wait.
    for rank in found["tensor"]:
        places = [place for place, _ in rank["computed"]]
        assert places.index(4) < places.index(6) < places.index(8)
        assert places.index(4) < places.index(7)


def test_they_send_what_the_measured_model_would(found: dict[str, list[dict[str, Any]]]) -> None:
    assert found["none"][0]["volume"] == []
    for name, work in VOLUMES.items():
        expected = volume_per_step(ranks=4, images=8, **work)
        sent = {(entry["operation"], entry["ranks"]): entry for entry in found[name][0]["volume"]}
        assert set(sent) == {(entry.operation, entry.ranks) for entry in expected}, name
        for entry in expected:
            own = sent[entry.operation, entry.ranks]
            assert own["calls"] == entry.calls or name.startswith("sharded"), name
            assert own["bytes_sent"] == pytest.approx(entry.bytes_sent, rel=1e-2), (name, entry.operation)
    reduced = found["allreduce reduced"][0]["volume"][0]["bytes_sent"]
    assert reduced == pytest.approx(2 * 3 / 4 * 4 * sum(ELEMENTS))


@pytest.fixture(scope="module")
def run(shared_workplace: Workplace) -> Workplace:
    """A workplace with an emulated run of two ranks."""
    write_step_profile(shared_workplace.folder / "p.json", profile())
    words = mpirun(2, "python", "-m", "horovod_flowers.train", *EMULATED)
    ended = run_command(words, shared_workplace.folder)
    assert ended.status == 0, ended.output
    assert (
        "emulated: ranks sleep for what 8 images of flower_cnn took on one rank, 0.4 s a step (p.json)" in ended.output
    )
    assert "not a measure of speed" not in ended.output
    return shared_workplace


EMULATED = [
    *("--name", "emulated", "--emulate.profile", "p.json", "--per-rank-batch", "8", "--steps", "5", "--epochs", "2"),
    *("--resume-or-start", "--strategy", "sharded"),
]


def test_an_emulated_run_is_recorded_as_one(run: Workplace) -> None:
    found = read_run(run.folder / "runs" / "emulated")
    emulated = found.environment.emulated
    assert emulated is not None
    assert emulated.step is not None
    assert emulated.network is None
    assert (emulated.step.rows, emulated.step.median_step_seconds, emulated.step.profile) == (8, 0.4, "p.json")
    assert (found.environment.precision, found.environment.ranks[0].threads) == ("fp32", 1)
    assert found.result.parameters == sum(ELEMENTS) + 7
    gauge = found.result.core_gauge
    assert gauge is not None
    assert len(gauge.elapsed_seconds) == 2
    # Of the timed steps of both epochs: seven, since three are warm-up.
    assert len(found.step_ns) == 7
    assert min(gauge.elapsed_seconds) > 7 * (PASSES + updated([0, 2], 2)) * 0.998
    assert (found.config["checkpoint"], found.config["validate"], found.config["bind"]) == (False, False, "none")
    assert not (run.folder / "runs" / "emulated" / "checkpoints").exists()
    assert found.epochs[0].validation_loss is None


def test_what_an_emulated_run_cannot_give_is_refused(
    run: Workplace, workplace: Workplace, refused_here: Callable[..., Ended]
) -> None:
    path = run.folder / "runs" / "emulated"
    for command in ("evaluate", "predict", "export"):
        words = [str(path)] if command != "predict" else ["--run", str(path), "."]
        ended = refused_here(command, *words)
        assert ended.status == 2
        assert ended.output.count("is emulated: it has learned nothing and keeps no weights") == 1, ended.output
    options = ["--runs-dir", str(path.parent), "--name", "emulated"]
    ended = refused_here("train", *options, "--resume")
    assert (ended.status, "resume and emulate.profile are both given" in ended.output) == (2, True)
    ended = refused_here("train", *options, "--model.weights", str(path), "--overwrite")
    assert (ended.status, "is neither a run with a checkpoint nor an export" in ended.output) == (2, True)
    ended = refused_here("train", "--emulate.profile", str(run.folder / "p.json"), "--per-rank-batch", "4", ranks=2)
    assert (ended.status, "a rank of this run has 4 images a step" in ended.output) == (2, True)
    ended = refused_here("train", "--emulate.profile", "missing.json")
    assert (ended.status, "there is no step profile missing.json" in ended.output) == (2, True)
    ended = refused_here("step_profile", "--rows", "8", ranks=2)
    assert (ended.status, "a step is measured on one, so leave out mpirun" in ended.output) == (2, True)
    assert list(workplace.folder.iterdir()) == []


def test_a_complete_one_is_not_begun_again(run: Workplace) -> None:
    ended = run_command(mpirun(2, "python", "-m", "horovod_flowers.train", *EMULATED), run.folder)
    assert (ended.status, "is complete: nothing to do" in ended.output) == (0, True), ended.output
