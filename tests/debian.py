"""Programs of Debian that tests need: installed where they are missing and this is root."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def program(names: Sequence[str], packages: Sequence[str], log: Path) -> str | None:
    """Path of the first of these programs that is there, or comes with the packages; None without the right to install.

    log: where apt-get's output goes.
    """

    def found() -> str | None:
        return next((path for path in map(shutil.which, names) if path), None)

    path = found()
    if path is not None or os.geteuid() != 0 or not shutil.which("apt-get"):
        return path
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with open(log, "wb") as output, open("/var/lock/flowers-apt", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time: tests/slurm/cluster.sh may be installing, too
        for words in (install, ["apt-get", "update"], install):
            ended = subprocess.run(words, env=environment, stdout=output, stderr=output, timeout=900, check=False)
            if ended.returncode == 0 and words is install:
                break
    path = found()
    assert path is not None, log.read_text(errors="replace")[-3000:]
    return path
