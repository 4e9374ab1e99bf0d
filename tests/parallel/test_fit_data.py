"""Whatever data a model is given, several ranks make of them what Keras makes of them on one; or refuse them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TIMEOUT_SECONDS, mpirun, run_command
from tests.parallel.fit_data import BATCH, ROWS, given_to_fit

Found = dict[str, Any]
RANKS = 2
"""By which neither the batches nor the rows can be divided."""
CASES = [*given_to_fit(), "several_inputs_and_outputs", "own_logs", "own_trackers", "words"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    folder = tmp_path_factory.mktemp("data")
    output: Path = folder / "found.json"
    ended = run_command(mpirun(RANKS, "python", "-m", "tests.parallel.fit_data", output), folder, TIMEOUT_SECONDS)
    assert ended.status == 0, ended.output
    return json.loads(output.read_text())


@pytest.mark.parametrize("case", CASES)
def test_training_is_that_of_one_rank(found: list[Found], case: str) -> None:
    together, alone = found[0]["fit"][case]
    assert together.keys() == alone.keys()
    for name, values in alone.items():
        assert together[name] == pytest.approx(values, rel=1e-4, abs=1e-6), name
    assert all(rank["fit"][case][0] == together for rank in found)


def test_evaluation_and_prediction_are_those_of_one_rank(found: list[Found]) -> None:
    together, alone = found[0]["calls"]
    assert together.keys() == alone.keys()
    for name, values in alone.items():
        assert together[name] == pytest.approx(values, rel=1e-4, abs=1e-6), name
    assert all(rank["calls"][0] == together for rank in found)


def test_metrics_of_all_ranks_are_those_of_all_rows(found: list[Found]) -> None:
    """Of every class of keras.metrics."""
    assert len(found[0]["metrics"]) > 40
    for name, (together, alone) in found[0]["metrics"].items():
        assert together == pytest.approx(alone, rel=1e-5, nan_ok=True), name
        assert all(rank["metrics"][name][0] == together for rank in found)


def test_every_row_is_read_once_in_an_epoch_in_an_order_for_all_ranks(found: list[Found]) -> None:
    for name in ("arrays", "within batches", "batches"):
        first, second = found[0]["order"][name]
        assert sorted(first) == sorted(second) == list(range(ROWS)), name
        assert first != second, name
        assert first != sorted(first), name
        assert all(rank["order"][name] == [first, second] for rank in found)
    assert found[0]["order"]["changed in a pass"] == found[0]["order"]["expected"]
    within = found[0]["order"]["within batches"][0]
    assert sorted(within[:BATCH]) == list(range(BATCH))


@pytest.mark.parametrize("kind", ["ragged", "sparse"])
def test_ragged_and_sparse_rows_are_divided(found: list[Found], kind: str) -> None:
    for source in ("array", "dataset"):
        assert found[0]["kinds"][f"{kind} {source}"] == found[0]["kinds"][kind], source


def test_a_dataset_is_sharded_for_a_loop_of_ones_own(found: list[Found]) -> None:
    shard = found[0]["shard"]
    assert shard["means"] == pytest.approx(shard["whole"], rel=1e-5)
    assert shard["shares"] == pytest.approx([1.0] * len(shard["whole"]))
    assert shard["even"] == [2] * (ROWS // (2 * RANKS))
    assert f"{RANKS} ranks do not divide a batch evenly" in shard["uneven"]


def test_independent_ranks_train_what_each_trains_alone_on_its_rows(found: list[Found]) -> None:
    for rank in found:
        own, alone = rank["independent"]
        for weight, expected in zip(own, alone, strict=True):
            assert weight == pytest.approx(expected, rel=1e-4)
    assert found[0]["independent"][0] != found[1]["independent"][0]


REFUSED = {
    "other arrays": "the arrays of rank 1 and rank 0 differ in x",
    "another order": "the arrays of rank 1 and rank 0 differ in x, y",
    "other lengths": "fit was given x=ndarray (22, 4) on rank 1, and ndarray (23, 4) on rank 0",
    "a sharded dataset": "no Dataset.shard",
    "shuffled otherwise": "shuffle with a seed",
    "unequal ends": "the data of rank 0 ended after 2 batches",
    "a failure on one rank": "batch 2 of the data cannot be read: OSError: the disk is gone [rank 1 on",
    "other inputs later": "trained",  # as augmentation, which is said
    "other labels later": "batch 3 of the data of rank 1 and rank 0 differ in y: every rank needs the same data",
    "augmented, and other labels later": "batch 3 of the data of rank 1 and rank 0 differ in y",
    "not batched": "batch the dataset with the global batch",
    "workers and steps": "read with workers=1",
    "other epochs": "fit was given epochs=2 on rank 1, and 1 on rank 0",
    "a largest value": "metric largest (Largest) cannot be added up over ranks",
    "arrays of two lengths": "Data cardinality is ambiguous",
    "test_on_batch": "call evaluate",
    "no rows": "the arrays have no rows",
    "augmented alike": "trained",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_ranks_cannot_train_on_is_refused_on_all_of_them(found: list[Found], case: str) -> None:
    told = {rank["refusals"][case] for rank in found}
    assert len(told) == 1
    assert REFUSED[case] in told.pop()


def test_no_case_of_a_refusal_is_forgotten(found: list[Found]) -> None:
    assert found[0]["refusals"].keys() == REFUSED.keys()
