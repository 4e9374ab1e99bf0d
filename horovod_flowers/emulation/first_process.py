"""The first process of an emulated job's namespaces: makes the network, runs the command, ends all with it.

    python -m horovod_flowers.emulation.first_process NETWORK WAITING_LIBRARY COMMAND...

`horovod_flowers.emulation` starts it: it takes the machine that it runs on for its own.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from horovod_flowers.config.emulated_network import VARIABLE, EmulatedNetwork
from horovod_flowers.emulation import network as virtual
from horovod_flowers.emulation.launcher import SETTINGS
from horovod_flowers.emulation.remote_start import JOB_FILES, NODES, write_agent
from horovod_flowers.emulation.waiting import variables_of_waiting
from horovod_flowers.runtime.errors import UserError, harmless
from horovod_flowers.runtime.exit import error_boundary

WAITING = "waiting.so"


def main(arguments: Sequence[str] | None = None) -> None:
    """Ends with the status of the command, as a shell tells it."""
    with error_boundary("horovod_flowers.emulation"):
        if os.getpid() != 1:
            raise UserError("this is started by python -m horovod_flowers.emulation, in namespaces of its own")
        given, library, *words = sys.argv[1:] if arguments is None else arguments
        network = msgspec.json.decode(given, type=EmulatedNetwork)
        prepare_files(network, library)
        of_mpirun = {f"OMPI_MCA_{name}": value for name, value in SETTINGS.items()}
        raise SystemExit(run(words, {**os.environ, **of_mpirun, VARIABLE: given}))


def prepare_files(network: EmulatedNetwork, library: str) -> None:
    """The network, and what mpirun and the ranks find it by."""
    try:
        JOB_FILES.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make {JOB_FILES} ({error.strerror or error}): it needs a /dev/shm to write in"
        ) from error
    _mount("-t", "tmpfs", "-o", "mode=1777", "flowers", str(JOB_FILES))
    hosts = JOB_FILES / "hosts"
    hosts.write_text(virtual.host_lines(network.nodes), encoding="ascii")
    _mount("--bind", str(hosts), "/etc/hosts")
    virtual.write_node_files(NODES, virtual.make_network(network))
    loaded = shutil.copy(library, JOB_FILES / WAITING)  # a path without the spaces and colons that part a list
    write_agent(variables_of_waiting(str(loaded)))


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], check=False, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise UserError(
            f"the files of the virtual nodes cannot be made ({harmless(' '.join(done.stderr.split()))}): try as root"
        )


def run(words: Sequence[str], environment: dict[str, str]) -> int:
    """Run a command and, as the first process must, take in what others leave behind; its status."""
    try:
        process = subprocess.Popen(words, env=environment)
    except OSError as error:
        raise UserError(f"{words[0]} cannot be started ({error.strerror or error})") from error
    while True:
        ended, status = os.wait()
        if ended == process.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    main()
