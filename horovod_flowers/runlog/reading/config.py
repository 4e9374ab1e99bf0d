"""The config.yaml of a run, read back as what it was written from. No TensorFlow here."""

import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from horovod_flowers.config.command_line import build
from horovod_flowers.config.options import options_of
from horovod_flowers.config.run import RunConfig
from horovod_flowers.config.script import ScriptConfig, is_script
from horovod_flowers.config.yaml_file import options_in
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.files import check_regular

MOST_BYTES = 100_000  # fifty times what a run writes; reading this takes a second


def read_config(path: Path) -> dict[str, Any]:
    """The options as a tree of dictionaries, every one of RunConfig there and of its type; of a script's run, every
    one of ScriptConfig.

    Options that came later than the run have the value that says what it did. Raises FileNotFoundError, or UserError
    where one is missing, unknown or wrong: a default in its place would be taken for what was measured.
    """
    check_regular(path, MOST_BYTES)
    config = options_in(path, "unreadable ({path}: {problem})")
    try:
        kind = ScriptConfig if is_script(config) else RunConfig
        _complete(kind, config, "")
        build(kind, config)
    except UserError as error:
        raise UserError(f"config.yaml: {error}") from error
    return config


def _came_later(group: type) -> bool:
    return all(declared.came_later for declared in options_of(group).values())


def _complete(kind: type, values: dict[Any, Any], prefix: str) -> None:
    """Add the options that came later; refuse one that is unknown or missing (UserError)."""
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise UserError(f"there is no option {prefix}{name}: the file is from another version")
    for item in fields(kind):
        name, hint, declared = item.name, hints[item.name], item.metadata.get("option")
        if name not in values and declared is not None and declared.came_later:
            values[name] = declared.before  # what runs did when the option was not there yet
        if name not in values and is_dataclass(hint) and _came_later(typing.cast(type, hint)):
            values[name] = {}  # filled below
        if name not in values:
            raise UserError(f"{prefix}{name} is missing: the file is half-written or from another version")
        if is_dataclass(hint):
            if not isinstance(values[name], dict):
                raise UserError(f"{prefix}{name} is not a group of options")
            _complete(typing.cast(type, hint), values[name], f"{prefix}{name}.")
