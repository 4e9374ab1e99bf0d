"""How options are declared: fields of dataclasses, from which flags, YAML keys and --help are generated."""

from dataclasses import field
from pathlib import Path
from typing import Any

from horovod_flowers.runtime.errors import UserError


def option(default: Any, text: str, words: int | None = None) -> Any:
    """A dataclass field whose explanation becomes its --help text; `words`: how many words follow its flag, as text."""
    return field(default=default, metadata={"help": text, "words": words})


def later_option(default: Any, text: str, before: Any) -> Any:
    """An option that runs of version 0.1.0 did not have yet; `before`: its value that says what they did."""
    return field(default=default, metadata={"help": text, "before": before})


def presets_option(folder: Path, default: Any, text: str, before: Any) -> Any:
    """A later option whose value names a file in `folder`, NAME.yaml, that others start from; a name may have none."""
    return field(default=default, metadata={"help": text, "before": before, "presets": folder})


def positional(text: str) -> Any:
    """A dataclass field, a tuple of words, for what stands on the command line without a flag; at least one."""
    return field(default=(), metadata={"help": text, "positional": True})


def flat_options(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a configuration tree by their dotted names, as YAML and `dataclasses.asdict` give it."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flat_options(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return leaves


def not_negative(name: str, value: int) -> None:
    """Raise UserError where it is."""
    if value < 0:
        raise UserError(f"{name} is {value}: give 0 or a positive whole number")
