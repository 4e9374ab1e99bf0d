"""All that this package takes from Keras beyond its public interface, in one place.

Written for the Keras of WRITTEN_FOR; tests/single/test_keras_internals.py names what has changed under another.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from keras.src import api_export, tree
from keras.src.backend.tensorflow import nn
from keras.src.losses import loss as loss_base
from keras.src.models.functional import Functional
from keras.src.saving import object_registration, saving_lib
from keras.src.trainers.data_adapters import array_data_adapter, array_slicing, get_data_adapter
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from keras.src.utils.python_utils import is_default

WRITTEN_FOR = "3.12.4"


def all_layers(model: Any) -> list[Any]:
    """A model and every layer in it, those of nested models too, in the model's order."""
    return list(model._flatten_layers())


def made_to_be_trained(model: Any) -> set[int]:
    """Identities of the weights that layers were given to be trained, those that are frozen too, unlike statistics."""
    return {id(variable) for layer in all_layers(model) for variable in layer._trainable_variables}


def nodes_into(layer: Any) -> list[Any]:
    """The calls of a layer in functional models, `input_tensors` each; empty in a subclassed one."""
    return list(layer._inbound_nodes)


def users_of(layer: Any) -> list[Any]:
    """The layers and operations that take the layer's output in a functional model, one for each call."""
    return [node.operation for node in layer._outbound_nodes]


def last_layer(model: Any) -> Any | None:
    """The layer whose output, used nowhere else, is the only one of a functional or Sequential model; of a nested
    model that ends it, its last layer. None where there is no such layer, as in a subclassed model."""
    outputs = getattr(model, "outputs", None) or []
    if len(outputs) != 1:
        return None
    layer = outputs[0]._keras_history.operation
    used = [node for node in layer._outbound_nodes if id(node) in nodes_in_use(model)]
    if used or len([node for node in layer._inbound_nodes if id(node) in nodes_in_use(model)]) != 1:
        return None
    return last_layer(layer) if isinstance(layer, keras.Model) else layer


def nodes_in_use(model: Any) -> set[int]:
    """Identities of the calls that the model's graphs consist of.

    Sequential.add builds the model anew each time: what it built before left nodes behind, which are in no graph.
    """
    graphs = [getattr(layer, "_functional", layer) for layer in all_layers(model)]
    depths = [nodes for graph in graphs for nodes in getattr(graph, "_nodes_by_depth", {}).values()]
    return {id(node) for nodes in depths for node in nodes}


def keeps_call(layer: Any) -> bool:
    """Whether a layer's `call` is that of its class, not one that was set on this layer alone."""
    return "call" not in vars(layer)


def is_rematerialised(layer: Any) -> bool:
    """Whether the backward pass computes the layer again instead of keeping its activations (keras.RematScope)."""
    return layer._remat_mode is not None


def follows_its_graph(layer: Any) -> bool:
    """Whether calling a layer runs the layers of its graph and nothing else: Sequential and functional models do, and
    layers that have no others in them."""
    as_declared = (keras.Sequential.call, Functional.call)
    return not layer._layers or (type(layer).call in as_declared and keeps_call(layer))


def layers_in(layer: Any) -> list[Any]:
    """Every layer inside another, at any depth, without it."""
    return list(layer._flatten_layers(include_self=False))


def has_own_moments(layer: Any) -> bool:
    """Whether a layer takes its batch statistics otherwise than keras.layers.BatchNormalization does."""
    as_keras = (keras.layers.BatchNormalization.call, keras.layers.BatchNormalization._moments)
    kind = type(layer)
    return (getattr(kind, "call", None), getattr(kind, "_moments", None)) != as_keras or not keeps_call(layer)


def replace_moments(layer: Any, moments: Callable[[Any, Any, Sequence[int]], tuple[Any, Any]]) -> None:
    """Have a batch normalisation take its statistics from a function of inputs, mask (or None) and the axes to reduce:
    mean and variance of each channel."""

    def own(self: Any, inputs: Any, mask: Any) -> tuple[Any, Any]:
        return moments(inputs, mask, self._reduction_axes)

    before = type(layer)
    names = {"__module__": before.__module__, "__qualname__": before.__qualname__}
    kind = type(before.__name__, (before,), {"_moments": own, "_with_own_moments": before, **names})
    written_as(kind, before)
    layer.__class__ = kind


