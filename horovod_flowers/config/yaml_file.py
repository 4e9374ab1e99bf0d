"""YAML that somebody wrote: plain values, and never more of them than a configuration has."""

from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 2**20
MOST_VALUES = 20_000
"""That a file stands for once its aliases are replaced by what they stand for; ten lines can stand for 10^9."""


class _Loader(yaml.SafeLoader):
    """Counts values before it makes any."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"it stands for more than {MOST_VALUES} values")
        return node


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


def load_yaml(path: Path, pipe: bool = False) -> Any:
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
        return yaml.load(contents.decode("utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError:
        raise
    except (
        Exception
    ) as error:  # whatever PyYAML's constructors of dates and numbers stumble over, or too deep a nesting
        raise yaml.YAMLError(" ".join(str(error).split())[:200] or type(error).__name__) from error
