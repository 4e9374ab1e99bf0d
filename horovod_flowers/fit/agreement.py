"""That all ranks train one model: the same layers, weights, optimizer and loss, and the same values to begin with."""

import fnmatch
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from horovod_flowers.model.keras_internals import all_layers, counters_of, seed_owners, seed_states
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.same_weights import checksum, refuse_drift
from horovod_flowers.runtime.errors import AgreedError, UserError
from horovod_flowers.runtime.heartbeat import HEARTBEAT

_OF_A_RANK = ("name", "seed", "shared_object_id", "build_config")
"""In configurations: what may differ between ranks that train one model."""
_MOST_LETTERS = 120


def check_same_model(model: Any, ranks: Ranks) -> None:
    """Raise AgreedError, on every rank, where one has another model, optimizer or loss than rank 0. Every rank calls
    it.

    Names of layers and seeds may differ.
    """
    own = description(model)
    gathered = ranks.allgather(own)
    for rank, other in enumerate(gathered):
        for what in [*gathered[0], *other]:
            here, there = gathered[0].get(what, "missing"), other.get(what, "missing")
            if here != there:
                raise AgreedError(
                    f"rank {rank} has another model than rank 0: {what} is {_short(there)} there, and {_short(here)} "
                    "on rank 0; build, compile and distribute the same model on every rank"
                )


def description(model: Any) -> dict[str, str]:
    """What has to be equal on all ranks, in words, by what it is of."""
    found = {"the number of weights": str(len(model.weights)), "the class": type(model).__name__}
    layers = all_layers(model)
    found["the number of layers"] = str(len(layers))
    for number, weight in enumerate(model.weights):
        trained = "trained" if weight.trainable else "not trained"
        found[f"weight {number} ({weight.path})"] = f"{tuple(weight.shape)} {weight.dtype}, {trained}"
    found = {what.split(" (")[0]: value for what, value in found.items()}
    for number, layer in enumerate(layers[1:], 1):
        found |= _described(f"layer {number}", layer)
    found |= _described("the optimizer", model.optimizer)
    found["the loss"] = _words(getattr(model, "loss", None))
    return found


def _described(what: str, thing: Any) -> dict[str, str]:
    configuration = _configuration(thing)
    return {what: type(thing).__name__, **{f"{key} of {what}": value for key, value in configuration.items()}}


def _configuration(thing: Any) -> dict[str, str]:
    """Each setting in words, without names and seeds."""
    try:
        settings = _without_names(thing.get_config())
        return {key: json.dumps(value, sort_keys=True, default=_words) for key, value in settings.items()}
    except Exception:  # the user's code, which need not have any
        return {}


def _without_names(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_names(each) for key, each in value.items() if key not in _OF_A_RANK}
    if isinstance(value, list | tuple):
        return [_without_names(each) for each in value]
    return value


def _words(value: Any) -> str:
    """A value in words that are the same in every process."""
    if isinstance(value, Mapping):
        return str({str(key): _words(each) for key, each in value.items()})
    if isinstance(value, list | tuple):
        return str([_words(each) for each in value])
    if isinstance(value, str | int | float | bool | None):
        return str(value)
    if hasattr(value, "get_config"):
        return f"{type(value).__name__} {_configuration(value)}"
    return str(getattr(value, "__name__", type(value).__name__))


def _short(words: str) -> str:
    return words if len(words) <= _MOST_LETTERS else f"{words[: _MOST_LETTERS - 1]}…"


