"""A program for N ranks: `fit` of every model of set_ups.py over all ranks, and plain Keras alone on the same global
batches; writes by how much losses, metrics and weights differ.

    mpirun -np N python -m tests.parallel.fit_set_ups OUTPUT.json [NAME,NAME,...]
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import horovod_flowers

EPOCHS = 2


def main() -> None:
    """Train everything."""
    ranks = horovod_flowers.start()
    import keras

    from tests.parallel.set_ups import SET_UPS, SetUp

    names = sys.argv[2].split(",") if len(sys.argv) > 2 else list(SET_UPS)

    def fresh(name: str) -> SetUp:
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        return SET_UPS[name]()

    def fit(set_up: SetUp) -> dict[str, list[Any]]:
        options = {"batch_size": set_up.batch, "epochs": EPOCHS, "shuffle": False, "verbose": 0, **set_up.options}
        history = set_up.model.fit(set_up.x, set_up.y, **options).history
        evaluated = set_up.model.evaluate(set_up.x, set_up.y, batch_size=set_up.batch, verbose=0, return_dict=True)
        return {**history, **{f"evaluated {name}": [value] for name, value in evaluated.items()}}

    found = []
    for number, name in enumerate(names):
        alone: tuple[dict[str, list[Any]], list[np.ndarray]] | None = None
        if number % ranks.size == ranks.rank:  # the ranks share out the work that no two of them do together
            set_up = fresh(name)
            alone = fit(set_up), set_up.model.get_weights()
        owner = number % ranks.size
        alone = ranks.plain.communicator.broadcast(alone, root=owner)
        assert alone is not None
        for strategy in fresh(name).strategies:
            set_up = fresh(name)
            ranks.distribute(set_up.model, strategy=strategy, **set_up.distribute)
            together = fit(set_up)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "saved.weights.h5"
                set_up.model.save_weights(path)
                same = all(repr(other) == repr(together) for other in ranks.plain.allgather(together))
                if ranks.rank == 0:
                    whole = fresh(name)
                    if not whole.model.built:
                        whole.model(whole.x[:1])
                    whole.model.load_weights(path)
                    record = {"name": name, "strategy": strategy, "same_on_all_ranks": same, "alone": alone[0]}
                    record |= {"together": together, "weights": worst(whole.model.get_weights(), alone[1])}
                    print(name, strategy, record["weights"], together["loss"], alone[0]["loss"], flush=True)
                    found.append(record)
                ranks.barrier()
    if ranks.rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(found, default=lambda value: np.asarray(value).tolist()))


def worst(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest relative difference of a weight, by the norm of its values; the model's own order of weights."""
    assert len(found) == len(wanted)
    pairs = zip(found, wanted, strict=True)
    return max(float(np.linalg.norm(f - w) / (np.linalg.norm(w) + 1e-6)) for f, w in pairs if f.dtype.kind == "f")


if __name__ == "__main__":
    main()
