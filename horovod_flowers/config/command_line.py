"""Flags, YAML keys and help generated from a configuration dataclass."""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import sys
import typing
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jsonargparse
import msgspec
import yaml

from horovod_flowers.config.options import Option, flag_of, flat_options, options_of
from horovod_flowers.config.parser_messages import in_one_sentence, nearest
from horovod_flowers.config.yaml_file import load_yaml
from horovod_flowers.runtime.errors import UserError, first_line
from horovod_flowers.runtime.files import storage_errno

Config = TypeVar("Config")


class _Parser(jsonargparse.ArgumentParser):
    """A parser whose complaints are raised, so that one rank tells them in one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(in_one_sentence(message, self._option_string_actions))


def parse(
    kind: type[Config], command: str, description: str | None, arguments: Sequence[str] | None, rank: int = 0
) -> Config:
    """Read flags and `--config` YAML into a `kind` instance; flags override the file, and both the preset that either
    names.

    --help and --print-config answer on rank 0 alone. Raises UserError for an unknown flag or key, or a value of the
    wrong type; the dataclasses raise it for values out of range.

    description: the command's docstring, whose first line --help shows; None where Python leaves docstrings out (-OO).
    """
    parser = _parser(kind, command, description)
    words = list(sys.argv[1:] if arguments is None else arguments)
    _check_files(words)
    quiet = contextlib.redirect_stdout(open(os.devnull, "w")) if rank else contextlib.nullcontext()  # noqa: SIM115
    with quiet:
        named = _preset_in(kind, words)
        values = _parsed(parser, [*_preset_words(kind, named), *words])
        below = _preset_words(kind, _preset_of(kind, values))
        if below != _preset_words(kind, named):  # it stands in the --config file
            values = _parsed(parser, [*below, *words])
    values.pop("config", None)
    return build(kind, values)


def _parser(kind: type, command: str, description: str | None) -> _Parser:
    parser = _Parser(
        prog=f"python -m {command}",
        usage=f"python -m {command} [--config FILE] [options]{_positionals(kind)}",
        allow_abbrev=False,  # a mistyped flag must not become another one
        description=next(iter((description or "").splitlines()), ""),
        print_config="--print-config",
        default_env=False,
        formatter_class=jsonargparse.DefaultHelpFormatter,
    )
    parser.add_argument(
        "--config", action="config", help="YAML file of these options, keys as in --print-config; flags override it"
    )
    add_options(parser, kind)
    return parser


def given_options(kind: type, words: Sequence[str]) -> list[str]:
    """The dotted names of the options that these words give, themselves, by a --config file or by a preset, whether or
    not they give them their defaults. The words have been parsed before."""
    preset = _preset_words(kind, _preset_in(kind, words))
    parser = _parser(kind, "", "")
    values = parser.parse_args([*preset, *words], defaults=False).as_dict()
    values.pop("config", None)
    return sorted(name for name in flat_options(values) if name in options_of(kind))


def _check_files(words: Sequence[str]) -> None:
    """Refuse --config files that the parser would choke on (UserError): it reads them without limits."""
    named = [after for word, after in pairwise(words) if word == "--config"]
    named += [word.partition("=")[2] for word in words if word.startswith("--config=")]
    for name in named:
        path = Path(name)
        if path.is_file():  # of a pipe, nothing would be left to read
            try:
                found = load_yaml(path)
            except (OSError, yaml.YAMLError) as error:
                raise UserError(f"--config {path} cannot be read ({first_line(error)})") from error
            if isinstance(found, dict) and "config" in found:
                raise UserError(f"--config {path} names another config: give --config once for each file instead")


def _parsed(parser: _Parser, words: Sequence[str]) -> dict[str, Any]:
    try:
        return dict(parser.parse_args(list(words)).as_dict())
    except (UserError, BrokenPipeError):
        raise
    except OSError as error:
        if storage_errno(error) is not None:  # standard output is full, into which it prints
            raise
        raise UserError(f"the options cannot be read ({first_line(error)}): --help lists what is allowed") from error
    except Exception as error:  # whatever jsonargparse makes of values that no option has
        raise UserError(f"the options cannot be read ({first_line(error)}): --help lists what is allowed") from error


def start_of(options: Config) -> Config:
    """What has not to be said of these options: the defaults, or their preset's values, its name still to be said."""
    kind, presets = type(options), _presets(type(options))
    if presets is None:
        return kind()
    started = parse(kind, "", "", _preset_words(kind, _preset_of(kind, vars(options))))
    return dataclasses.replace(started, **{presets[0]: getattr(kind(), presets[0])})  # type: ignore[type-var]


