"""A program for N ranks that talk over the loopback device: counts the bytes that each sends in a step, by strategy.

mpirun -np N --mca btl tcp,self --mca btl_tcp_if_include lo python -m tests.parallel.bytes_sent OUTPUT.json
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from horovod_flowers.config.run import ModelConfig, RunConfig
from horovod_flowers.data.batches import Batch
from horovod_flowers.launch.job_environment import JobEnvironment
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.startup import connect, start_horovod, start_tensorflow
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.strategy.communication_volume import DenseShape, bytes_per_step

SIZE, CLASSES, IMAGES, STEPS = 16, 5, 8, 6
INPUTS, UNITS = 3 * SIZE * SIZE, 1024


def wide(image_size: int, classes: int) -> Any:
    """Nearly all weights in one Dense layer."""
    from keras import Sequential, layers

    large = layers.Dense(UNITS, activation="relu")
    return Sequential([layers.Input((image_size, image_size, 3)), layers.Flatten(), large, layers.Dense(classes)])


def loopback_bytes() -> int:
    """Sent over the loopback device so far, by all processes that see it."""
    for line in Path("/proc/net/dev").read_text(encoding="utf-8").splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    raise OSError("there is no loopback device")


def sent_per_step(config: RunConfig, ranks: Ranks, precision: Any) -> tuple[float, Any]:
    """Bytes a rank and step, averaged over ranks and steps after the first."""
    from horovod_flowers.checkpoint.model_state import ModelState
    from horovod_flowers.model.registry import build_model
    from horovod_flowers.strategy.choice import make_strategy
    from horovod_flowers.training.optimizer import make_optimizer
    from horovod_flowers.training.step import TrainingStep, Update

    model = build_model(config.model.name, SIZE, CLASSES)
    strategy = make_strategy(config.strategy, config, ranks, precision, model, SIZE)
    state, optimizer = ModelState(model, strategy), make_optimizer(config.optimizer)
    optimizer.build(strategy.optimizer_variables)
    state.add_optimizer(optimizer)
    state.share(None)
    step = TrainingStep(model, optimizer, strategy, ranks.size, precision)
    images = np.random.default_rng(ranks.rank).integers(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    labels, weights = np.zeros(IMAGES, np.int32), np.ones(IMAGES, np.float32)
    batch = Batch(images, labels, weights, IMAGES * ranks.size, np.arange(IMAGES))
    step(batch, 0.001, Update(batch.global_images))
    ranks.barrier()
    before = loopback_bytes()
    ranks.barrier()
    for _ in range(STEPS):
        step(batch, 0.001, Update(batch.global_images))
    ranks.barrier()
    after = loopback_bytes()
    ranks.barrier()
    return (after - before) / STEPS / ranks.size, strategy


def main() -> None:
    with error_boundary("bytes"):
        ranks = connect(JobEnvironment.from_environment(os.environ), 1, "auto")
        start_tensorflow(ranks, 1)
        config = RunConfig(
            shard_above=100_000, per_rank_batch=IMAGES, model=ModelConfig("tests.parallel.bytes_sent:wide")
        )
        group = ranks.size // 2
        ranks = start_horovod(ranks, config.horovod, group)
        found = []
        small = [UNITS, UNITS * CLASSES, CLASSES]
        for strategy, gradients, precision in (
            ("none", "auto", "fp32"),
            ("allreduce", "reduced", "fp32"),
            ("allreduce", "factors", "bf16"),
            ("sharded", "reduced", "fp32"),
            ("sharded", "factors", "bf16"),
            ("tensor", "auto", "fp32"),
            ("tensor", "auto", "bf16"),
            *([("mesh", "auto", "fp32")] if group > 1 else []),
        ):
            chosen = dataclasses.replace(config, strategy=strategy, dense_gradients=gradients)  # type: ignore[arg-type]
            sent, made = sent_per_step(chosen, ranks, precision)
            divided = [UNITS * CLASSES] if strategy == "sharded" else []
            formula = bytes_per_step(
                strategy,  # type: ignore[arg-type]
                ranks=ranks.size,
                images=IMAGES,
                small=[n for n in small if n not in divided],
                divided=divided,
                layers=[DenseShape(INPUTS, UNITS)],
                factor_value_bytes=2 if precision == "bf16" else 4,
                factored=gradients == "factors",
                group=group if strategy == "mesh" else None,
            )
            found.append(
                {"strategy": strategy, "gradients": gradients, "precision": precision, "ranks": ranks.size}
                | {"counted": sent, "formula": formula, "told": msgspec.to_builtins(made.communication_volume(IMAGES))}
            )
        if ranks.rank == 0:
            Path(sys.argv[1]).write_text(json.dumps(found))
        ranks.barrier()


if __name__ == "__main__":
    main()
