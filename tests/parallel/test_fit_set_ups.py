"""`fit` over two ranks trains what plain Keras trains on the same global batches, whatever the model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import TIMEOUT_SECONDS, mpirun, run_command

MODELS = 26
"""At least: of the kinds that people bring."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("set_ups")
    output: Path = folder / "found.json"
    ended = run_command(
        mpirun(2, "python", "-m", "tests.parallel.fit_set_ups", output), folder, timeout=3 * TIMEOUT_SECONDS
    )
    assert ended.status == 0, ended.output
    return json.loads(output.read_text())


def test_two_ranks_train_what_one_trains(found: list[dict[str, Any]]) -> None:
    assert len({case["name"] for case in found}) >= MODELS
    assert {case["strategy"] for case in found} == {"allreduce", "sharded", "tensor"}
    for case in found:
        what = f"{case['name']}, {case['strategy']}"
        if case["turned_round"] is None:
            assert case["weights"] < 1e-4, what
        assert set(case["together"]) == set(case["alone"]), what
        for name, values in case["alone"].items():
            np.testing.assert_allclose(
                case["together"][name], values, rtol=tolerance_of(case), atol=1e-5, err_msg=f"{what}, {name}"
            )


def tolerance_of(case: dict[str, Any]) -> float:
    """Relative. Rounding that grows is measured: as what one rank gives for a batch whose rows are turned round."""
    if case["turned_round"] is None:
        return 1e-4
    losses = [np.array(case[which]["loss"]) for which in ("alone", "turned_round")]
    return max(1e-4, 5 * float(np.max(np.abs(losses[1] / losses[0] - 1))))


def test_all_ranks_are_told_the_same(found: list[dict[str, Any]]) -> None:
    assert all(case["same_on_all_ranks"] for case in found)


def test_adam_and_sgd_are_fused_where_weights_are_whole(found: list[dict[str, Any]]) -> None:
    fused = {case["name"]: case["fused"] for case in found if case["strategy"] == "allreduce"}
    assert fused["wide"]
    assert fused["conv_mixer"]
    assert not fused["text_lstm"]
