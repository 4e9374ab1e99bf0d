"""What optimizers keep, how they are copied, and as what they are written."""

import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras.src import api_export
from keras.src.saving import object_registration


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
