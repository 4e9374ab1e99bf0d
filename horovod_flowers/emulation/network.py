"""Virtual nodes: each a process in a network namespace and with a host name of its own, linked to one switch.

A node's link is a pair of virtual devices; a token bucket (tc-tbf) at both of its ends limits what it carries in each
direction. The kernels of many machines lack netem, so that latency is what the machine has, and is not added to.
"""

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from horovod_flowers.config.emulated_network import EmulatedNetwork
from horovod_flowers.runtime.errors import UserError, harmless

PREFIX = "flowers-n"
"""Of the nodes' names."""
SWITCH_HOST = "flowers-switch"
"""Name of the host that mpirun runs on, which is none of the nodes."""
SUBNET = "10.79.0"
ADDRESSES = f"{SUBNET}.0/24"
NODE_INTERFACE = "eth0"
PACKET_MARGIN_BYTES = 256
"""Above the largest packet, for what is around it and for tc, which rounds: too small a bucket passes nothing."""
HEADERS_AROUND_BYTES, HEADERS_IN_BYTES = 14, 52
"""Of a packet: Ethernet's, beside what counts in the MTU; and of IP and TCP with its timestamps, which count."""
_SWITCH = "switch"
BURST_SECONDS = 0.0002
"""Of the link's rate that may pass at once after a pause; a packet at least, since a larger one would never pass."""
QUEUED_SECONDS = 0.001
"""Of the link's rate that TCP hands on in one piece: what one connection has in its own node's queue is in the way of
the others' small messages, as is the rest of such a piece on the wire."""
LARGEST_PIECE_BYTES = 65_536
WINDOW_BYTES = 262_144
"""Of a connection on its way: many times what so short a link needs."""
LEAST_QUEUE_BYTES, MOST_QUEUE_BYTES = 2**20, 2**30
"""At each end of a link. With the windows of all nodes it has room for whatever they send to one: nothing is dropped,
so that a transfer takes what its bytes take, and no time in which TCP finds its rate again."""
_CLONE_NEWUTS, _CLONE_NEWNET = 0x04000000, 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def node_name(node: int) -> str:
    """Of a node, counted from 1."""
    return f"{PREFIX}{node}"


def node_address(node: int) -> str:
    """Of a node, counted from 1."""
    return f"{SUBNET}.{node}"


def host_lines(nodes: int) -> str:
    """Lines of /etc/hosts: names and addresses of all."""
    lines = ["127.0.0.1 localhost", f"{SUBNET}.254 {SWITCH_HOST}"]
    lines += [f"{node_address(node)} {node_name(node)}" for node in range(1, nodes + 1)]
    return "\n".join(lines) + "\n"


def make_network(network: EmulatedNetwork) -> list[int]:
    """Make the switch and the nodes in this process's namespaces; process ids of the nodes, in order.

    Raises UserError where the kernel refuses.
    """
    socket.sethostname(SWITCH_HOST)
    nodes = [_Node(number, network) for number in range(1, network.nodes + 1)]
    try:
        _run("ip", ["-batch", "-"], _switch_lines(network, nodes))
        for node in nodes:
            node.go_on()
        for node in nodes:
            node.wait_until_up()
    except BaseException:
        for node in nodes:
            node.end()
        raise
    shape_links(network, [node.process for node in nodes])
    return [node.process for node in nodes]


def shape_links(network: EmulatedNetwork, nodes: Sequence[int]) -> None:
    """Limit what the links carry, both ways. `nodes`: process ids."""
    _run("tc", ["-batch", "-"], [_shaping(network, _port(number)) for number in range(1, len(nodes) + 1)])
    for process in nodes:
        _run("nsenter", ["--target", str(process), "--net", "tc", *_shaping(network, NODE_INTERFACE).split()], [])


def _shaping(network: EmulatedNetwork, device: str) -> str:
    # The rate is that of what packets carry: small ones have the same, though headers are more of them.
    headers = (network.mtu + HEADERS_AROUND_BYTES) / (network.mtu - HEADERS_IN_BYTES)
    bits = round(network.virtual_mbit * 1e6 * headers)
    burst = max(network.mtu + PACKET_MARGIN_BYTES, round(bits / 8 * BURST_SECONDS))
    # Twice a window: the kernel counts its own bookkeeping in windows, and their bytes in queues.
    queue = burst + min(MOST_QUEUE_BYTES, max(LEAST_QUEUE_BYTES, 2 * WINDOW_BYTES * network.ranks))
    return f"qdisc replace dev {device} root tbf rate {bits}bit burst {burst}b limit {queue}b"


