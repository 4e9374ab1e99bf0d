"""A program for N ranks: `fit` of every model of set_ups.py over all ranks, and plain Keras alone on the same global
batches; writes by how much losses, metrics and weights differ.

    mpirun -np N python -m tests.parallel.fit_set_ups OUTPUT.json [NAME,NAME,...]
"""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import horovod_flowers

EPOCHS = 2
IN_GRAPHS = ("mobilenet_v2", "conv_mixer", "text_lstm", "distillation", "accumulated", "several_steps_a_call", "wide")
"""Trained as users train; the others without graphs, whose tracing takes most of the time."""


def main() -> None:
    """Train everything."""
    ranks = horovod_flowers.start()
    import keras

    from horovod_flowers.model.fused_optimizers import FusedAdam, FusedSGD
    from tests.parallel.set_ups import SET_UPS, SetUp

    names = sys.argv[2].split(",") if len(sys.argv) > 2 else list(SET_UPS)

    def fresh(name: str) -> SetUp:
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        set_up = SET_UPS[name]()
        set_up.model.run_eagerly = name not in IN_GRAPHS
        return set_up

    def fit(set_up: SetUp) -> dict[str, list[Any]]:
        options = {"batch_size": set_up.batch, "epochs": EPOCHS, "shuffle": False, "verbose": 0, **set_up.options}
        history = set_up.model.fit(set_up.x, set_up.y, **options).history
        if set_up.is_large:
            return dict(history)
        evaluated = set_up.model.evaluate(set_up.x, set_up.y, batch_size=set_up.batch, verbose=0, return_dict=True)
        return {**history, **{f"evaluated {name}": [value] for name, value in evaluated.items()}}

    found = []
    for number, name in enumerate(names):
        done: tuple[dict[str, list[Any]], list[np.ndarray], Any] | None = None
        owner = number % ranks.size  # the ranks share out the work that no two of them do together
        if ranks.rank == owner:
            set_up = fresh(name)
            done = fit(set_up), set_up.model.get_weights(), set_up.strategies
        elif ranks.rank == (owner + 1) % ranks.size and (set_up := fresh(name)).grows_rounding:
            done = fit(replace(set_up, x=set_up.x[::-1], y=set_up.y[::-1])), [], ()
        everything = ranks.plain.allgather(done)
        alone, turned_round = everything[owner], everything[(owner + 1) % ranks.size]
        for strategy in alone[2]:
            set_up = fresh(name)
            ranks.distribute(set_up.model, strategy=strategy, **set_up.distribute)
            together = fit(set_up)
            weights = set_up.model.get_weights()
            if not set_up.is_large:
                weights = saved_and_loaded(set_up, partial(fresh, name), ranks.rank)
            same = all(repr(other) == repr(together) for other in ranks.plain.allgather(together))
            record = {"name": name, "strategy": strategy, "same_on_all_ranks": same}
            record["fused"] = isinstance(set_up.model.optimizer, FusedAdam | FusedSGD)
            record["turned_round"] = turned_round[0] if turned_round else None
            record |= {"alone": alone[0], "together": together, "weights": worst(weights, alone[1])}
            found.append(record)
            if ranks.rank == 0:
                print(name, strategy, record["weights"], together["loss"], alone[0]["loss"], flush=True)
    if ranks.rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(found, default=lambda value: np.asarray(value).tolist()))


def saved_and_loaded(set_up: Any, fresh: Callable[[], Any], rank: int) -> list[np.ndarray]:
    """The weights that a distributed model writes, as an ordinary one reads them on rank 0. Every rank calls it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "saved.weights.h5"
        set_up.model.save_weights(path)
        if rank:
            return set_up.model.get_weights()
        other = fresh()
        if not other.model.built:
            other.model(other.x[:1])
        other.model.load_weights(path)
    return other.model.get_weights()


def worst(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest relative difference of a weight, by the norm of its values; the model's own order of weights."""
    assert len(found) == len(wanted)
    pairs = zip(found, wanted, strict=True)
    return max(float(np.linalg.norm(f - w) / (np.linalg.norm(w) + 1e-6)) for f, w in pairs if f.dtype.kind == "f")


if __name__ == "__main__":
    main()