def _presets(kind: type) -> tuple[str, Path] | None:
    """The option that names a preset, and the folder of their files."""
    found = ((name, declared.presets) for name, declared in options_of(kind).items() if declared.presets is not None)
    return next(found, None)


def _preset_of(kind: type, values: Mapping[str, Any]) -> str | None:
    presets = _presets(kind)
    return values[presets[0]] if presets else None


def _preset_in(kind: type, words: Sequence[str]) -> str | None:
    """What stands for the preset on the command line."""
    presets = _presets(kind)
    if presets is None:
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{presets[0]}", nargs="?")
    return vars(parser.parse_known_args(list(words))[0])[presets[0]]


def _preset_words(kind: type, name: str | None) -> list[str]:
    """To be put before all that overrides it."""
    presets = _presets(kind)
    file = presets[1] / f"{name}.yaml" if presets else None
    return ["--config", str(file)] if file is not None and file.is_file() else []


def _positionals(kind: type) -> str:
    return "".join(f" {name.upper()}..." for name, declared in options_of(kind).items() if declared.positional)


def add_options(parser: jsonargparse.ArgumentParser, kind: type, prefix: str = "") -> None:
    """Add one flag for each field of the dataclass tree: --seed, --data.image-size, --resume and --no-resume."""
    hints = typing.get_type_hints(kind)
    group = parser.add_argument_group(prefix.rstrip(".") or None, kind.__doc__) if prefix else parser
    nested = [item for item in dataclasses.fields(kind) if dataclasses.is_dataclass(hints[item.name])]
    for item in dataclasses.fields(kind):
        if item in nested:
            continue
        declared: Option = item.metadata["option"]
        flag, text, hint = flag_of(f"{prefix}{item.name}"), declared.help, hints[item.name]
        if declared.positional:
            group.add_argument(item.name, nargs="+", type=str, help=text)
        elif hint is bool:
            group.add_argument(
                flag,
                action=jsonargparse.ActionYesNo(yes_prefix="", no_prefix="no-"),
                default=item.default,
                help=text,
            )
        elif declared.words:
            group.add_argument(flag, nargs=declared.words, type=str, default=item.default, help=text)
        else:
            group.add_argument(flag, type=hint, default=item.default, help=text)
    for item in nested:
        add_options(parser, hints[item.name], f"{prefix}{item.name}.")


def flags(options: Mapping[str, Any]) -> list[str]:
    """Words for the command line from options by dotted name: --steps 4 --no-validate --data.image-size 64."""
    words = []
    for name, value in options.items():
        spelled = name.replace("_", "-")
        if isinstance(value, bool):
            section, dot, leaf = spelled.rpartition(".")
            words.append(f"--{spelled}" if value else f"--no-{section}{dot}{leaf}")
        else:
            text = json.dumps(value, default=str) if isinstance(value, dict) else str(value)
            words += [f"--{spelled}", "null" if value is None else text]
    return words


def build(kind: type[Config], values: Any, prefix: str = "") -> Config:
    """Construct the dataclass tree from nested dictionaries; what is not there has its default.

    Raises UserError for a key that does not exist, a value of another type than its option, or one out of range.
    """
    if not isinstance(values, dict):
        name = prefix.rstrip(".") or "config"
        raise UserError(f"{name} is {str(values)[:100]!r}: allowed is a group of options, as --print-config shows it")
    hints = typing.get_type_hints(kind)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"there is no option {prefix}{key}: {nearest(str(key), hints)}")
        group = dataclasses.is_dataclass(hints[key])
        if not group and isinstance(value, int) and abs(value) >= 2**63:
            _refuse_large(kind, key, prefix, value)
        if not group and not _fits(value, hints[key]):
            raise UserError(f"{prefix}{key} is {str(value)[:100]!r}, which is not of that option's type")
        arguments[key] = build(hints[key], value, f"{prefix}{key}.") if group else value
    return kind(**arguments)


def _refuse_large(kind: type, key: str, prefix: str, value: int) -> NoReturn:
    """Raise UserError for a number that 64 bits do not hold, with the option's own limits where it has any."""
    options_of(kind)[key].check_limits(f"{prefix}{key}", value)
    raise UserError(f"{prefix}{key} is {value}, which 64 bits do not hold: give a smaller number")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, and a number one that 64 bits hold."""
    try:
        msgspec.convert(value, hint)
    except (msgspec.ValidationError, UnicodeEncodeError):  # the latter: half of a character
        return False
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) < 2**63


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML that --config reads back."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)