def restore_moments(layer: Any) -> None:
    """Let a batch normalisation take its statistics itself again."""
    layer.__class__ = getattr(type(layer), "_with_own_moments", type(layer))


@contextmanager
def synchronized_moments(moments: Callable[[Any, Any, bool], tuple[Any, Any]]) -> Iterator[None]:
    """Have keras.ops.moments(x, axes, keepdims, synchronized=True) ask this function for a while, of x in fp32. What
    Keras has there knows of tf.distribute only."""
    before = nn._compute_moments_sync
    nn._compute_moments_sync = moments
    try:
        yield
    finally:
        nn._compute_moments_sync = before


def replace_kernel(layer: Any, values: np.ndarray) -> Any:
    """Give a built Dense layer another kernel in place of its own, of any shape, with the same regularizer; the one
    that it had."""
    kernel = keras.Variable(values, name="kernel")
    kernel.regularizer = layer.kernel_regularizer
    return swap_kernel(layer, kernel)


def swap_kernel(layer: Any, kernel: Any) -> Any:
    """Give a built Dense layer this Keras variable for its kernel, in the same place among its weights; the one that it
    had."""
    before = layer._kernel
    layer._tracker.replace_tracked_value("trainable_variables", before, kernel)
    layer._kernel = kernel
    return before


@contextmanager
def mean_updates(weight_of: Callable[[Any, Any, Any], Any]) -> Iterator[None]:
    """Have every update of a keras.metrics.Mean, or a metric made of one, ask this function, for a while, for the
    weight of its values: with the metric, the values and the weight given (or None)."""
    before = keras.metrics.Mean.update_state

    def update(self: Any, values: Any, sample_weight: Any = None) -> Any:
        return before(self, values, sample_weight=weight_of(self, values, sample_weight))

    keras.metrics.Mean.update_state = update
    try:
        yield
    finally:
        keras.metrics.Mean.update_state = before


def metrics_compiled_with(model: Any) -> list[Any]:
    """The metrics and functions that `compile` was given, weighted ones too, before anything is made of them."""
    compiled = model._compile_metrics
    if compiled is None:
        return []
    return [each for given in (compiled._user_metrics, compiled._user_weighted_metrics) for each in tree.flatten(given)]


def has_hook(callback: Any, name: str) -> bool:
    """Whether a callback does anything in one of its methods, such as 'on_train_batch_end'."""
    return not is_default(getattr(callback, name))


def saving_class(own: Any, save: Callable[[Any, Callable[[], None]], None]) -> type:
    """A subclass of a ModelCheckpoint or BackupAndRestore, with its name, of which every saving asks this function:
    with the callback, and what it would do."""

    def save_model(self: Any, *arguments: Any, **options: Any) -> None:
        save(self, lambda: own._save_model(self, *arguments, **options))

    return type(own.__name__, (own,), {"__module__": own.__module__, "_save_model": save_model})


def backup_paths(callback: Any) -> tuple[str, str, str, str]:
    """Of a BackupAndRestore: its weights, what it knows of the training, and the two before them."""
    return (
        callback._weights_path,
        callback._training_metadata_path,
        callback._prev_weights_path,
        callback._prev_training_metadata_path,
    )


def is_whole(path: str) -> bool:
    """Whether a .weights.h5 file can be opened: one that was cut off cannot."""
    try:
        with saving_lib.h5py.File(path, "r"):
            return True
    except OSError:
        return False


def begin_at_epoch(model: Any, epoch: int) -> None:
    """Have the fit that has begun start at this epoch, from 0, as BackupAndRestore does."""
    model._initial_epoch = epoch


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


def adam_moments(optimizer: keras.optimizers.Adam, variable: Any) -> tuple[Any, Any]:
    """The first and the second moment that a built Adam keeps of a variable."""
    index = optimizer._get_variable_index(variable)
    return optimizer._momentums[index], optimizer._velocities[index]


def keras_variable(optimizer: keras.optimizers.Optimizer, variable: Any) -> keras.Variable:
    """The keras.Variable that a built optimizer updates, of its tf.Variable."""
    return optimizer._trainable_variables[optimizer._get_variable_index(variable)]


