"""The config.yaml of a run, read back as what it was written from. No TensorFlow here."""

import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal

import yaml

from horovod_flowers.config.command_line import build
from horovod_flowers.config.run import RunConfig
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.files import check_regular

MOST_BYTES = 100_000  # fifty times what a run writes; reading this takes a second


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases, which no run writes and which multiply what they stand for, and keys given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.YAMLError("an option given twice")
        return mapping


def read_config(path: Path) -> dict[str, Any]:
    """The options as a tree of dictionaries, every one of RunConfig there and of its type.

    Options that came later than the run have the value that says what it did. Raises FileNotFoundError, or UserError
    where one is missing, unknown or wrong: a default in its place would be taken for what was measured.
    """
    check_regular(path, MOST_BYTES)
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)  # noqa: S506 (a SafeLoader)
    except OSError:
        raise
    except Exception as error:  # whatever PyYAML's constructors of dates and numbers stumble over
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__  # PyYAML tells it in 5 lines
        raise UserError(f"unreadable ({path}: {problem})") from error
    if not isinstance(config, dict):
        raise UserError("config.yaml does not hold options")
    try:
        _check_types(RunConfig, config, "")
        build(RunConfig, config)
    except UserError as error:
        raise UserError(f"config.yaml: {error}") from error
    return config


def _check_types(kind: type, values: dict[Any, Any], prefix: str) -> None:
    """Compare a tree of values with the types of a dataclass tree (UserError)."""
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise UserError(f"there is no option {prefix}{name}: the file is of another version")
    for item in dataclasses.fields(kind):
        declared = item.metadata.get("option")
        if item.name not in values and declared is not None and declared.came_later:
            values[item.name] = declared.before  # what runs did when the option was not there yet
        if item.name not in values:
            raise UserError(f"{prefix}{item.name} is missing: the file is half-written or of another version")
        value, hint = values[item.name], hints[item.name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise UserError(f"{prefix}{item.name} is not a group of options")
            _check_types(typing.cast(type, hint), value, f"{prefix}{item.name}.")
        elif not _fits(value, hint):
            raise UserError(f"{prefix}{item.name} is {str(value)[:100]!r}, which is of another kind than that option")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: bool, int, float, str, Literal, or a union of these."""
    if isinstance(hint, types.UnionType):
        return any(_fits(value, each) for each in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return isinstance(value, str) and value in typing.get_args(hint)
    if hint in (int, float) and type(value) is int:
        return abs(value) < 2**63
    if hint is float:
        return type(value) is float and math.isfinite(value)
    return type(value) is hint