def begin_alike(model: Any, ranks: Ranks, with_state: bool = True, equal_seeds: Sequence[str] = ()) -> None:
    """Give every rank what rank 0 holds of a built model and of its optimizer; seeds differ by the rank.

    with_state: of the optimizer not only its counters. equal_seeds: names of layers, with * and ?, that draw the same
    random numbers on every rank. Every rank calls it. Raises UserError where a name is that of no random layer.
    """
    differing = seeds_that_differ(model, equal_seeds)
    optimizer = model.optimizer
    variables = list(model.variables)
    if with_state:
        if ranks.allreduce_max(int(optimizer.built)) and not optimizer.built:
            optimizer.build(model.trainable_variables)
        variables += optimizer.variables
    else:
        counters = counters_of(optimizer)
        variables += [variable for variable in optimizer.variables if id(variable) in counters]
    broadcast_values(list({id(variable): variable for variable in variables}.values()), ranks)
    for state in differing:
        seed, count = np.asarray(state)
        state.assign(np.array([int(seed) + ranks.rank, count], np.asarray(state).dtype))


def seeds_that_differ(model: Any, equal: Sequence[str]) -> list[Any]:
    """States of the seed generators by which ranks draw other random numbers than each other.

    equal: names of layers, with * and ?, for which they draw the same. Raises UserError where one is that of no layer
    that draws any.
    """
    owners = seed_owners(model)
    names = sorted({layer.name for _, layers in owners for layer in layers})
    for pattern in equal:
        if not fnmatch.filter(names, pattern):
            drawing = ", ".join(names) or "none"
            raise UserError(
                f"equal_seeds names {pattern!r}, and no layer of that name draws random numbers by a seed generator of "
                f"its own: those that do are {drawing}"
            )
    return [
        state
        for state, layers in owners
        if not any(fnmatch.fnmatchcase(layer.name, pattern) for layer in layers for pattern in equal)
    ]


def broadcast_values(variables: Sequence[Any], ranks: Ranks) -> None:
    """Give these Keras variables the values of rank 0. Every rank calls it, with the same ones."""
    for variable in variables:
        value = np.ascontiguousarray(np.array(variable))
        octets = value.reshape(-1).view(np.uint8).copy()  # MPI does not know every type
        if octets.size:
            with HEARTBEAT.waiting():
                ranks.communicator.broadcast_array(octets)
        if ranks.rank:
            variable.assign(octets.view(value.dtype).reshape(np.shape(np.array(variable))))


def end_alike(model: Any, ranks: Ranks) -> None:
    """Give every rank the weights of rank 0 where they differ: a callback of one rank may have set them at the end of a
    fit, such as EarlyStopping(restore_best_weights=True). Every rank calls it.
    """
    crc = 0
    for weight in model.weights:
        crc = zlib.crc32(np.array(weight, order="C").tobytes(), crc)
    if not all(ranks.same_on_all([crc])):
        broadcast_values(model.weights, ranks)


def average_where_different(model: Any, ranks: Ranks) -> None:
    """Average over the ranks what training moves without gradients, such as the statistics of batch normalisation.

    What is the same on all ranks stays, bit by bit. Every rank calls it.
    """
    seeds = {id(state) for state in seed_states(model)}
    moved = [
        variable
        for variable in model.non_trainable_weights
        if id(variable) not in seeds and keras.backend.is_float_dtype(str(variable.dtype))
    ]
    if not moved:
        return
    same = ranks.same_on_all([zlib.crc32(np.array(variable).tobytes()) for variable in moved])
    for variable, is_same in zip(moved, same, strict=True):
        if not is_same:
            value = np.array(variable)
            mean = ranks.allreduce_sum(np.asarray(value, np.float64).reshape(-1)) / ranks.size
            variable.assign(mean.reshape(value.shape).astype(value.dtype))


def check_same_weights(model: Any, ranks: Ranks) -> None:
    """Raise a JobError on every rank where ranks that should hold the same weights hold others. Every rank calls it."""
    crc = 0
    for variable in model.trainable_variables:
        crc = checksum(np.array(variable, order="C"), crc)
    refuse_drift(
        ranks,
        "at the end of an epoch: look for code that depends on the rank, weights that are changed without the "
        "optimizer, nodes with different hardware or failing memory",
        crc,
    )
