"""The namespaces of an emulated job: nothing in them has a name outside, and all goes with their first process.

Its network devices, mounts, processes and shared memory are its own, so that emulations cannot meet, and that nothing
is left however one ends. A user who is not root is root in there (man 7 user_namespaces).
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial

from horovod_flowers.runtime.errors import UserError, harmless
from horovod_flowers.runtime.parent_death import end_with_parent

PROGRAMS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "util-linux (Debian: mount)",
}
"""What is called, and the package that brings it."""
FOLDERS_OF_ROOT = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where some of them are, and which a user's PATH may lack."""
_SECONDS_TO_TRY = 30


def with_folders_of_root(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables, with a PATH on which the programs are."""
    path = environment.get("PATH", os.defpath).split(os.pathsep)
    path += [folder for folder in FOLDERS_OF_ROOT if folder not in path]
    return {**environment, "PATH": os.pathsep.join(path)}


def check_programs(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a machine without one of the programs (UserError)."""
    path = with_folders_of_root(environment)["PATH"]
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        packages = " and ".join(dict.fromkeys(PROGRAMS[name] for name in missing))
        raise UserError(
            f"there is no {' and no '.join(missing)} on this machine, with which a network is emulated: install "
            f"{packages}"
        )


def check_namespaces() -> None:
    """Refuse a machine that lets this user have no namespaces, or lacks the kernel's parts of a network (UserError)."""
    make = "ip link add tried type bridge && ip link add tried1 type veth peer name tried2"
    shape = "tc qdisc add dev tried1 root tbf rate 1mbit burst 16kb latency 20ms"
    try:
        tried = subprocess.run(
            [*unshare_words(), "sh", "-c", f"{make} && {shape}"],
            check=False,
            env=with_folders_of_root(os.environ),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS_TO_TRY,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(_refusal(str(error))) from error
    if tried.returncode != 0:
        raise UserError(_refusal(next(iter(tried.stderr.strip().splitlines()), f"status {tried.returncode}")))


def _refusal(reason: str) -> str:
    who = "root" if os.geteuid() == 0 else "this user, who is not root,"
    return (
        f"{who} may not make a virtual network here ({harmless(reason)}): emulation needs root, or user namespaces and "
        "the kernel's bridge, veth and tbf (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces; in a "
        "container --privileged)"
    )


def unshare_words() -> list[str]:
    """The program and its options behind which a command is the first process of namespaces of its own."""
    words = ["unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"]
    return words if os.geteuid() == 0 else [*words, "--user", "--map-root-user"]


def start(words: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a command as the first process of new namespaces: it, and all in them, is killed when this process ends."""
    return subprocess.Popen(
        [*unshare_words(), *words],
        env=with_folders_of_root(environment),
        # All in there dies with unshare (--kill-child), and that one with this process.
        preexec_fn=partial(end_with_parent, os.getpid()),  # noqa: PLW1509
    )
