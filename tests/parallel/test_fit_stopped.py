"""A script's fit that is asked to stop: it saves, ends with status 75, and trains when started again what it would have
trained without a stop."""

import json
from typing import Any

import pytest

from tests.conftest import TIMEOUT_SECONDS, mpirun, run_command
from tests.parallel.fit_stopped import CASES, EPOCHS, STEPS

Found = dict[str, Any]


@pytest.fixture(scope="module", params=[1, 2])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each rank has seen."""
    folder = tmp_path_factory.mktemp("stopped")
    command = mpirun(request.param, "python", "-m", "tests.parallel.fit_stopped", "found.json")
    ended = run_command(command, folder, 2 * TIMEOUT_SECONDS)
    assert ended.status == 0, ended.output
    everybodys = json.loads((folder / "found.json").read_text())
    assert len(everybodys) == request.param
    return everybodys


@pytest.mark.parametrize("case", CASES)
def test_a_fit_that_goes_on_trains_what_one_trains_that_was_not_stopped(case: str, found: list[Found]) -> None:
    """Each step once, in the same order, with the same random numbers: the same weights, and logs of whole epochs."""
    stop = CASES[case][2]
    alone = len(found) == 1
    for rank in found:
        expected, gone_on = rank[case]["expected"], rank[case]["gone on"]
        assert rank[case]["status"] == 75
        assert rank[case]["files"] == ["latest.weights.h5", "training_metadata.json"]
        assert gone_on["steps"] == expected["steps"] == EPOCHS * STEPS
        assert gone_on["begun"] == expected["begun"][-len(gone_on["begun"]) :]
        at_a_time = CASES[case][3]
        assert len(gone_on["begun"]) == (EPOCHS * STEPS - stop) // at_a_time
        assert gone_on["epochs"] == expected["epochs"][-len(gone_on["epochs"]) :]
        assert gone_on["weights"] == pytest.approx(expected["weights"], rel=1e-5)
        for name, values in gone_on["history"].items():
            assert values == pytest.approx(expected["history"][name][-len(values) :], rel=1e-5), name
    assert alone or found[0][case]["gone on"]["weights"] == found[1][case]["gone on"]["weights"]


def test_a_backup_of_every_few_steps_goes_on_at_its_step(found: list[Found]) -> None:
    for rank in found:
        gone_on, expected = rank["by step"], rank["with steps_per_epoch"]["expected"]
        assert gone_on["begun"][:3] == [6, 7, 0]
        assert gone_on["steps"] == expected["steps"]
        assert gone_on["weights"] == pytest.approx(expected["weights"], rel=1e-5)


def test_what_cannot_go_on_is_said(found: list[Found]) -> None:
    """Epochs of other batches begin anew, as many as they are; a backup keeps no models of several ranks."""
    for rank in found[: 2 * (len(found) > 1)]:
        assert rank["other steps"] == {"epochs": [1, 2], "steps": 11 + 2 * 5}
        assert rank["other rows"] == {"epochs": [1, 2], "steps": 11 + 9}  # all that there are, none left out
        assert rank["independent"].startswith("strategy 'none' trains a model on each rank, and BackupAndRestore keeps")
