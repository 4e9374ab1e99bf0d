"""Rewrite the two lists of exact pins in pyproject.toml: `./flowers run python tools/update_pins.py`.

Direct dependencies and the requirements of builds are pinned by hand. This takes the newest versions of everything
that they bring, one version of each for every Python, processor and MPI that the project allows.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
PYTHONS = ("3.10", "3.11", "3.12")
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28")


def package_name(requirement: str) -> str:
    """Name that a requirement starts with, spelt as package indexes spell it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]).lower()


def replace_list(text: str, key: str, pins: dict[str, str]) -> str:
    """Put the pins into the list of that key, one a line, sorted by name."""
    lines = "".join(f'    "{name}=={pins[name]}",\n' for name in sorted(pins))
    text, found = re.subn(rf"^{key} = \[\n.*?^\]", f"{key} = [\n{lines}]", text, flags=re.MULTILINE | re.DOTALL)
    if found != 1:
        raise SystemExit(f"pyproject.toml has {found} lists named {key}, not one")
    return text


def resolve(folder: Path, *arguments: str) -> dict[str, str]:
    """Run uv in that folder and return the version of each package that it prints."""
    printed = subprocess.run(
        ["uv", *arguments, "--no-annotate", "--no-header", "--quiet"],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return one_version_each(re.findall(r"^([\w.-]+)==([^\s;]+)", printed, flags=re.MULTILINE))


def one_version_each(found: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Pins of all these packages, which have to be the same wherever a package is found."""
    pins: dict[str, str] = {}
    for name, version in found:
        if pins.setdefault(package_name(name), version) != version:
            raise SystemExit(
                f"{name} resolves to {pins[package_name(name)]} and {version} on different Pythons or MPIs"
            )
    return pins


def resolve_every_mpi(folder: Path, project: dict[str, Any]) -> dict[str, str]:
    """Everything that the project brings with any of its MPIs, of which an environment has one."""
    (mpis,) = ([entry["group"] for entry in conflict] for conflict in project["tool"]["uv"]["conflicts"])
    wheels = {package_name(requirement) for mpi in mpis for requirement in project["dependency-groups"][mpi]}
    found: list[tuple[str, str]] = []
    for mpi in mpis:
        others = [word for other in mpis if other != mpi for word in ("--no-group", other)]
        pins = resolve(folder, "export", "--all-groups", *others, "--no-hashes", "--no-emit-project")
        found += [(name, version) for name, version in pins.items() if name not in wheels]
    return one_version_each(found)


def without(pins: dict[str, str], requirements: list[str]) -> dict[str, str]:
    """Pins less those of packages that the requirements name themselves."""
    named = {package_name(requirement) for requirement in requirements}
    return {name: version for name, version in pins.items() if name not in named}


def main() -> None:
    """Resolve without the two lists, then write them anew."""
    text = PYPROJECT.read_text(encoding="utf-8")
    project: dict[str, Any] = tomllib.loads(text)
    direct = sum(project["dependency-groups"].values(), project["project"]["dependencies"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        unpinned = replace_list(replace_list(text, "constraint-dependencies", {}), "build-constraint-dependencies", {})
        (folder / "pyproject.toml").write_text(unpinned, encoding="utf-8")
        runtime = resolve_every_mpi(folder, project)

        build = list(itertools.chain(*project["tool"]["uv"]["extra-build-dependencies"].values()))
        (folder / "build.txt").write_text("\n".join(build), encoding="utf-8")
        runtime_lines = (f"{name}=={version}\n" for name, version in without(runtime, build).items())
        (folder / "runtime.txt").write_text("".join(runtime_lines), encoding="utf-8")
        compile_build = ("pip", "compile", "build.txt", "--constraint", "runtime.txt")
        built_with: dict[str, str] = {}
        for platform, python in itertools.product(PLATFORMS, PYTHONS):
            on = ("--python-platform", platform, "--python-version", python)
            built_with |= resolve(folder, *compile_build, *on)

    text = replace_list(text, "constraint-dependencies", without(runtime, direct))
    text = replace_list(text, "build-constraint-dependencies", without(built_with, build))
    whole = PYPROJECT.with_suffix(".toml.partial")
    whole.write_text(text, encoding="utf-8")
    whole.replace(PYPROJECT)


if __name__ == "__main__":
    main()