def sgd_momentum(optimizer: keras.optimizers.SGD, variable: Any) -> Any:
    """The momentum that a built SGD keeps of a variable."""
    return optimizer.momentums[optimizer._get_variable_index(variable)]


def slot_owners(optimizer: Any, weights: int) -> list[int | None]:
    """Of each variable of a built optimizer, which of the weights it was built over it is kept for, by number.

    None for counters, and for what an optimizer keeps otherwise than Keras' optimizers do: lists of slots, one for each
    weight.
    """
    owners: dict[int, int] = {}
    for kept in vars(optimizer).values():
        if isinstance(kept, list) and len(kept) == weights:
            owners |= {id(slot): number for number, slot in enumerate(kept) if isinstance(slot, keras.Variable)}
    return [owners.get(id(variable)) for variable in optimizer.variables]


def decays(optimizer: Any, variable: Any) -> bool:
    """Whether an optimizer's weight decay, if it has any, takes hold of a weight (`exclude_from_weight_decay`)."""
    return bool(optimizer._use_weight_decay(variable))


def compiled_loss(model: Any, labels: Any, outputs: Any) -> list[tuple[Any, float | None]]:
    """The keras.Loss objects that a compiled model is trained by, with their weights; empty where it has none.

    labels, outputs: of a few images, for a loss that Keras chooses by their shapes. Raises what Keras makes of a loss
    that fits neither.
    """
    found = model._compile_loss
    if found is None:
        return []
    if not found.built:
        found.build(labels, outputs)
    return [(each.loss, each.loss_weights) for each in found._flat_losses]


def compiled_metrics(model: Any, labels: Any, outputs: Any) -> list[tuple[str, Any, bool]]:
    """The name of each metric that a model was compiled with, the metric, and whether it weighs images."""
    found = model._compile_metrics
    if found is None:
        return []
    if not found.built:
        found.build(labels, outputs)
    plain = [(metric, False) for listed in found._flat_metrics if listed for metric in listed.metrics]
    weighted = [(metric, True) for listed in found._flat_weighted_metrics if listed for metric in listed.metrics]
    return [(metric.name, metric, weighs) for metric, weighs in (*plain, *weighted)]


def compiled_settings(model: Any) -> dict[str, Any]:
    """The arguments of `compile` by their names, as far as Keras keeps them."""
    config = getattr(model, "_compile_config", None)
    return dict(config.config) if config is not None else {}


def wrapped_function(loss: Any) -> tuple[Any, dict[str, Any]] | None:
    """The function that a loss of Keras' calls, with its further arguments; None of a loss with a `call` of its own."""
    wrapper = keras.losses.MeanSquaredError.__mro__[1]
    if not isinstance(loss, wrapper) or type(loss).call is not wrapper.call:
        return None
    return loss.fn, dict(loss._fn_kwargs)


def is_masked(values: Any) -> bool:
    """Whether a tensor has a mask, by which keras.Loss weighs it."""
    return getattr(values, "_keras_mask", None) is not None


def calls_as_keras(loss: Any) -> bool:
    """Whether calling a loss is what keras.Loss makes of its `call`: a value for each image, reduced."""
    return type(loss).__call__ is keras.Loss.__call__


def learning_rate_of(optimizer: Any) -> Any:
    """A float, or the schedule or function that an optimizer was given."""
    found = optimizer._learning_rate
    return float(np.array(found)) if isinstance(found, keras.Variable) else found


def settings_of(optimizer: Any) -> dict[str, Any]:
    """The arguments that an optimizer was made with (`get_config`), but for its learning rate, which may be a function
    that no configuration can hold."""
    kept = vars(optimizer)
    before = kept["_learning_rate"]
    kept["_learning_rate"] = 0.0
    try:
        settings = dict(optimizer.get_config())
    finally:
        kept["_learning_rate"] = before
    settings.pop("learning_rate", None)
    return settings


