"""A script for two ranks that ends the way it is told: `python -m tests.parallel.fit_endings HOW`.

Without a word about ranks, but for rank 1's own mistake.
"""

import os
import signal
import sys
import time
from typing import Any


def main(how: str) -> None:
    if how == "other backend" and os.environ.get("OMPI_COMM_WORLD_RANK") == "1":
        os.environ["KERAS_BACKEND"] = "jax"
    import horovod_flowers

    ranks = horovod_flowers.start(stall_seconds=6 if how == "hangs" else 120)
    import keras

    from tests.parallel import fit_cases as cases

    class Callback(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if ranks.rank == 1 and batch == 2:
                if how == "hangs":
                    time.sleep(1000)
                elif how == "raises":
                    raise ValueError("this callback has a defect")
                elif how == "exits":
                    sys.exit(0)
                elif how == "is killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                elif how == "is asked to stop":
                    os.kill(os.getpid(), signal.SIGUSR1)
                elif how == "drifts":
                    self.model.trainable_variables[0].assign_add(self.model.trainable_variables[0])

    model = ranks.distribute(cases.sequential())
    if how == "raises outside" and ranks.rank == 1:
        raise KeyError("rank 1 lacks something")
    if how == "fits alone" and ranks.rank == 1:
        return
    model.fit(**cases.rows(), batch_size=9, verbose=0, callbacks=[Callback()])
    print("trained", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
