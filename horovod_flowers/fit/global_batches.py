"""STAND-IN."""
from dataclasses import dataclass
from typing import Any
import keras, numpy as np, tensorflow as tf
from horovod_flowers.fit.step import RankBatch

@dataclass
class GlobalBatches:
    dataset: Any
    steps: int | None
    may_fill: bool
    first: Any
    rows: int

def _of(data, batch, ranks, order):
    flat = [np.asarray(each) for each in keras.tree.flatten(data)]
    n = len(flat[0])
    steps = -(-n // batch)
    def part(number, perm):
        rows = perm[number * batch:(number + 1) * batch]
        share, more = divmod(len(rows), ranks.size)
        sizes = [share + (k < more) for k in range(ranks.size)]
        start = sum(sizes[:ranks.rank]); own = rows[start:start + sizes[ranks.rank]]
        weight = len(own) * ranks.size / len(rows)
        if not len(own): own = rows[:1]
        return keras.tree.map_structure(lambda a: np.asarray(a)[own], data), np.float32(weight)
    def gen():
        perm = order()
        for number in range(steps):
            yield part(number, perm)
    spec = (keras.tree.map_structure(lambda a: tf.TensorSpec((None, *np.shape(a)[1:]), np.asarray(a).dtype), data), tf.TensorSpec((), tf.float32))
    ds = tf.data.Dataset.from_generator(gen, output_signature=spec)
    ds = ds.apply(tf.data.experimental.assert_cardinality(steps))
    first = part(0, np.arange(n))
    last = n - (steps - 1) * batch
    return GlobalBatches(ds, None, min(batch, last) < ranks.size, RankBatch(keras.tree.map_structure(tf.convert_to_tensor, first[0]), first[1]), -(-batch // ranks.size))

def training_batches(x, y, sample_weight, batch_size, shuffle, class_weight, steps_per_epoch, ranks):
    data = tuple(each for each in (x, y, sample_weight) if each is not None)
    n = len(keras.tree.flatten(x)[0])
    rng = np.random.default_rng(0)
    return _of(data, batch_size or 32, ranks, lambda: rng.permutation(n) if shuffle else np.arange(n))

def evaluation_batches(x, y, sample_weight, batch_size, steps, ranks):
    data = tuple(each for each in (x, y, sample_weight) if each is not None)
    n = len(keras.tree.flatten(x)[0])
    return _of(data, batch_size or 32, ranks, lambda: np.arange(n))
