"""YAML that somebody wrote: plain values, and never more of them than a configuration has."""

from pathlib import Path
from typing import Any

import yaml

from horovod_flowers.runtime.errors import UserError

MOST_BYTES = 2**20
MOST_VALUES = 20_000
"""That a file stands for once its aliases are replaced by what they stand for; ten lines can stand for 10^9."""


_REMEDY = "restore it, or start another run"
UNREADABLE = f"{{path}} cannot be read ({{problem}}): {_REMEDY}"
"""What is said of the config.yaml of a run."""


class _Loader(yaml.SafeLoader):
    """Counts values before it makes any."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"it stands for more than {MOST_VALUES} values")
        return node


class _WrittenLoader(_Loader):
    """For files that this program has written: refuses aliases and keys given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.YAMLError("an option given twice")
        return mapping


def _values(node: Any, known: dict[int, int]) -> int:
    """How many values a node stands for. Raises YAMLError where one stands for itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = -1  # in work
        pairs = isinstance(node, yaml.MappingNode)
        parts = [part for pair in node.value for part in pair] if pairs else node.value
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    if known[id(node)] < 0:
        raise yaml.YAMLError("an alias stands for itself")
    return known[id(node)]


def load_yaml(path: Path, pipe: bool = False, kind: type[_Loader] = _Loader) -> Any:
    """Read a file of plain YAML; from a named pipe only where that is allowed, since it may never end.

    Raises OSError or YAMLError, whatever the file holds.
    """
    if not pipe and path.exists() and not path.is_file():
        raise OSError(f"{path} is not a file")
    with open(path, "rb") as file:
        contents = file.read(MOST_BYTES + 1)
    if len(contents) > MOST_BYTES:
        raise yaml.YAMLError(f"it has more than {MOST_BYTES} bytes")
    try:
        return yaml.load(contents.decode("utf-8"), Loader=kind)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError:
        raise
    except (
        Exception
    ) as error:  # whatever PyYAML's constructors of dates and numbers stumble over, or too deep a nesting
        raise yaml.YAMLError(" ".join(str(error).split())[:200] or type(error).__name__) from error


def options_in(path: Path, unreadable: str = UNREADABLE) -> dict[str, Any]:
    """The options that a run has written, as a tree of dictionaries; their names and values are not checked.

    Raises UserError, in the words of `unreadable` for a file that cannot be read or that holds what no run writes:
    aliases, or an option twice.
    """
    try:
        found = load_yaml(path, kind=_WrittenLoader)
    except (OSError, yaml.YAMLError) as error:
        problem = getattr(error, "problem", None) or " ".join(str(error).split())  # PyYAML tells it in 5 lines
        raise UserError(unreadable.format(path=path, problem=problem)) from error
    if not isinstance(found, dict):
        raise UserError(f"{path} does not hold options: {_REMEDY}")
    return found
