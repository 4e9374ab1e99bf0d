"""Layers and weights that are not trained (--model.freeze), by patterns of their names."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from horovod_flowers.model.keras_internals import all_layers
from horovod_flowers.runtime.errors import UserError

NAMED = 12
"""Names that a refusal lists."""


def freeze(model: Any, patterns: str) -> list[str]:
    """Stop training the layers and weights of a built model whose name or path matches; notes on what is left.

    patterns: separated by commas, as in a shell; `*` matches `/` too. A path is that of Keras, with or without the
    model's own name in front. A layer that matches is frozen with all that it holds, which for batch normalisation
    means that it uses its running statistics and leaves them alone, as `layer.trainable = False` does.

    Raises UserError where a pattern matches nothing, or nothing is left to train.
    """
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    if not wanted:
        raise UserError(f"model.freeze is {patterns!r}: give names of layers or weights, or patterns, or leave it out")
    before = list(model.trainable_variables)
    layers = [layer for layer in all_layers(model) if layer is not model]
    notes = []
    for pattern in wanted:
        held = [layer for layer in layers if layer.weights and _matches(pattern, _names(model, layer.path, layer.name))]
        for layer in held:
            layer.trainable = False
        matching = [each for each in model.variables if _matches(pattern, _names(model, each.path))]
        inner = {id(variable) for layer in held for variable in layer.weights}
        for variable in matching:
            if id(variable) not in inner:
                variable.trainable = False
        if not held and not matching:
            raise UserError(f"model.freeze is {pattern!r}, which matches no layer or weight: {_listed(layers)}")
        what = [_counted(len(held), "layer")] if held else []
        what += [_counted(len(matching), "weight tensor")] if not held else []
        notes.append(f"frozen by {pattern!r}: {', '.join(what)}")
    left = list(model.trainable_variables)
    if not left:
        raise UserError(f"model.freeze is {patterns!r}, which freezes every weight: leave something to train")
    if len(left) == len(before):
        notes.append("nothing that it matches was trained before")
    elements = sum(int(variable.value.shape.num_elements()) for variable in left)
    return [f"{'; '.join(notes)}; {elements:,} weights in {_counted(len(left), 'tensor')} are trained"]


def _names(model: Any, *names: str) -> list[str]:
    """These, and without the model's own name in front."""
    return [*names, *(name.removeprefix(f"{model.name}/") for name in names)]


def _matches(pattern: str, names: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _listed(layers: list[Any]) -> str:
    names = list(dict.fromkeys(layer.name for layer in layers if layer.weights))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"layers with weights are {', '.join(names[:NAMED])}{more}; give names or patterns such as '{names[0]}'"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
