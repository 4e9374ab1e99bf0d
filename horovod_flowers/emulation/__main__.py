"""Run a command on a network of virtual nodes, which is made for it and goes with it.

    python -m horovod_flowers.emulation --nodes 4 --mbit 200 -- COMMAND

A study whose job file has a network starts its points so (`study --emulate`), COMMAND being an mpirun.
"""

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from horovod_flowers.config.command_line import parse
from horovod_flowers.config.emulated_network import (
    LEAST_MTU,
    MOST_MBIT,
    MOST_MTU,
    MOST_NODES,
    MOST_RANKS_PER_NODE,
    MOST_SHRINK,
    EmulatedNetwork,
)
from horovod_flowers.config.options import check_limits, option
from horovod_flowers.emulation.launcher import refuse_other_mpi
from horovod_flowers.emulation.waiting import waiting_library
from horovod_flowers.emulation.world import check_namespaces, check_programs, start
from horovod_flowers.mpi.identify import manager_of
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.runtime.machine import STANDS_FOR_VARIABLE, own_process

OF_SCHEDULERS = ("SLURM_", "PBS_", "PMI_", "PMIX_", "OMPI_COMM_WORLD_", "FLOWERS_HOSTS")
"""How variables begin that tell an mpirun of an allocation."""
LAUNCHERS_OF_MPI = ("mpirun", "mpiexec")
CYCLE_MILLISECONDS = "5"
"""Between two looks of Horovod at what is ready, unless it is set: with its usual one of 1 ms, 16 ranks that do nothing
take a third of two cores."""


@dataclass(frozen=True)
class EmulationConfig:
    """The network."""

    nodes: int = option(2, "virtual nodes", at_least=1, at_most=MOST_NODES)
    ranks_per_node: int = option(1, "ranks that there is room for on each", at_least=1, at_most=MOST_RANKS_PER_NODE)
    mbit: float = option(
        1000.0,
        "megabits a second that the link of a node carries in each direction",
        above=0,
        at_most=MOST_MBIT,
        limits=f"give a positive number up to {MOST_MBIT}",
    )
    shrink: float = option(
        1.0,
        "by how much links, and the tensors of what runs on them, are smaller than what they stand for",
        at_least=1,
        at_most=MOST_SHRINK,
    )
    mtu: int | None = option(
        None,
        "largest packet in bytes (default: what a virtual link carries in a millisecond, within these limits)",
        at_least=LEAST_MTU,
        at_most=MOST_MTU,
    )

    def __post_init__(self) -> None:
        check_limits(self)
        try:
            self.network()
        except ValueError as error:
            raise UserError(str(error)) from error

    def network(self) -> EmulatedNetwork:
        """As ranks read it."""
        return EmulatedNetwork(
            nodes=self.nodes,
            ranks_per_node=self.ranks_per_node,
            mbit=self.mbit,
            shrink=self.shrink,
            mtu=self.mtu or 0,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.emulation`: ends with the status of the command."""
    with error_boundary("horovod_flowers.emulation"):
        words = list(sys.argv[1:] if arguments is None else arguments)
        split = words.index("--") if "--" in words else len(words)
        config = parse(EmulationConfig, "horovod_flowers.emulation", __doc__, words[:split])
        command = words[split + 1 :]
        if not command:
            raise UserError("no command is given: add it behind --, such as -- mpirun -np 4 python my_script.py")
        if Path(command[0]).name in LAUNCHERS_OF_MPI and shutil.which(command[0]):
            refuse_other_mpi(manager_of(command[0]))
        network = config.network()
        check_programs()
        check_namespaces()
        raise SystemExit(run_on(network, command))


def variables_of_job(environment: Mapping[str, str]) -> dict[str, str]:
    """Of the processes in there: they are in no allocation, whose nodes mpirun would take; others know them by us."""
    pid, begun, numbers = own_process()
    kept = {name: value for name, value in environment.items() if not name.startswith(OF_SCHEDULERS)}
    if os.geteuid() != 0:  # root in there is nobody else than this user, of whom mpirun asks nothing
        kept |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {"HOROVOD_CYCLE_TIME": CYCLE_MILLISECONDS, **kept, STANDS_FOR_VARIABLE: f"{pid} {begun} {numbers}"}


def run_on(network: EmulatedNetwork, command: Sequence[str]) -> int:
    """Run a command on a new network; its status as a shell tells it."""
    library = waiting_library()
    print(f"emulation: {network}; waiting ranks sleep ({library})", file=sys.stderr, flush=True)
    given = msgspec.json.encode(network).decode()
    first = [sys.executable, "-m", "horovod_flowers.emulation.first_process", given, str(library), *command]
    process = start(first, variables_of_job(os.environ))
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        # A terminal's Ctrl-C reaches the command, too, which ends by it.
        stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN))
        status = process.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    main()
