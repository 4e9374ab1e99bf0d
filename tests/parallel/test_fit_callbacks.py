"""Callbacks decide on two ranks what they decide on one, stop together, and write files once."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TIMEOUT_SECONDS, Ended, mpirun, run_command
from tests.parallel.fit_callbacks import DECISIONS, REFUSALS

Found = dict[str, Any]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Path]:
    folder = tmp_path_factory.mktemp("callbacks")
    words = mpirun(2, "python", "-m", "tests.parallel.fit_callbacks", "found.json")
    ended = run_command(words, folder, TIMEOUT_SECONDS)
    assert ended.status == 0, ended.output
    return ended, folder


@pytest.fixture(scope="module")
def found(ended: tuple[Ended, Path]) -> Found:
    return json.loads((ended[1] / "found.json").read_text())


OF_A_RANK = ("own", "files", "lines", "weights")


@pytest.mark.parametrize("case", [case.__name__ for case in DECISIONS])
def test_ranks_decide_what_one_rank_decides(found: Found, case: str) -> None:
    alone = found["alone"][case]
    for rank in found["ranks"]:
        for name, value in alone.items():
            if name in OF_A_RANK:
                continue
            if name == "history":
                assert rank[case][name].keys() == value.keys()
                for key, epochs in value.items():
                    assert rank[case][name][key] == pytest.approx(epochs, rel=1e-5, nan_ok=True), key
            else:
                assert rank[case][name] == pytest.approx(value, rel=1e-5, nan_ok=True), name
    first, second = ({k: v for k, v in rank[case].items() if k not in OF_A_RANK} for rank in found["ranks"])
    assert json.dumps(first) == json.dumps(second)  # bit by bit; NaN is NaN


def test_rank_1_would_have_decided_otherwise(found: Found) -> None:
    """Its own loss rises from the first epoch on, where that of all rows falls."""
    for case in (
        "early_stopping",
        "stopped_early",
        "best_weights_of_rank_0",
        "plateau",
        "checkpoint",
        "early_stopping_of_rank_0",
    ):
        own, together = found["ranks"][1][case]["own"], found["ranks"][1][case]["history"]["val_loss"]
        assert own == sorted(own), case
        assert own[0] < own[1], case
        assert together == sorted(together, reverse=True), case


def test_training_goes_on_and_stops_where_all_rows_say_so(found: Found) -> None:
    assert found["alone"]["early_stopping"]["epochs"] == [0, 1, 2, 3, 4]
    stopped = found["ranks"][1]["stopped_early"]
    assert 1 < len(stopped["epochs"]) < 30
    assert stopped["steps"] == 2 * len(stopped["epochs"])
    rates = found["ranks"][1]["plateau"]["history"]["learning_rate"]
    assert rates[0] == rates[2] > rates[3] > rates[-1]  # by its own loss: from the second epoch on
    assert found["ranks"][1]["function_of_batches"]["steps"] == 3
    assert found["ranks"][0]["stopped_by_rank_1"]["steps"] == 3
    assert found["ranks"][1]["early_stopping_of_rank_0"]["epochs"] == found["ranks"][0]["stopped_early"]["epochs"]
    assert [math.isnan(rank["not_a_number"]["weight"]) for rank in found["ranks"]] == [True, True]
    assert found["ranks"][0]["not_a_number"]["steps"] == 2


def test_files_are_those_of_one_rank_and_written_once(found: Found) -> None:
    """Every rank names files of its own."""
    for case in ("checkpoint", "checkpoint_by_batches", "divided_state", "tensorboard", "csv_logger", "own_csv_logger"):
        for name in filter(found["alone"][case].__contains__, ("files", "lines", "weights")):
            ours, alone = found["ranks"][0][case][name], found["alone"][case][name]
            if name == "files" or isinstance(ours, int):
                assert ours == alone, case
            assert len(found["ranks"][1][case][name] or []) == 0 or case == "tensorboard", case
    assert found["ranks"][1]["tensorboard"]["files"] == [[], []]
    assert found["ranks"][0]["checkpoint"]["weights"] == pytest.approx(found["alone"]["checkpoint"]["weights"])
    assert len(found["ranks"][0]["csv_logger"]["lines"]) == 3
    assert found["ranks"][0]["remote_monitor"]["lines"] == found["alone"]["remote_monitor"]["lines"]
    assert len(found["ranks"][0]["remote_monitor"]["lines"]) == 2
    assert found["ranks"][1]["remote_monitor"]["lines"] == []
    assert found["ranks"][1]["backup"]["epochs"] == [2, 3]  # rank 0 alone had the files


@pytest.mark.parametrize("case", [case.__name__ for case in REFUSALS])
def test_what_ranks_cannot_do_together_is_refused_on_all_of_them(found: Found, case: str) -> None:
    first, second = (rank[case] for rank in found["ranks"])
    assert first == second
    assert "rank 1" in first
    assert "rank 0" in first


def test_callbacks_speak_once(ended: tuple[Ended, Path]) -> None:
    """Rank 0 tells of what rank 1 alone has seen, in three cases; then the one rank trains that sees all rows."""
    assert ended[0].output.count("a callback of rank 1 says so, such as of a loss that is NaN") == 3, ended[0].output
    assert ended[0].output.count("Invalid loss") == 1, ended[0].output


def test_a_callback_that_raises_on_one_rank_ends_the_job(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import horovod_flowers\n"
        "ranks = horovod_flowers.start()\n"
        "import keras\n"
        "from tests.parallel.fit_callbacks import data, make\n"
        "class Broken(keras.callbacks.Callback):\n"
        "    def on_train_batch_end(self, batch, logs=None):\n"
        "        if ranks.rank == 1 and batch == 1:\n"
        "            raise ValueError('out of luck')\n"
        "x, y = data()\n"
        "ranks.distribute(make()).fit(x, y, batch_size=4, epochs=1000, verbose=2, callbacks=[Broken()])\n"
    )
    ended = run_command(mpirun(2, "python", script), tmp_path, timeout=TIMEOUT_SECONDS)
    assert ended.status == 1, ended.output
    assert "rank 1 on" in ended.output
    assert "ValueError: out of luck" in ended.output
    assert "Epoch 2/" not in ended.output
