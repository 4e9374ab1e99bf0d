"""Keras' model.fit on all ranks beside the train command's own steps, in the same processes, a few steps in turn.

    mpirun -np 2 --bind-to none python benchmarks/fit_in_turn.py --strategy sharded

What a shared machine does to one it does to the other a second later: of each turn the ratio of the two counts. On one
rank beside plain Keras instead, in which nobody has distributed the model.
"""

import argparse
import itertools
import time

import peer

import horovod_flowers


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", default="allreduce", help="one of docs/strategies.md")
    parser.add_argument("--batch", type=int, default=32, help="images per rank and step")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each turn")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--prepared-dir", default="data/prepared", help="of the train command's images")
    options = parser.parse_args()
    ranks = horovod_flowers.start(threads=1)
    distributed = ranks.distribute(compiled(), strategy=options.strategy)
    fit = FitSteps(distributed, options.batch * ranks.size)
    if ranks.size > 1:
        name, other = "train", TrainSteps(ranks, options)
    else:
        name, other = "plain fit", FitSteps(compiled(), options.batch)
    seconds = {"fit": [], name: []}
    for turn in range(options.turns + 1):  # the first one traces graphs
        for key, contender in sorted([("fit", fit), (name, other)], key=lambda each: each[0], reverse=turn % 2 == 1):
            ranks.barrier()
            took = ranks.plain.allreduce_max(contender.seconds_of(options.steps))
            seconds[key] += [took] if turn else []
        if ranks.rank == 0 and turn:
            print(f"turn {turn}: fit / {name}: {seconds[name][-1] / seconds['fit'][-1]:.3f}", flush=True)
    if ranks.rank == 0:
        tell(seconds, options, ranks.size)


def tell(seconds, options, size):
    """Medians, and the ratio within turns with its interval."""
    from horovod_flowers.bench.table import described

    images = options.steps * options.batch * size
    for name, each in seconds.items():
        print(f"{size} ranks, {options.strategy}: {name}: {described([images / value for value in each], 1)} images/s")
    fit, other = seconds.values()
    ratios = [theirs / ours for ours, theirs in zip(fit, other, strict=True)]
    print(f"fit / {list(seconds)[1]}: {described(ratios, 3)}", flush=True)


def compiled():
    """The flower CNN with Adam."""
    import keras

    model = peer.flower_cnn(keras)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.001), loss=loss, metrics=["accuracy"])
    return model


class FitSteps:
    """Steps of model.fit."""

    def __init__(self, model, rows):
        import tensorflow as tf

        self._model = model
        self._data = tf.data.Dataset.from_tensors(peer.images(0, rows)).cache().repeat()

    def seconds_of(self, steps):
        """Of so many steps, from the end of the first one on."""
        import keras

        ends = []

        class Clock(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                ends.append(time.monotonic())

        self._model.fit(self._data, steps_per_epoch=steps + 1, callbacks=[Clock()], verbose=0)
        return ends[-1] - ends[0]


class TrainSteps:
    """Steps of the train command."""

    def __init__(self, script, options):
        from horovod_flowers.config.data import DataConfig
        from horovod_flowers.config.run import RunConfig
        from horovod_flowers.data.batches import Prefetcher
        from horovod_flowers.data.opening import open_data
        from horovod_flowers.training.engine import TrainingEngine

        data = DataConfig(prepared_dir=options.prepared_dir)
        config = RunConfig(strategy=options.strategy, per_rank_batch=options.batch, precision="fp32", data=data)
        ranks = script.with_horovod()
        prepared, images = open_data(config, ranks, None)
        self._engine = TrainingEngine(config, ranks, prepared, images, options.strategy, "fp32")
        self._engine.share(None)
        batches = itertools.chain.from_iterable(self._engine.batches(epoch) for epoch in itertools.count(1))
        self._batches = iter(Prefetcher(batches))

    def seconds_of(self, steps):
        """Of so many steps, from the end of the first one on."""
        begins = []
        for _ in range(steps + 1):
            batch = next(self._batches)
            self._engine.step(batch, 1e-3, self._engine.update_of(0))
            begins.append(time.monotonic())
        return begins[-1] - begins[0]


if __name__ == "__main__":
    main()