def piece_bytes(network: EmulatedNetwork) -> int:
    """That TCP hands to the link at once."""
    least = 2 * network.mtu
    return min(LARGEST_PIECE_BYTES, max(least, round(network.virtual_mbit / 8 * 1e6 * QUEUED_SECONDS)))


def _settings_of_tcp(network: EmulatedNetwork) -> dict[str, str]:
    """Of each node (man 7 tcp; Documentation/networking/ip-sysctl of the kernel)."""
    window = f"4096 {WINDOW_BYTES // 2} {WINDOW_BYTES}"
    return {
        "tcp_limit_output_bytes": str(piece_bytes(network)),
        "tcp_wmem": window,
        "tcp_rmem": window,
        "tcp_slow_start_after_idle": "0",  # steps pause between their calls
    }


def _port(number: int) -> str:
    return f"port{number}"


def _switch_lines(network: EmulatedNetwork, nodes: Sequence["_Node"]) -> list[str]:
    lines = ["link set lo up", f"link add {_SWITCH} type bridge"]
    for node in nodes:
        port = _port(node.number)
        lines += [
            f"link add {port} mtu {network.mtu} type veth peer name {NODE_INTERFACE} mtu {network.mtu} "
            f"netns {node.process}",
            f"link set {port} master {_SWITCH} up",
        ]
    return [*lines, f"addr add {SUBNET}.254/24 dev {_SWITCH}", f"link set {_SWITCH} mtu {network.mtu} up"]


class _Node:
    """A process that holds the namespaces of a node, until it is killed with all others."""

    def __init__(self, number: int, network: EmulatedNetwork) -> None:
        self.number, self._network = number, network
        told, tell = os.pipe()
        self._told_by_us, self._go_on = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            try:
                os.close(told)
                os.close(self._go_on)
                self._be(tell)
            finally:  # not even an exception lets this copy of the program go on
                os._exit(1)
        os.close(tell)
        os.close(self._told_by_us)
        self._told = told
        self._expect("made")

    def go_on(self) -> None:
        """Let the node bring up its interface, which is there by now."""
        os.write(self._go_on, b"g")

    def wait_until_up(self) -> None:
        """Raises UserError where that failed."""
        self._expect("up")

    def end(self) -> None:
        """Kill it."""
        os.kill(self.process, signal.SIGKILL)

    def _expect(self, word: str) -> None:
        said = os.read(self._told, 1000).decode("utf-8", "replace")
        if said != word:
            raise UserError(f"virtual node {self.number} cannot be made: {said or 'its process has ended'}")

    def _be(self, tell: int) -> None:
        try:
            if _LIBC.unshare(_CLONE_NEWUTS | _CLONE_NEWNET) != 0:
                raise UserError(f"unshare: {os.strerror(ctypes.get_errno())}")
            socket.sethostname(node_name(self.number))
            for name, value in _settings_of_tcp(self._network).items():
                Path("/proc/sys/net/ipv4", name).write_text(value, encoding="ascii")
            os.write(tell, b"made")
            os.read(self._told_by_us, 1)
            lines = ["link set lo up", f"addr add {node_address(self.number)}/24 dev {NODE_INTERFACE}"]
            _run(
                "ip",
                ["-batch", "-"],
                [*lines, f"link set {NODE_INTERFACE} gso_max_size {piece_bytes(self._network)} up"],
            )
            os.write(tell, b"up")
        except (OSError, UserError) as error:
            os.write(tell, str(error).encode()[:1000])
            return
        while True:
            signal.pause()


def _run(program: str, words: Sequence[str], lines: Sequence[str]) -> None:
    given = "\n".join(lines)
    done = subprocess.run([program, *words], check=False, input=given, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        reason = next(iter(done.stderr.strip().splitlines()), f"status {done.returncode}")
        raise UserError(f"the virtual network cannot be made: {program}: {harmless(reason)}")


def names_of_nodes(nodes: int) -> list[str]:
    """In order."""
    return [node_name(number) for number in range(1, nodes + 1)]


def write_node_files(folder: Path, processes: Sequence[int]) -> None:
    """A file for each node, of its name, that holds its process id: what remote_start.py looks up."""
    folder.mkdir()
    for number, process in enumerate(processes, 1):
        (folder / node_name(number)).write_text(f"{process}\n", encoding="ascii")
