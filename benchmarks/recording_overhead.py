"""What a study's record costs a script's fit: the same model trained in turn with and without one, in one job.

mpirun -np 2 --bind-to none python benchmarks/recording_overhead.py --rounds 30
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import horovod_flowers
from horovod_flowers.config.command_line import to_yaml
from horovod_flowers.config.script import RECORD_VARIABLE, ScriptConfig


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="pairs of fits; default: 30")
    parser.add_argument("--steps", type=int, default=40, help="of a fit; default: 40")
    parser.add_argument("--width", type=int, default=1024, help="units of the two hidden layers; default: 1024")
    parser.add_argument("--batch", type=int, default=128, help="rows of a global batch; default: 128")
    options = parser.parse_args()
    ranks = horovod_flowers.start(threads=1)
    with tempfile.TemporaryDirectory() as own:
        runs = Path(ranks.plain.broadcast(own))
        config = ScriptConfig(name="overhead", runs_dir=str(runs), global_batch=options.batch, threads=1)
        file = runs / ".study" / "overhead.yaml"
        if ranks.is_root:
            file.parent.mkdir()
            file.write_text(to_yaml(config))
        ranks.barrier()
        os.environ[RECORD_VARIABLE] = str(file)
        compare(ranks, options)
        ranks.barrier()


def compare(ranks, options):
    import keras

    random = np.random.default_rng(0)
    x = random.normal(size=(options.batch, 784)).astype(np.float32)
    y = random.integers(0, 10, options.batch)
    data = {"x": np.tile(x, (options.steps, 1)), "y": np.tile(y, options.steps)}

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.times = [] if batch == 0 else self.times
            self.times.append(time.perf_counter())

    def model():
        layers = [keras.layers.Dense(options.width, "relu") for _ in range(2)]
        made = keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10)])
        made.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return ranks.distribute(made)

    models = {"recorded": model(), "not recorded": model()}  # a record is of the model that is trained first
    clocks = {name: Clock() for name in models}
    seconds = {name: [] for name in models}
    for number in range(options.rounds + 1):
        for name in list(models)[:: 1 if number % 2 == 0 else -1]:
            models[name].fit(**data, batch_size=options.batch, shuffle=False, verbose=0, callbacks=[clocks[name]])
            if number:  # the first makes the graphs
                seconds[name].append(statistics.median(np.diff(clocks[name].times)))
    ratios = sorted(one / other for one, other in zip(seconds["recorded"], seconds["not recorded"], strict=True))
    if ranks.is_root:
        for name, values in seconds.items():
            print(f"{name}: median step {1000 * statistics.median(values):.2f} ms")
        low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
        print(f"recorded / not recorded: {statistics.median(ratios):.4f} (quartiles {low:.4f}–{high:.4f})")


if __name__ == "__main__":
    main()
