"""How mpirun starts its daemon on a virtual node: in place of ssh, a shell script enters the node's namespaces.

Open MPI calls it as it calls ssh (plm_rsh_agent): options, the host's name, and the words of a command for a shell.
"""

import shlex
from pathlib import Path

JOB_FILES = Path("/dev/shm/flowers-emulation")
"""Where each emulated job mounts a file system of its own, for its small files and those of mpirun: it goes with the
job, and nobody else sees it. Outside it is an empty folder."""
AGENT = JOB_FILES / "on-node"
"""The script."""
NODES = JOB_FILES / "nodes"
"""Folder of files NODE that hold a process id."""

_SCRIPT = """\
#!/bin/sh
while :; do case $1 in -*) shift ;; *) break ;; esac; done
node=$1
shift
process=$(cat {nodes}/"$node") || exit 1
{variables}exec nsenter --target "$process" --net --uts -- /bin/sh -c "$*"
"""


def write_agent(variables: dict[str, str]) -> None:
    """Write the script; `variables` are set for all that it starts."""
    lines = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    AGENT.write_text(_SCRIPT.format(nodes=NODES, variables=lines), encoding="utf-8")
    AGENT.chmod(0o755)
