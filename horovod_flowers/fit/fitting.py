"""What fit, evaluate and predict are called with on several ranks: Keras' own arguments, from the user's.

Ranks first tell each other what they were given. Then data become this rank's part of every global batch, callbacks
those of over_ranks, and output that of rank 0.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from horovod_flowers.fit.callbacks import over_ranks
from horovod_flowers.fit.global_batches import GlobalBatches
from horovod_flowers.fit.row_shares import own_rows
from horovod_flowers.fit.time_limit import TimeLimit
from horovod_flowers.model.keras_internals import split_for_validation
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runtime.errors import AgreedError, UserError

Arguments = dict[str, Any]
COMPARED = (
    *("batch_size", "epochs", "initial_epoch", "validation_split", "shuffle", "steps_per_epoch", "validation_steps"),
    *("validation_batch_size", "validation_freq", "steps", "class_weight"),
)
"""Arguments that have to be the same on every rank."""


def check_same_call(call: str, given: Arguments, ranks: Ranks) -> None:
    """Raise AgreedError on every rank where one was given other arguments than rank 0. Every rank calls it."""
    told = {name: repr(given[name]) for name in COMPARED if name in given}
    told |= {name: _kind(given[name]) for name in ("x", "y", "sample_weight", "validation_data") if name in given}
    for rank, other in enumerate(calls := ranks.allgather(told)):
        for name, value in other.items():
            if value != calls[0][name]:
                raise AgreedError(
                    f"{call} was given {name}={_short(value)} on rank {rank}, and {_short(calls[0][name])} on rank 0: "
                    "give every rank the same; the ranks divide the data among themselves"
                )


def _kind(data: Any) -> str:
    """Of data, in a word; with their length where they have one."""
    if isinstance(data, (tuple, list)):
        return f"({', '.join(_kind(each) for each in data)})"
    if isinstance(data, dict):
        return f"{{{', '.join(f'{key}: {_kind(each)}' for key, each in data.items())}}}"
    name = "Dataset" if isinstance(data, tf.data.Dataset) else type(data).__name__
    if isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
        count = int(data.cardinality()) if isinstance(data, tf.data.Dataset) else data.num_batches
        return f"{name} of {count} batches" if count is not None and count >= 0 else name
    shape = getattr(data, "shape", None)
    return name if shape is None else f"{name} {tuple(shape)}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"


@contextmanager
def fitting(
    given: Arguments, first: list[Any], ranks: Ranks, limit: TimeLimit | None = None
) -> Iterator[tuple[Arguments, GlobalBatches, GlobalBatches | None]]:
    """Arguments of Keras' fit, the batches to train on, and those to validate with.

    given: every argument of fit, by name. first: callbacks to run before all others. limit: ends it before its end
    where the job is asked to. Every rank calls it.
    """
    check_same_call("fit", given, ranks)
    given = dict(given)
    x, y, sample_weight = given.pop("x"), given.pop("y"), given.pop("sample_weight")
    class_weight, shuffle, batch_size = given.pop("class_weight"), given.pop("shuffle"), given.pop("batch_size")
    fraction, held_out = given.pop("validation_split"), given.pop("validation_data")
    if fraction and held_out is None:
        (x, y, sample_weight), held_out = split_for_validation((x, y, sample_weight), fraction)
    training = GlobalBatches(
        x,
        y,
        sample_weight,
        ranks=ranks,
        batch_size=batch_size,
        steps=given["steps_per_epoch"],
        shuffle=shuffle,
        class_weight=class_weight,
    )
    testing = None
    if held_out is not None:
        parts = keras.utils.unpack_x_y_sample_weight(held_out)
        batch_size = given["validation_batch_size"] or batch_size
        testing = GlobalBatches(*parts, ranks=ranks, batch_size=batch_size, steps=given["validation_steps"])
    verbose = _verbose(given.pop("verbose"), ranks)
    with (
        closing(training),
        closing(testing) if testing is not None else nullcontext(),
        over_ranks(given.pop("callbacks"), ranks, limit, training=training, testing=testing) as callbacks,
    ):
        given |= {"x": training, "validation_data": testing, "callbacks": [*first, *callbacks], "verbose": verbose}
        yield given, training, testing


@contextmanager
def evaluating(given: Arguments, first: list[Any], ranks: Ranks) -> Iterator[tuple[Arguments, GlobalBatches]]:
    """Arguments of Keras' evaluate, and the batches. As `fitting`."""
    check_same_call("evaluate", given, ranks)
    given = dict(given)
    x, y, sample_weight = given.pop("x"), given.pop("y"), given.pop("sample_weight")
    batches = GlobalBatches(x, y, sample_weight, ranks=ranks, batch_size=given.pop("batch_size"), steps=given["steps"])
    verbose = _verbose(given.pop("verbose"), ranks)
    with closing(batches), over_ranks(given.pop("callbacks"), ranks, testing=batches) as callbacks:
        yield given | {"x": batches, "callbacks": [*first, *callbacks], "verbose": verbose}, batches


@contextmanager
def predicting(given: Arguments, first: list[Any], ranks: Ranks) -> Iterator[tuple[Arguments, GlobalBatches]]:
    """Arguments of Keras' predict, whose outputs `in_order` puts together, and the batches. As `fitting`."""
    check_same_call("predict", given, ranks)
    given = dict(given)
    batches = GlobalBatches(
        given.pop("x"), ranks=ranks, batch_size=given.pop("batch_size"), steps=given["steps"], with_share=False
    )
    verbose = _verbose(given.pop("verbose"), ranks)
    with closing(batches), over_ranks(given.pop("callbacks"), ranks, predicting=batches) as callbacks:
        yield given | {"x": batches, "callbacks": [*first, *callbacks], "verbose": verbose}, batches


def _verbose(verbose: Any, ranks: Ranks) -> Any:
    return verbose if ranks.rank == 0 else 0


def in_order(outputs: Any, batches: GlobalBatches) -> Any:
    """What all ranks predict, on every rank, in the order of the data.

    outputs: a structure of arrays [rows of this rank, ...], as Keras' predict gives it of `batches`. Every rank calls
    it.
    Raises UserError where outputs have not one row for each row of the data.
    """
    ranks = batches.ranks
    if ranks.size == 1 or batches.current is None:
        return outputs
    counts = [[own_rows(rows, rank, ranks.size)[1] for rank in range(ranks.size)] for rows in _rows(batches)]
    computed = sum(max(count[ranks.rank], 1) for count in counts)
    for leaf in keras.tree.flatten(outputs):
        if not isinstance(leaf, np.ndarray) or leaf.ndim == 0 or len(leaf) != computed:
            what = f"{leaf.shape}" if isinstance(leaf, np.ndarray) else type(leaf).__name__
            raise UserError(
                f"predict gave {what} for {computed} rows of rank {ranks.rank}: outputs that have not one row for each "
                "row of the data, or rows of different lengths, cannot be put in order over ranks; predict on one rank"
            )

    def whole(leaf: np.ndarray) -> np.ndarray:
        parts, begin = [], 0
        for count in counts:
            parts.append(leaf[begin : begin + count[ranks.rank]])
            begin += max(count[ranks.rank], 1)  # one row was computed where there is none
        everybodys = ranks.allgather(parts)
        return np.concatenate([own[batch] for batch in range(len(counts)) for own in everybodys])

    return keras.tree.map_structure(whole, outputs)


def _rows(batches: GlobalBatches) -> list[int]:
    return [] if batches.current is None else batches.current.rows_of_batches
