"""The adapters by which Keras reads data."""

from typing import Any

import tensorflow as tf
from keras.src import tree
from keras.src.trainers.data_adapters import array_data_adapter, array_slicing, get_data_adapter
from keras.src.trainers.data_adapters.data_adapter import DataAdapter


def data_adapter(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    batch_size: int | None = None,
    steps: int | None = None,
    shuffle: bool | str = False,
    class_weight: dict[int, float] | None = None,
) -> DataAdapter:
    """What Keras makes of the data that fit, evaluate or predict are given: their batches, with class weights as
    weights of samples. Raises ValueError, as Keras does, where arguments do not go together."""
    return get_data_adapter(x, y, sample_weight, batch_size, steps, shuffle, class_weight)


def read_on_demand(adapter: DataAdapter) -> tf.data.Dataset:
    """The batches of a PyDataset without workers, each read when it is asked for and not before."""
    spec = adapter.get_tf_dataset().element_spec
    return tf.data.Dataset.from_generator(adapter._get_iterator, output_signature=spec)


def arrays_in(adapter: DataAdapter) -> tuple[Any, int, int] | None:
    """Of data that were given as arrays: the structure of them, the number of rows, and that of rows in a batch."""
    if not isinstance(adapter, array_data_adapter.ArrayDataAdapter):
        return None
    return adapter._inputs, int(adapter._num_samples), int(adapter._batch_size)


def tensors_of(arrays: Any) -> Any:
    """Arrays as a tf.data.Dataset takes them, floating-point numbers in Keras' precision, tuples instead of lists."""
    return tree.lists_to_tuples(array_slicing.convert_to_sliceable(arrays, target_backend="tensorflow"))


def rows_at(tensors: Any, indices: Any) -> Any:
    """Rows of what `tensors_of` gave, in a map of a tf.data.Dataset."""

    def rows(part: Any) -> Any:
        if isinstance(part, array_slicing.TensorflowSparseWrapper):
            return array_slicing.slice_tensorflow_sparse_wrapper(part, indices)
        if isinstance(part, (list, tuple, dict)):
            return None
        return tf.gather(part, indices, axis=0) if tf.is_tensor(part) else part

    return tree.traverse(rows, tensors)


def split_for_validation(arrays: Any, fraction: float) -> tuple[Any, Any]:
    """The rows to train on and the last ones, to validate with. Raises ValueError where there are too few rows."""
    return array_slicing.train_validation_split(arrays, validation_split=fraction)
