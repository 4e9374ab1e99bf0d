"""Ranks that start alike must not drop the same units."""

from pathlib import Path

import numpy as np

from horovod_flowers.config.data import DataConfig
from horovod_flowers.config.run import ModelConfig, RunConfig
from horovod_flowers.data.order import split
from horovod_flowers.data.prepared import prepare
from horovod_flowers.data.sources import open_source
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.single_process import SingleProcess
from horovod_flowers.training.engine import TrainingEngine

CONFIG = RunConfig(
    data=DataConfig(image_size=32, synthetic_images=60, validation_fraction=0.25),
    model=ModelConfig(name="tests.single.test_model:regularised"),
)


def seeds_and_weights(rank: int, prepared_folder: Path) -> tuple[list[int], list[np.ndarray]]:
    prepared = prepare(prepared_folder, open_source(CONFIG.data), processes=1)
    ranks, images = Ranks(rank, 1, 0, 1, "single", SingleProcess()), split(prepared, CONFIG.data)
    engine = TrainingEngine(CONFIG, ranks, prepared, images, "none", "fp32")
    engine.share(None)
    weights = {id(weight) for weight in engine.model.weights}
    states = [np.asarray(state) for state in engine.model.variables if id(state) not in weights]
    return [int(state[0]) for state in states], [np.asarray(weight) for weight in engine.model.weights]


def test_each_rank_has_its_own_dropout_and_the_same_weights(prepared_folder: Path) -> None:
    first, weights = seeds_and_weights(0, prepared_folder)
    second, other_weights = seeds_and_weights(1, prepared_folder)
    assert len(first) == 1
    assert second == [first[0] + 1]
    assert all(np.array_equal(one, other) for one, other in zip(weights, other_weights, strict=True))
