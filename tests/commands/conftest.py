"""The README's drawn flowers, which take a while to draw, handed on from one of its commands to the next."""

from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Drawn:
    """The place of the prepared images of a command that has ended, in whichever process of the tests."""

    place: Path

    def keep(self, data: Path) -> None:
        """Hand on the `data` folder of a command."""
        if not self.place.exists():
            self.place.symlink_to(data)

    def lend(self, data: Path) -> None:
        """Put what was handed on into a command's place of it; with nothing there yet, the command draws for itself."""
        if self.place.exists():
            data.symlink_to(self.place)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Drawn:
    base = tmp_path_factory.getbasetemp()
    return Drawn((base if worker_id == "master" else base.parent) / "drawn")
