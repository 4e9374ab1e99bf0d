"""Gradients of embeddings: the rows of all ranks, each as often as it comes.

Keras' optimizers square the rows that they are given one by one, so that a word that comes twice in a batch counts
otherwise than with the sum of its rows. Ranks therefore gather each other's rows instead of adding up whole matrices:
the optimizer sees what one rank would give it, and less travels where few words of many occur.
"""

import horovod.tensorflow as hvd
import tensorflow as tf

from horovod_flowers.strategy.layout import Part


def of_all_ranks(gradient: tf.IndexedSlices, size: int, name: str) -> tf.IndexedSlices:
    """The mean over `size` ranks of matrices of which each gives some rows. Every rank calls it, inside a step.

    gradient: values [rows of this rank, ...], indices [rows of this rank]. Returns the same of all ranks' rows, in rank
    order. name: of the call, the same on every rank.
    """
    mean = gradient.values / tf.cast(size, gradient.values.dtype)
    values = hvd.allgather(mean, name=f"{name}.values", ignore_name_scope=True)
    indices = hvd.allgather(gradient.indices, name=f"{name}.indices", ignore_name_scope=True)
    return tf.IndexedSlices(values, indices, gradient.dense_shape)


def of_part(gradient: tf.IndexedSlices, part: Part, place: int) -> tf.IndexedSlices:
    """What falls into the elements that a rank keeps of the flattened weight.

    gradient: of the whole weight. place: of the rank among those that divide it. Returns values [elements] and indices
    [elements], counted from the first element of the part.
    """
    assert part.slices is not None
    own = part.slices[place]
    width = part.elements // part.shape[0]
    first = tf.cast(gradient.indices, tf.int64) * width
    elements = tf.reshape(first[:, None] + tf.range(width, dtype=tf.int64)[None, :], [-1]) - own.start
    held = tf.logical_and(elements >= 0, elements < own.size)
    values = tf.boolean_mask(tf.reshape(gradient.values, [-1]), held)
    return tf.IndexedSlices(values, tf.boolean_mask(elements, held), tf.constant([own.size], tf.int64))
