"""What Keras' optimizers take beyond the options that all of them have, and how a mapping of arguments is checked.

Declared here since a mistake is told before Keras is imported; tests/single/test_optimizers.py holds it against Keras.
"""

import math
from collections.abc import Mapping
from typing import Any

from horovod_flowers.config.parser_messages import nearest
from horovod_flowers.runtime.errors import UserError

_MOMENTS: dict[str, type] = {"beta_1": float, "beta_2": float, "epsilon": float}

OPTIMIZER_ARGUMENTS: dict[str, dict[str, type]] = {
    "adam": {**_MOMENTS, "amsgrad": bool},
    "sgd": {"nesterov": bool},
    "adamw": {**_MOMENTS, "amsgrad": bool},
    "rmsprop": {"rho": float, "momentum": float, "epsilon": float, "centered": bool},
    "nadam": _MOMENTS,
    "adagrad": {"initial_accumulator_value": float, "epsilon": float},
    "adadelta": {"rho": float, "epsilon": float},
    "adamax": _MOMENTS,
    "adafactor": {
        **{"beta_2_decay": float, "epsilon_1": float, "epsilon_2": float},
        **{"clip_threshold": float, "relative_step": bool},
    },
    "ftrl": {
        **{"learning_rate_power": float, "initial_accumulator_value": float, "l1_regularization_strength": float},
        **{"l2_regularization_strength": float, "l2_shrinkage_regularization_strength": float, "beta": float},
    },
    "lion": {"beta_1": float, "beta_2": float},
    "lamb": _MOMENTS,
    "muon": {
        **{"adam_beta_1": float, "adam_beta_2": float, "epsilon": float, "exclude_embeddings": bool},
        **{"muon_a": float, "muon_b": float, "muon_c": float, "adam_lr_ratio": float, "momentum": float},
        **{"ns_steps": int, "nesterov": bool},
    },
}
"""Of each optimizer, what can be set of it and is no option of its own. Numbers that Keras keeps as they are."""

OPTIMIZER_CLASSES = {
    **{"adam": "Adam", "sgd": "SGD", "adamw": "AdamW", "rmsprop": "RMSprop", "nadam": "Nadam", "adagrad": "Adagrad"},
    **{"adadelta": "Adadelta", "adamax": "Adamax", "adafactor": "Adafactor", "ftrl": "Ftrl", "lion": "Lion"},
    **{"lamb": "Lamb", "muon": "Muon"},
}

OF_WHOLE_WEIGHTS = ("adafactor", "lamb", "muon")
"""Optimizers whose update of an element looks at the rest of its weight: norms, means of rows, products of matrices.
They cannot update parts of weights."""

_IN_WORDS = {float: "a number", int: "a whole number", bool: "true or false"}


def check_arguments(option: str, of: str, known: Mapping[str, type], given: Mapping[str, Any] | None) -> None:
    """Refuse an argument that there is not, or of another type than it has (UserError). `of`: whose, in words."""
    for name, value in (given or {}).items():
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            close = nearest(str(name), known) if known else ""
            meant = f"; {close}" if close.startswith("did you mean") else ""
            raise UserError(f"{option} has {str(name)!r}, which {of} does not take: {takes}{meant}")
        wanted = known[name]
        fits = isinstance(value, bool) if wanted is bool else isinstance(value, int | wanted)
        if not fits or (wanted is not bool and isinstance(value, bool)) or not math.isfinite(value):
            raise UserError(f"{option} has {name} {str(value)[:100]!r}: give {_IN_WORDS[wanted]}")
