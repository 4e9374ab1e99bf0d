"""A program for N ranks: trains each case of `fit_cases` and writes, on rank 0, its weights and losses; and how many
of the models and of their data are still held when nobody needs them.

mpirun -np N python -m tests.parallel.fit_against_one_rank OUTPUT.npz [PART OF A NAME]
"""

import gc
import sys

import horovod_flowers

EPOCHS = 2


def main() -> None:
    ranks = horovod_flowers.start()
    import keras
    import numpy as np

    from horovod_flowers.fit.global_batches import GlobalBatches
    from horovod_flowers.model.keras_internals import all_layers
    from horovod_flowers.model.pooled_activation import PoolingThenReLU
    from tests.parallel.fit_cases import BATCH, CASES

    pooled: list[str] = []
    as_in_train = PoolingThenReLU.call

    def call(self: PoolingThenReLU, inputs: object) -> object:
        pooled.append(self.name)
        return as_in_train(self, inputs)

    PoolingThenReLU.call = call  # type: ignore[method-assign]
    part = sys.argv[2] if len(sys.argv) > 2 else ""
    found: dict[str, np.ndarray] = {}
    for name, case in CASES.items():
        for strategy in case.strategies if part in name else ():
            keras.backend.clear_session()
            keras.utils.set_random_seed(ranks.rank)  # the others get rank 0's weights
            model = ranks.distribute(case.build(), strategy, **case.options)  # type: ignore[arg-type]
            history = model.fit(**case.data(), batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
            key = f"{name} | {strategy}"
            for number, weight in enumerate(model.get_weights()):
                found[f"{key} | weight {number}"] = np.asarray(weight, np.float64)
            changed = [layer.name for layer in all_layers(model)[1:] if "horovod_flowers" in type(layer).__module__]
            assert changed == [], f"{key}: the user's layers {changed} are of another class after fit"
            for metric, values in history.history.items():
                found[f"{key} | {metric}"] = np.asarray(values)
    keras.backend.clear_session()
    del model, history
    gc.collect()
    found["held"] = np.asarray(sum(isinstance(each, keras.Model | GlobalBatches) for each in gc.get_objects()))
    found["layers with ReLU behind pooling"] = np.array(len(set(pooled)))
    if ranks.is_root:
        np.savez(sys.argv[1], **found)


if __name__ == "__main__":
    main()
