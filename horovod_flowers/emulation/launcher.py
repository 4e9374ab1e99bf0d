"""mpirun on virtual nodes: the network is made for the job, and its command stands around mpirun's."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from horovod_flowers.config.emulated_network import EmulatedNetwork
from horovod_flowers.emulation.network import ADDRESSES, names_of_nodes
from horovod_flowers.emulation.remote_start import AGENT, JOB_FILES
from horovod_flowers.emulation.waiting import waiting_library
from horovod_flowers.emulation.world import check_namespaces, check_programs
from horovod_flowers.launch.launchers import Mpirun, find_program
from horovod_flowers.launch.open_mpi_tcp import SWITCH
from horovod_flowers.launch.slots import Slots
from horovod_flowers.mpi.identify import manager_of
from horovod_flowers.mpi.open_mpi import OpenMpiRun
from horovod_flowers.mpi.process_manager import ProcessManager
from horovod_flowers.runtime.errors import UserError

SETTINGS = {
    "plm": "rsh",
    "plm_rsh_agent": str(AGENT),
    "plm_rsh_no_tree_spawn": "1",
    "oob_tcp_if_include": ADDRESSES,
    "btl_tcp_if_include": ADDRESSES,
    "pml": "ob1",
    "btl": "self,tcp",
    "orte_tmpdir_base": str(JOB_FILES),
    # The three by which a waiting rank sleeps (waiting.c).
    "mpi_yield_when_idle": "1",
    "opal_event_include": "epoll",
    "btl_tcp_progress_thread": "0",
}
"""Of Open MPI: how it reaches the nodes, and TCP between all ranks.

Also between those of one node, through its loopback device: a rank that sleeps is woken by TCP, where shared memory has
to be looked at now and then. Measured: 0.09 ms instead of 0.56 for a small message; 8 ranks take 0.19 cores, not 0.29.
"""


@dataclass(frozen=True)
class VirtualNodes(Mpirun):
    """mpirun inside of the emulation's command."""

    network: EmulatedNetwork = field(kw_only=True)

    def check(self, ranks: int, words: Sequence[str] = ()) -> None:
        """Refuse more ranks than there is room for (UserError)."""
        if not self.fits(ranks):
            raise UserError(
                f"{ranks} ranks do not fit on the network of {self.network.nodes} nodes with room for "
                f"{self.network.ranks_per_node} each: raise nodes or ranks_per_node, or start fewer ranks"
            )

    def transport_words(self, manager: ProcessManager, nodes: int, environment: Mapping[str, str]) -> list[str]:
        """As between real nodes whose links are no faster than TCP."""
        refuse_other_mpi(manager)
        given = environment.get(SWITCH, "").strip().lower() or "auto"
        told = {**environment, SWITCH: "1" if given == "auto" else given}
        return super().transport_words(manager, nodes, told)

    def start_words(self, ranks: int, environment: Mapping[str, str]) -> list[str]:
        """The emulation's command, behind which mpirun's stands."""
        around = [sys.executable, "-m", "horovod_flowers.emulation", *emulation_options(self.network), "--"]
        settings = [word for name, value in SETTINGS.items() for word in ("--mca", name, value)]
        return [*around, *super().start_words(ranks, environment), *settings]


def on_virtual_nodes(network: EmulatedNetwork, options: tuple[str, ...] = ()) -> VirtualNodes:
    """The launcher for a network. `options`: words for mpirun behind ours."""
    nodes = tuple((name, network.ranks_per_node) for name in names_of_nodes(network.nodes))
    return VirtualNodes(Slots(nodes, "hosts"), False, options, network=network)


def refuse_other_mpi(manager: ProcessManager) -> None:
    """Refuse another mpirun than that of Open MPI 4, whose settings lead it to virtual nodes (UserError)."""
    if not (isinstance(manager, OpenMpiRun) and manager.is_4):
        raise UserError(
            f"virtual nodes are reached with the mpirun of Open MPI 4, and {manager.program} is {manager.summary}: "
            "activate an environment of Open MPI 4, such as the one that ./flowers makes by default"
        )


def check_can_emulate() -> None:
    """Refuse a machine that lacks what emulation needs (UserError); builds what lets waiting ranks sleep."""
    check_programs()
    check_namespaces()
    refuse_other_mpi(manager_of(find_program(VirtualNodes.name)))
    waiting_library()


def emulation_options(network: EmulatedNetwork) -> list[str]:
    """Of `python -m horovod_flowers.emulation`, those that are not as by default."""
    words = ["--nodes", str(network.nodes), "--ranks-per-node", str(network.ranks_per_node)]
    words += ["--mbit", _digits(network.mbit)]
    words += ["--shrink", _digits(network.shrink)] if network.shrink != 1 else []
    return words + (["--mtu", str(network.mtu)] if network.mtu != network.usual_mtu else [])


def _digits(number: float) -> str:
    """All of them: a study compares its network with what its runs have recorded."""
    return repr(float(number)).removesuffix(".0")
