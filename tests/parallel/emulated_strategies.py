"""A program for 4 ranks: every strategy under steps that sleep for a profile with known times. Rank 0 writes what each
rank's core computed in a step, its records, and the bytes that it sent by formula.

    mpirun -np 4 python -m tests.parallel.emulated_strategies PROFILE.json OUTPUT.json
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from horovod_flowers.config.emulate import EmulateConfig
from horovod_flowers.config.run import HorovodConfig, RunConfig
from horovod_flowers.launch.job_environment import JobEnvironment
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.startup import connect, start_horovod, start_tensorflow
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.training.emulation import INTER_OP_THREADS, emulation_of

CASES: dict[str, dict[str, Any]] = {
    "none": {"strategy": "none"},
    "allreduce reduced": {"strategy": "allreduce", "dense_gradients": "reduced"},
    "allreduce factors": {"strategy": "allreduce", "dense_gradients": "factors"},
    "sharded reduced": {"strategy": "sharded", "dense_gradients": "reduced", "shrink": 16.0},
    "sharded factors": {"strategy": "sharded", "dense_gradients": "factors"},
    "tensor": {"strategy": "tensor", "shrink": 4.0},
    "tensor of both": {"strategy": "tensor", "shard_layers": "large,small"},
    "mesh of 2": {"strategy": "mesh", "model_parallel_size": 2},
}
STEPS = 2


def run_case(ranks: Ranks, path: str, options: dict[str, Any]) -> dict[str, Any]:
    """The last of some steps on this rank."""
    from horovod_flowers.training.emulated_engine import EmulatedEngine

    emulate = EmulateConfig(profile=path, shrink=options.get("shrink"))
    config = RunConfig(
        per_rank_batch=8,
        steps=STEPS,
        warmup_steps=0,
        emulate=emulate,
        **{k: v for k, v in options.items() if k != "shrink"},
    )
    emulation = emulation_of(config, ranks.size, None)
    assert emulation is not None
    images = emulation.images(config, ranks.size)
    engine = EmulatedEngine(config, ranks, *images, config.strategy, emulation)
    engine.share(None)
    core, computed = engine.step.double.core, list[tuple[int, float]]()
    compute = core.compute

    def noted(place: int, seconds: float, after_others: bool) -> None:
        compute(place, seconds, after_others)
        computed.append((place, seconds))

    core.compute = noted  # type: ignore[method-assign]
    for number, batch in enumerate(engine.batches(1)):
        computed.clear()
        begin_ns = time.monotonic_ns()
        outcome = engine.step(batch, 0.1, engine.update_of(number))
    record = outcome.record(1, number, batch.rank_images, False, begin_ns, begin_ns)
    volume = engine.communication_volume()
    return {
        "computed": computed,
        "record": msgspec.to_builtins(record),
        "volume": msgspec.to_builtins(volume),
        "notes": engine.strategy.notes,
        "elements": [part.elements for part in engine.strategy.parts],
    }


def main(words: Sequence[str]) -> None:
    path, output = words
    with error_boundary("emulated_strategies"):
        ranks = connect(JobEnvironment.from_environment(os.environ), 1, "none")
        start_tensorflow(ranks, 1, INTER_OP_THREADS)
        ranks = start_horovod(ranks, HorovodConfig(), 2)
        found = {name: ranks.gather(run_case(ranks, path, options)) for name, options in CASES.items()}
        if ranks.rank == 0:
            Path(output).write_text(json.dumps(found))
        ranks.barrier()


if __name__ == "__main__":
    main(sys.argv[1:])
