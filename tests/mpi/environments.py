"""The environments that `./flowers` has built: one for each MPI (`--mpi NAME`), and Open MPI 4 with another TensorFlow
(`--tensorflow VERSION`); and how commands are run in them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import BIN, PROJECT

TITLES = {
    "openmpi": "Open MPI 4",
    "openmpi5": "Open MPI 5",
    "mpich": "MPICH",
    "intel": "Intel MPI",
    "system": "the system's",
    "tensorflow-2.21": "Open MPI 4, TensorFlow 2.21",
}
"""By the names that ./flowers knows them by, in the order of the tables."""


@dataclass(frozen=True)
class MpiEnvironment:
    """An environment with an MPI, and Horovod built for it."""

    name: str
    folder: Path

    @property
    def title(self) -> str:
        return TITLES[self.name]

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def variables(self) -> dict[str, str]:
        """For a command that is to find its programs there, and none of the environment that runs the tests."""
        rest = [place for place in os.environ["PATH"].split(os.pathsep) if place and Path(place) != BIN]
        return {"PATH": os.pathsep.join([str(self.folder / "bin"), *rest]), "VIRTUAL_ENV": str(self.folder)}

    def has(self, program: str) -> bool:
        """Whether it has a program, or, with the system's MPI, this machine."""
        places = self.variables["PATH"].split(os.pathsep) if self.name == "system" else [str(self.folder / "bin")]
        return any(os.access(Path(place, program), os.X_OK) for place in places)


def built_environments(environment: Mapping[str, str] = os.environ) -> dict[str, MpiEnvironment]:
    """Those that are there, by name: below $FLOWERS_ENVIRONMENTS, else beside the project's own."""
    elsewhere = environment.get("FLOWERS_ENVIRONMENTS")
    found = {}
    for name in TITLES:
        own = PROJECT / (".venv" if name == "openmpi" else f".venv-{name}")
        folder = Path(elsewhere, name) if elsewhere and Path(elsewhere, name).exists() else own
        if (folder / "bin" / "python").exists():
            found[name] = MpiEnvironment(name, folder)
    return found
