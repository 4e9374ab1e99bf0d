"""A program for N ranks: what `distribute` and `fit` refuse, on every rank, in one sentence; the job goes on.

mpirun -np N python -m tests.parallel.fit_refusals OUTPUT.json
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import horovod_flowers
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runtime.errors import UserError


def main() -> None:
    ranks = horovod_flowers.start()
    import keras
    import tensorflow as tf
    from keras import layers, optimizers

    from tests.parallel import fit_cases as cases

    class TwoOptimizers(cases.Subclassed):
        def compile(self, other: Any, **options: Any) -> None:
            super().compile(**options)
            self.other_optimizer = other

    def two_optimizers() -> Any:
        model = TwoOptimizers()
        model.compile(optimizers.SGD(), optimizer="sgd", loss="mse")
        return model

    class Own(cases.Subclassed):
        """A train_step that changes weights itself."""

        def train_step(self, data: Any) -> Any:
            x, _ = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self(x, training=True))
            for variable, gradient in zip(
                self.trainable_variables, tape.gradient(loss, self.trainable_variables), strict=True
            ):
                variable.assign_sub(0.1 * gradient)
            return {"loss": loss}

    class AddsUp(cases.OwnStep):
        """A train_step whose loss is a sum over rows."""

        def compute_loss(self, *arguments: Any, **options: Any) -> Any:
            return super().compute_loss(*arguments, **options) * tf.cast(tf.shape(options["y"])[0], tf.float32)

    class Clips(cases.WideOwnStep):
        """A train_step that shortens the gradients of a rank."""

        def train_step(self, data: Any) -> Any:
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, self.trainable_variables), 0.1)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss}

    def distributed(model: Any, strategy: str = "allreduce", **options: Any) -> Any:
        return ranks.distribute(model, strategy, **options)  # type: ignore[arg-type]

    def twice() -> None:
        distributed(distributed(cases.sequential()))

    def fitted(model: Any, strategy: str = "allreduce", data: Any = None, **options: Any) -> None:
        distributed(model, strategy, **options).fit(**(data or cases.rows()), batch_size=9, verbose=0)

    def other_model() -> None:
        units = 8 + 2 * ranks.rank
        fitted(cases.sequential(hidden=layers.Dense(units, activation="tanh")))

    def other_activation() -> None:
        fitted(cases.sequential(hidden=layers.Dense(8, activation="relu" if ranks.rank == 1 else "tanh")))

    def other_rate() -> None:
        fitted(cases.sequential(optimizers.SGD(0.1 * (1 + ranks.rank))))

    def other_calls() -> None:
        model = distributed(cases.sequential())
        if ranks.rank == 0:
            model.evaluate(**cases.rows(), verbose=0)
        else:
            model.fit(**cases.rows(), verbose=0)

    one_hot = cases.rows() | {"y": keras.utils.to_categorical(cases.rows()["y"], cases.CLASSES)}
    orthogonal = keras.regularizers.OrthogonalRegularizer()
    large = {"shard_above": 4000}
    stateful = keras.Sequential(
        [keras.Input((7, 2), batch_size=9), layers.LSTM(3, stateful=True), layers.Dense(cases.CLASSES)]
    )
    stateful.compile("sgd", cases.sparse_loss())
    ranks.with_horovod()
    import horovod_flowers.keras as hvd

    tried: dict[str, Callable[[], Any]] = {
        "not a model": lambda: distributed("model"),
        "not compiled": lambda: distributed(keras.Sequential([layers.Dense(1)])),
        "unknown strategy": lambda: distributed(cases.sequential(), "ring"),
        "unknown option": lambda: distributed(cases.sequential(), compress="fp16"),
        "an option of another strategy": lambda: distributed(cases.sequential(), "sharded", compression="fp16"),
        "equal seeds of no layer": lambda: distributed(cases.wide(), equal_seeds=["mask"]),
        "twice": twice,
        "two optimizers": lambda: distributed(two_optimizers()),
        "an optimizer that combines gradients already": lambda: distributed(
            cases.sequential(hvd.DistributedOptimizer(optimizers.SGD(0.1)))
        ),
        "XLA": lambda: distributed(cases.sequential(jit_compile=True, run_eagerly=False)),
        "a stateful layer": lambda: distributed(stateful),
        "Dice": lambda: fitted(cases.sequential(loss=keras.losses.Dice()), data=one_hot),
        "a loss of many values": lambda: fitted(cases.sequential(loss=cases.sparse_loss(reduction=None))),
        "an activity regularizer": lambda: fitted(
            cases.sequential(hidden=layers.Dense(8, activity_regularizer=orthogonal))
        ),
        "Adafactor of parts": lambda: fitted(cases.wide(optimizers.Adafactor()), "sharded", **large),
        "factors of a step that changes them": lambda: fitted(
            cases.subclassed(Clips), dense_gradients="factors", shard_above=4000
        ),
        "factors of a divided layer": lambda: distributed(cases.wide(), "tensor", dense_gradients="factors"),
        "factors of another name": lambda: distributed(cases.sequential(), dense_gradients="factor"),
        "a number in words": lambda: distributed(cases.wide(), "tensor", shard_above="4000"),
        "nothing to divide": lambda: fitted(cases.sequential(), "tensor", **large),
        "weights that are changed otherwise": lambda: fitted(cases.subclassed(Own)),
        "a loss of its own that adds rows up": lambda: fitted(cases.subclassed(AddsUp)),
        "train_on_batch": lambda: distributed(cases.sequential()).train_on_batch(*cases.rows().values()),
        "another model on one rank": other_model,
        "another activation on one rank": other_activation,
        "another learning rate on one rank": other_rate,
        "other calls on one rank": other_calls,
    }
    said = tried_out(tried, sys.argv[2] if len(sys.argv) > 2 else "", ranks.plain)
    if ranks.is_root:
        Path(sys.argv[1]).write_text(json.dumps(said))


def tried_out(tried: dict[str, Callable[[], Any]], part: str, ranks: Ranks) -> dict[str, list[str | None]]:
    """What each rank was told by each of those whose name has `part` in it. Every rank calls it."""
    found: dict[str, list[str | None]] = {}
    for name, call in tried.items():
        if part not in name:
            continue
        said = None
        try:
            call()
        except UserError as error:
            said = str(error)
        found[name] = ranks.allgather(said)
    return found


if __name__ == "__main__":
    main()