def written_as(kind: type, original: type) -> None:
    """Have Keras write objects of a class to files as objects of another, by its public or its registered name."""
    if original in api_export.REGISTERED_OBJS_TO_NAMES:
        api_export.REGISTERED_OBJS_TO_NAMES[kind] = api_export.REGISTERED_OBJS_TO_NAMES[original]
    if original in object_registration.GLOBAL_CUSTOM_NAMES:
        object_registration.GLOBAL_CUSTOM_NAMES[kind] = object_registration.GLOBAL_CUSTOM_NAMES[original]


def variables_built_for(optimizer: Any) -> list[Any]:
    """The variables that an optimizer was built to update; none before it is built."""
    return list(optimizer._trainable_variables)


def variable_built_for(optimizer: Any, variable: Any) -> Any:
    """The variable as the optimizer was given it when it was built, which Keras' own steps see as a tf.Variable."""
    return optimizer._trainable_variables[optimizer._get_variable_index(variable)]


def copy_of_optimizer(optimizer: Any, kind: type) -> Any:
    """A new optimizer of the class `kind`, with the settings of another and, where that is built, its state.

    Settings that its configuration does not tell (such as those of `exclude_from_weight_decay`) are taken over, too.
    """
    copy = copy_of_unbuilt(optimizer, kind)
    if optimizer.built and not copy.built:
        copy.build(optimizer._trainable_variables)
    for own, other in zip(copy.variables, optimizer.variables, strict=True):
        own.assign(other)
    return copy


def copy_of_unbuilt(optimizer: Any, kind: type | None = None) -> Any:
    """A new optimizer, of the class `kind` or of the same, with the settings of another and without its state."""
    kind = type(optimizer) if kind is None else kind
    config = optimizer.get_config()
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        inner = optimizer.inner_optimizer
        del config["inner_optimizer"]
        copy = kind(copy_of_unbuilt(inner), **config)
    else:
        if not isinstance(optimizer._learning_rate, keras.Variable):
            config["learning_rate"] = optimizer._learning_rate  # a schedule or a function, perhaps of no known name
        copy = kind.from_config(config)  # type: ignore[attr-defined]
    for name, value in vars(optimizer).items():
        if isinstance(value, _SETTINGS) and name not in _OF_BUILDING and not name.startswith("_self_"):
            vars(copy)[name] = value
    return copy


_SETTINGS = (bool, int, float, str, set, re.Pattern, type(None))
_OF_BUILDING = ("built", "_built", "_lock")


def seed_states(model: Any) -> list[Any]:
    """The states of the seed generators of a model's layers, [seed, count] each, in the model's order."""
    found: list[Any] = []
    for layer in all_layers(model):
        found += [generator.state for generator in layer._seed_generators]
    return list({id(state): state for state in found}.values())


@dataclass(frozen=True)
class LossTerms:
    """What a loss is reduced from, as keras.src.losses.loss.reduce_weighted_values is given it."""

    values: Any
    """Of each row, or of more axes; a scalar where the loss has reduced it itself."""
    sample_weight: Any
    mask: Any
    reduction: str | None
    dtype: Any

    @property
    def divisor(self) -> Any:
        """What a mean divides the sum by where that depends on more than the number of values; None elsewhere."""
        if self.reduction in (None, "none", "sum"):
            return None
        dtype = ops.convert_to_tensor(self.values, dtype=self.dtype).dtype
        if self.reduction == "mean_with_sample_weight":
            weights = None if self.sample_weight is None else ops.convert_to_tensor(self.sample_weight, dtype=dtype)
            found = loss_base.apply_mask(weights, self.mask, dtype=dtype, reduction=self.reduction)
            return None if found is None else ops.sum(ops.cast(found, dtype))
        return None if self.mask is None else ops.sum(ops.cast(self.mask, dtype))


