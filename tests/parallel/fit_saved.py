"""A program for N ranks: what `fit` writes under each strategy, and goes on from.

    mpirun -np N python -m tests.parallel.fit_saved OUTPUT.json

Writes, for each strategy and comparison, the largest difference of a number that should be the same.
"""

import json
import sys
from pathlib import Path
from typing import Any

import horovod_flowers

STRATEGIES = ("allreduce", "sharded", "tensor")


def main() -> None:
    ranks = horovod_flowers.start()
    import keras
    import numpy as np

    from horovod_flowers.model import keras_internals
    from tests.parallel import fit_cases as cases

    data: dict[str, Any] = {**cases.rows(), "batch_size": cases.BATCH, "verbose": 0}

    def of(strategy: str) -> dict[str, float]:
        keras.utils.set_random_seed(ranks.rank)

        class Saving(keras.callbacks.Callback):
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                if batch == 2:
                    self.model.save(f"{strategy}-2.keras")

        def distributed(model: Any) -> Any:
            return ranks.distribute(model, strategy, **cases.SMALL)  # type: ignore[arg-type]

        checkpoint = keras.callbacks.ModelCheckpoint(f"{strategy}-best.keras")
        model = distributed(cases.wide(run_eagerly=True))
        model.fit(**data, epochs=1, shuffle=False, callbacks=[Saving(), checkpoint])
        model.save(f"{strategy}.keras")
        model.save_weights(f"{strategy}.weights.h5")
        ranks.barrier()
        loaded, best, third = (
            keras.models.load_model(f"{name}.keras") for name in (strategy, f"{strategy}-best", f"{strategy}-2")
        )
        found = {
            "loaded": difference(loaded, model),
            "checkpoint": difference(best, model),
            "steps": abs(int(loaded.optimizer.iterations) - 5) + abs(int(third.optimizer.iterations) - 3),
            "seeds": abs(seed_of(model) - ranks.plain.broadcast(seed_of(model)) - ranks.rank),
            "slots": abs(len(loaded.optimizer.variables) - 2 - 2 * len(model.trainable_variables)),
        }
        expected, answers = model.evaluate(**data, return_dict=True), model.predict(data["x"], verbose=0)
        alone = loaded.evaluate(**data, return_dict=True)
        found["evaluated"] = max(abs(expected[name] - alone[name]) for name in alone)
        found["predicted"] = float(np.abs(answers - loaded.predict(data["x"], verbose=0)).max())
        model.fit(**data, epochs=1, shuffle=False)
        distributed(loaded).fit(**data, epochs=1, shuffle=False)
        found["continued from a file"] = difference(loaded, model)
        model.load_weights(f"{strategy}.weights.h5")
        model.fit(**data, epochs=1, shuffle=False)
        found["continued from weights"] = difference(loaded, model)
        keep = keras.callbacks.BackupAndRestore(f"{strategy}-backup", delete_checkpoint=False)
        whole, again = distributed(cases.wide(run_eagerly=True)), distributed(cases.wide(run_eagerly=True))
        whole.fit(**data, epochs=1, shuffle=False, callbacks=[keep])
        whole.fit(**data, epochs=2, initial_epoch=1, shuffle=False)
        restore = keras.callbacks.BackupAndRestore(f"{strategy}-backup")
        again.fit(**data, epochs=2, shuffle=False, callbacks=[restore])
        found["continued from a backup"] = difference(again, whole)
        return found

    def seed_of(model: Any) -> int:
        """Of its dropout: one sequence for each rank."""
        (state,) = keras_internals.seed_states(model)
        return int(np.asarray(state)[0])

    def difference(one: Any, other: Any) -> float:
        pairs = zip(one.get_weights(), other.get_weights(), strict=True)
        return max(float(np.abs(own - its).max()) for own, its in pairs)

    gathered = ranks.plain.allgather({strategy: of(strategy) for strategy in STRATEGIES})
    if ranks.is_root:
        Path(sys.argv[1]).write_text(json.dumps(gathered))


if __name__ == "__main__":
    main()
