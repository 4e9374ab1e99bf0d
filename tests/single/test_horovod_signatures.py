"""Every public name of Horovod's Keras interfaces is in horovod_flowers.keras, with the same arguments and defaults.

Horovod's source is read, not imported: under Keras 3 parts of it fail.
"""

import ast
import importlib.metadata
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest

import horovod_flowers.keras as hvd

HOROVOD = Path(str(importlib.util.find_spec("horovod").origin)).parent  # type: ignore[union-attr]
MODULES = ("tensorflow/keras/__init__.py", "keras/__init__.py")
NOT_PUBLIC = {"K", "keras", "inspect", "warnings", "version", "tf", "is_version_greater_equal_than", "_impl"}


def tree(path: str) -> ast.Module:
    return ast.parse((HOROVOD / path).read_text())


def names(module: ast.Module) -> set[str]:
    """What a module defines or imports at its top."""
    found = {node.name for node in module.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in module.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return {name for name in found if "." not in name} - NOT_PUBLIC


def arguments(function: ast.FunctionDef) -> list[tuple[str, str | None]]:
    """Names of arguments in order, and their defaults as written."""
    found = [argument.arg for argument in function.args.args if argument.arg != "self"]
    written = [ast.unparse(default) for default in function.args.defaults]
    defaults: list[str | None] = [*[None] * (len(found) - len(written)), *written]
    return list(zip(found, defaults, strict=True))


def own_arguments(function: Any) -> list[tuple[str, Any]]:
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [(parameter.name, parameter.default) for parameter in parameters if parameter.kind not in kinds]


def same(written: str | None, default: Any) -> bool:
    """Whether a default is the one that Horovod's source has."""
    if written is None:
        return default is inspect.Parameter.empty
    value: Any = hvd
    try:
        value = ast.literal_eval(written)
    except ValueError:  # such as Compression.none
        for name in written.split("."):
            value = getattr(value, name)
    return bool(value is default or value == default)


def test_this_is_horovod_0_28_1() -> None:
    assert importlib.metadata.version("horovod") == "0.28.1"


@pytest.mark.parametrize("path", MODULES)
def test_every_name_is_there(path: str) -> None:
    found = names(tree(path))
    assert len(found) > 30
    assert {name for name in found if not hasattr(hvd, name)} == set()


@pytest.mark.parametrize("path", MODULES)
def test_functions_take_the_same_arguments(path: str) -> None:
    functions = [node for node in tree(path).body if isinstance(node, ast.FunctionDef)]
    assert {"DistributedOptimizer", "allreduce", "load_model"} <= {function.name for function in functions}
    first = tree(MODULES[0])
    newer = {node.name: node for node in first.body if isinstance(node, ast.FunctionDef)}
    for function in functions:
        expected = arguments(newer.get(function.name, function))  # horovod.keras has fewer, and other defaults
        own = own_arguments(getattr(hvd, function.name))
        assert [name for name, _ in own] == [name for name, _ in expected], function.name
        for (name, written), (_, default) in zip(expected, own, strict=True):
            assert same(written, default), (function.name, name, written, default)
        if function.name in newer:
            assert {name for name, _ in arguments(function)} <= {name for name, _ in own}


@pytest.mark.parametrize("module", ["callbacks", "elastic"])
def test_classes_take_the_same_arguments(module: str) -> None:
    classes = [node for node in tree(f"tensorflow/keras/{module}.py").body if isinstance(node, ast.ClassDef)]
    assert len(classes) in (5, 4)
    for each in classes:
        (constructor,) = (node for node in each.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
        own = own_arguments(getattr(getattr(hvd, module), each.name))
        assert [name for name, _ in own] == [name for name, _ in arguments(constructor)], each.name
        for (name, written), (_, default) in zip(arguments(constructor), own, strict=True):
            assert same(written, default), (each.name, name, written, default)


def test_others_take_the_same_arguments() -> None:
    for path, name in (("common/basics.py", "init"), ("tensorflow/functions.py", "broadcast_object")):
        nodes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef) and node.name == name]
        own = own_arguments(getattr(hvd, name))
        assert [argument for argument, _ in own] == [argument for argument, _ in arguments(nodes[0])]
        assert all(same(written, own[place][1]) for place, (_, written) in enumerate(arguments(nodes[0])))
    nodes = [node for node in tree("tensorflow/functions.py").body if isinstance(node, ast.FunctionDef)]
    (broadcast,) = (node for node in nodes if node.name == "broadcast_variables")
    assert [name for name, _ in own_arguments(hvd.broadcast_variables)] == [name for name, _ in arguments(broadcast)]
    assert [name for name, _ in own_arguments(hvd.elastic.run)] == ["func"]