@contextmanager
def reduced_losses(scaled: Callable[[Any, Any, LossTerms], Any]) -> Iterator[None]:
    """Have every keras.losses.Loss that is called for a while ask this function for its value, given the loss object
    (None of a reduction outside of one), the value as Keras reduces it, and what it was reduced from."""
    call, reduce = loss_base.Loss.__call__, loss_base.reduce_weighted_values
    calls: list[Any] = []

    def called(self: Any, *args: Any, **options: Any) -> Any:
        calls.append(self)
        try:
            return call(self, *args, **options)
        finally:
            calls.pop()

    def reduced(
        values: Any,
        sample_weight: Any = None,
        mask: Any = None,
        reduction: Any = "sum_over_batch_size",
        dtype: Any = None,
    ) -> Any:
        value = reduce(values, sample_weight=sample_weight, mask=mask, reduction=reduction, dtype=dtype)
        return scaled(calls[-1] if calls else None, value, LossTerms(values, sample_weight, mask, reduction, dtype))

    loss_base.Loss.__call__, loss_base.reduce_weighted_values = called, reduced
    try:
        yield
    finally:
        loss_base.Loss.__call__, loss_base.reduce_weighted_values = call, reduce


def losses_of_outputs(model: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """The losses that a model was compiled with, each with its path in the outputs; empty before they were called."""
    compiled = model._compile_loss
    flat = None if compiled is None else compiled._flat_losses
    return [] if flat is None else [(each.path, each.loss) for each in flat]


def share_counters(optimizer: Any, other: Any) -> None:
    """Let one optimizer count its steps, and take its learning rate, where another does."""
    for name in ("_iterations", "_learning_rate"):
        before, kept = getattr(optimizer, name), getattr(other, name)
        if isinstance(before, keras.Variable) and isinstance(kept, keras.Variable):
            optimizer._tracker.replace_tracked_value("variables", before, kept)
        vars(optimizer)[name] = kept


def exclude_alike(optimizer: Any, variables: Sequence[Any], other: Any, others: Sequence[Any]) -> None:
    """Leave those of an optimizer's variables without weight decay whose counterparts another leaves without."""
    left = [own for own, whole in zip(variables, others, strict=True) if not other._use_weight_decay(whole.value)]
    optimizer.exclude_from_weight_decay(var_list=left)


def counters_of(optimizer: Any) -> set[int]:
    """Identities of those of a built optimizer's variables that belong to no weight, such as the number of steps."""
    named = (optimizer._iterations, optimizer._learning_rate, getattr(optimizer, "_u_product", None))
    return {id(variable) for variable in named if variable is not None}


def forget_losses(model: Any) -> None:
    """Drop what earlier calls of a model have added to its loss.

    Before each `stateless_call` that returns losses: it clears them layer by layer, by the identities of tensors of the
    call before, which new ones may have taken over, and so loses some.
    """
    model._clear_losses()


def metrics_of(model: Any) -> list[Any]:
    """The metrics of a compiled model, its losses first; those in Keras' container one by one."""
    return [each for metric in model.metrics for each in (getattr(metric, "metrics", None) or [metric])]


def velocities(optimizer: Any) -> list[Any] | None:
    """The variables of an optimizer that hold sums of updates, and with them the learning rate; none before it is
    built. None where its class has a momentum of a meaning that is not known."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(optimizer, keras.optimizers.SGD):
        found = getattr(optimizer, "momentums", [])
    elif isinstance(optimizer, keras.optimizers.RMSprop):
        found = getattr(optimizer, "_momentums", [])
    elif not getattr(optimizer, "momentum", 0) or isinstance(optimizer, keras.optimizers.Muon):
        found = []
    else:
        return None
    return [each for each in found if each is not None]


def slots_of(optimizer: Any, variable: Any) -> list[Any]:
    """The variables that a built optimizer keeps of one that it updates, by their names."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    prefixes = {optimizer._var_key(each): f"{each.path.replace('/', '_')}_" for each in optimizer._trainable_variables}
    own = prefixes.get(optimizer._var_key(variable))
    if own is None:
        return []
    longer = [prefix for prefix in prefixes.values() if prefix.startswith(own) and prefix != own]
    return [
        slot
        for slot in optimizer.variables
        if slot.name.startswith(own) and not slot.name.startswith(tuple(longer) or "\0")
    ]


def build_for(model: Any, spec: Any) -> None:
    """Make the weights of a compiled model, and the state of its optimizer, for batches of this structure of
    tf.TensorSpec: (x,), (x, y) or (x, y, sample_weight)."""
    shaped = keras.tree.map_structure(lambda each: keras.KerasTensor(tuple(each.shape), each.dtype.name), spec)
    model._symbolic_build(data_batch=shaped)
