"""A program for N ranks: trains models for some steps under every strategy and on one rank alone on the same global
batches; writes by how much the weights and the optimizer's state differ, and what comes of a checkpoint that is handed
out and collected again.

    mpirun -np N python -m tests.parallel.strategies_against_one_rank OUTPUT.json ALONE

What one rank trains is kept in the folder ALONE, for other numbers of ranks.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.config.run import ModelConfig, RunConfig
from horovod_flowers.launch.job_environment import JobEnvironment
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.single_process import SingleProcess
from horovod_flowers.ranks.startup import connect, start_horovod, start_tensorflow
from horovod_flowers.runtime.exit import error_boundary
from tests.parallel.noise_batches import batch_of

SIZE, CLASSES, STEPS, IMAGES = 21, 5, 3, 12
MODELS = ("uneven", "functional", "subclassed", "looked_at")
CLIPNORM = 0.5
"""Of all gradients of the last of them: shorter than they are."""
STRATEGIES = (
    {"strategy": "allreduce", "dense_gradients": "reduced"},
    {"strategy": "allreduce", "dense_gradients": "factors"},
    {"strategy": "sharded", "dense_gradients": "reduced"},
    {"strategy": "sharded", "dense_gradients": "factors"},
    {"strategy": "tensor"},
    {"strategy": "mesh"},
)


def train(config: RunConfig, ranks: Ranks, steps: int) -> tuple[Any, Any]:
    """The state after some steps; collected on rank 0."""
    import keras

    from horovod_flowers.checkpoint.model_state import ModelState
    from horovod_flowers.model.registry import build_model
    from horovod_flowers.strategy.choice import make_strategy
    from horovod_flowers.training.optimizer import Clipping, build_over, make_optimizer
    from horovod_flowers.training.step import TrainingStep, Update
    from horovod_flowers.training.weight_average import WeightAverage

    keras.utils.set_random_seed(0)
    model = build_model(config.model.name, SIZE, CLASSES)
    strategy = make_strategy(config.strategy, config, ranks, "fp32", model, SIZE)
    state, optimizer = ModelState(model, strategy), make_optimizer(config.optimizer)
    build_over(optimizer, strategy.optimizer_variables, [part.shape for part in strategy.parts])
    state.add_optimizer(optimizer)
    average = WeightAverage(strategy, state.statistics, config.average_decay)
    state.add_average(average.variables)
    state.share(None)
    average.begin()
    step = TrainingStep(
        model,
        optimizer,
        strategy,
        ranks.size,
        "fp32",
        label_smoothing=config.label_smoothing,
        average=average,
        clipping=Clipping.of(config.optimizer),
    )
    for number in range(steps):
        last = (number + 1) % config.accumulate == 0
        update = Update((IMAGES - 1) * config.accumulate, config.accumulate, last)
        step(batch_of(number, ranks.rank, ranks.size, images=IMAGES, pixels=SIZE, classes=CLASSES), 0.01, update)
    return state, state.collect()


def differences(one: dict[str, np.ndarray], other: dict[str, np.ndarray], kind: str) -> float:
    """The largest relative difference of a tensor of that kind."""
    norms = [
        (np.linalg.norm(one[name].astype(np.float64) - other[name]), np.linalg.norm(one[name].astype(np.float64)))
        for name in one
        if name.startswith(kind)
    ]
    return max(float(difference / norm) for difference, norm in norms if norm > 0)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and how it is trained, whoever divides the work."""

    name: str
    config: RunConfig


def cases(size: int) -> list[Case]:
    """Those of so many ranks."""
    base, found = RunConfig(shard_above=1000, label_smoothing=0.1, average_decay=0.3), []
    for model in MODELS:
        optimizers = ("adam", "sgd") if size == 2 else ("adam",)
        # Adam takes little notice of how long a gradient is.
        for optimizer in ("sgd",) if model == "looked_at" else optimizers:
            clipnorm = CLIPNORM if model == "looked_at" else None
            optimizing = OptimizerConfig(name=optimizer, weight_decay=0.1, global_clipnorm=clipnorm)  # type: ignore[arg-type]
            named = ModelConfig(f"tests.parallel.model_zoo:{model}")
            for accumulate in (1, 3) if model == "uneven" and optimizer == "adam" else (1,):
                config = dataclasses.replace(base, model=named, optimizer=optimizing, accumulate=accumulate)
                found.append(Case(f"{model} {optimizer} x{accumulate}", config))
    return found


def train_alone(case: Case, folder: Path) -> Path:
    """What one rank trains, in a file of the folder, if it is not there from another number of ranks."""
    path = folder / f"{case.name}.npz"
    if not path.exists():
        np.savez(path, **train(case.config, Ranks(0, 1, 0, 1, "single", SingleProcess()), STEPS)[1])
    return path


def main() -> None:
    with error_boundary("strategies"):
        ranks = connect(JobEnvironment.from_environment(os.environ), 1, "auto")
        start_tensorflow(ranks, 1)
        import tensorflow as tf

        # Most of the time of this program is the making of graphs.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        chosen_cases, folder = cases(ranks.size), Path(sys.argv[2])
        base = chosen_cases[0].config
        ranks = start_horovod(ranks, base.horovod, base.model_parallel_size_for(ranks.size, ranks.size // 2))
        # The ranks share out what one trains alone, and wait without occupying a core, on which the others compute.
        for case in chosen_cases[ranks.rank :: ranks.size]:
            train_alone(case, folder)
        ranks.barrier()
        found = []
        for case in chosen_cases:
            for options in STRATEGIES:
                if case.config.accumulate > 1 and options.get("dense_gradients") == "factors":
                    continue
                if case.config.optimizer.name == "sgd" and ranks.size == 2 and options["strategy"] == "mesh":
                    continue  # no other slots than tensor's
                chosen = dataclasses.replace(case.config, **options)  # type: ignore[arg-type]
                state, collected = train(chosen, ranks, STEPS)
                optimizer_bytes = ranks.gather(state.optimizer_bytes)
                state.share(collected)
                again = state.collect()
                if ranks.rank == 0:
                    with np.load(train_alone(case, folder)) as file:
                        expected = dict(file)
                    assert expected.keys() == collected.keys()
                    found.append(
                        {
                            "case": f"{case.name} {' '.join(options.values())}",
                            "weights": differences(expected, collected, "weight"),
                            "average": differences(expected, collected, "average"),
                            "optimizer": differences(expected, collected, "optimizer"),
                            "exactly_restored": all(np.array_equal(collected[n], again[n]) for n in again),
                            "optimizer_bytes": optimizer_bytes,
                        }
                    )
        if ranks.rank == 0:
            Path(sys.argv[1]).write_text(json.dumps(found))
        ranks.barrier()


if __name__ == "__main__":
    main()
