"""A real browser: Debian's chromium, headless; installed where it is missing and this is root, else skipped."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = ("chromium", "fonts-dejavu-core")


def _found() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the browser."""
    path = _found()
    if path is None and os.geteuid() == 0 and shutil.which("apt-get"):
        log = tmp_path_factory.mktemp("apt") / "log"
        install = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        with open(log, "wb") as output, open("/var/lock/flowers-apt", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time: tests/slurm/cluster.sh may be installing, too
            for words in (install, ["apt-get", "update"], install):
                ended = subprocess.run(words, env=environment, stdout=output, stderr=output, timeout=900, check=False)
                if ended.returncode == 0 and words is install:
                    break
        path = _found()
        assert path is not None, log.read_text(errors="replace")[-3000:]
    if path is None:
        pytest.skip("no chromium on this machine, and no right to install it")
    return path


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    """The browser, started once. Its sandbox needs a user who is not root."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots are kept for those who want to look."""
    folder = Path(os.environ.get("FLOWERS_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
