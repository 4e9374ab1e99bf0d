"""The run log of a script that a study has started: every `fit` of it, and how its ranks divide the work."""

from typing import Any

import keras

from horovod_flowers.config.choices import INDEPENDENT
from horovod_flowers.keras.backward_passes import Exchange
from horovod_flowers.model.keras_internals import all_layers
from horovod_flowers.model.optimizer_class import combining_of
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.recording.of_fit import precision_of, record_every_fit
from horovod_flowers.runlog.environment import Parallelism
from horovod_flowers.runlog.records import CommunicationVolume
from horovod_flowers.strategy.communication_volume import allreduce


def record_fits(ranks: Ranks) -> None:
    """Record what `keras.Model.fit` trains from here on, where a study asks for it; else nothing is done."""
    record_every_fit(ranks, lambda model: parallelism_of(model, ranks.size))


def parallelism_of(model: Any, size: int) -> Parallelism:
    """How `size` ranks divide the work of a compiled model."""
    exchange = None if model.optimizer is None else combining_of(model.optimizer)
    precision = precision_of(model)
    if size == 1:
        return Parallelism("one rank", [], [], precision, [])
    if not isinstance(exchange, Exchange):
        return Parallelism(INDEPENDENT, ["the optimizer is not distributed"], [], precision, [])
    notes = ["gradients combined by horovod_flowers.keras"]
    if exchange.passes > 1:
        notes.append(f"once in {exchange.passes} backward passes")
    return Parallelism("allreduce", notes, [], precision, _volume(model, exchange, size))


def _volume(model: Any, exchange: Exchange, size: int) -> list[CommunicationVolume] | None:
    """What each rank sends in a step; None where it is not known: rows of embeddings, parts of the ranks."""
    options, layers = exchange.reduction.options, all_layers(model)
    rows = not options.sparse_as_dense and any(isinstance(layer, keras.layers.Embedding) for layer in layers)
    known = exchange.passes == 1 and not exchange.has_local and options.process_set.process_set_id == 0
    if rows or not known or not all(layer.built for layer in layers):
        return None
    value_bytes = 2 if getattr(options.compression, "__name__", "") == "FP16Compressor" else 4
    elements = [variable.value.shape.num_elements() for variable in model.trainable_variables]
    return [allreduce(elements, size, value_bytes)]
