"""Every layer of Keras trains on two ranks what it trains on one, or docs/own-models.md says why not."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import PROJECT, TIMEOUT_SECONDS, mpirun, run_command
from tests.parallel.every_layer import NOT_FOR_PHOTOS, STRATEGIES, all_branches, every_class, has_weights, one_of_each

HEADING = "## What differs by nature between one rank and N"


def documented() -> set[str]:
    """The layers in the first column of the table under the heading."""
    text = (PROJECT / "docs" / "own-models.md").read_text().partition(HEADING)[2].partition("\n### ")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return {name for cell in cells for name in re.findall(r"`([A-Z]\w+)`", cell)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("layers")
    output: Path = folder / "found.json"
    words = mpirun(2, "python", "-m", "tests.parallel.every_layer", output)
    ended = run_command(words, folder, timeout=3 * TIMEOUT_SECONDS)  # some hundred trainings
    assert ended.status == 0, ended.output
    return json.loads(output.read_text())


def test_no_layer_of_keras_is_forgotten() -> None:
    trained, by_nature = set(one_of_each()), documented()
    exported = set(every_class())
    assert exported - trained - by_nature - set(NOT_FOR_PHOTOS) == set()
    assert (trained | by_nature | set(NOT_FOR_PHOTOS)) - exported == set()
    # Synchronised or not makes the difference.
    assert trained & by_nature == {"BatchNormalization"}


def test_layers_without_weights_have_no_state_and_see_one_image_at_a_time() -> None:
    """They need no training: what two ranks make of their images is what one makes of all of them."""
    random = np.random.default_rng(0)
    for name, (shape, kind) in one_of_each().items():
        if has_weights(name):
            continue
        layer, images = kind(), random.uniform(size=(4, *shape)).astype(np.float32)
        assert getattr(layer, "weights", []) == [], name
        whole, halves = layer(images), [layer(images[:2]), layer(images[2:])]
        np.testing.assert_allclose(whole, np.concatenate(halves), rtol=1e-6, atol=1e-6, err_msg=name)


def test_two_ranks_train_what_one_trains(found: list[dict[str, Any]]) -> None:
    trained = {layer for case in found for layer in case["layers"]}
    assert trained == {branch.layer for branch in all_branches()}
    assert {case["case"] for case in found} == {" ".join(options.values()) for options in STRATEGIES}
    for case in found:
        assert max(case["worst"].values()) < 1e-4, case


def test_weights_are_divided_where_they_may_be(found: list[dict[str, Any]]) -> None:
    """What would be equal, too, if nothing were divided."""
    notes = {case["case"]: "" for case in found}
    for case in found:
        notes[case["case"]] += "; ".join(case["notes"])
    assert "divided over 2 ranks" in notes["tensor"]
    assert "gradient of dense" in notes["sharded factors"]
    assert "(constraint MaxNorm)" in notes["sharded factors"]
    assert "(assigned in a call)" in notes["sharded factors"]
    assert "gradient of dense" in notes["allreduce factors"]
    assert "batch statistics of" in notes["allreduce factors"]
