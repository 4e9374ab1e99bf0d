"""What Open MPI 4 makes of TCP: collective calls on virtual nodes, by setting, number of ranks and size.

python benchmarks/open_mpi_tcp.py --nodes 2,4,8,16 --mbit 200 --repetitions 5

Each cell is the median of the slowest rank's seconds, over those in which the bytes of the call alone would pass
through a link: 2 (N-1)/N of the size for an allreduce, (N-1)/N for the others; an exchange is one message each way.
Each setting has a job of its own. Needs what emulation needs (docs/emulation.md).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mpi4py import MPI

DYNAMIC = ("--mca", "coll_tuned_use_dynamic_rules", "1", "--mca", "coll_tuned_allreduce_algorithm")
PUT, SEND = "send,put,inplace,need-ack,need-csum,hetero-rdma", "send"
SETTINGS = {
    "as it is": (PUT, ()),
    "send": (SEND, ()),
    "send, ring": (SEND, (*DYNAMIC, "4")),
    "send, Rabenseifner": (SEND, (*DYNAMIC, "6")),
    "as it is, ring": (PUT, (*DYNAMIC, "4")),
}
"""btl_tcp_flags, the first being Open MPI's default, and the algorithm of allreduce."""
CALLS = ("allreduce", "reduce_scatter", "allgatherv", "alltoallv", "exchange")


def seconds_of(call: str, size: int, repetitions: int, world: "MPI.Comm") -> tuple[float, float]:
    """Median of the slowest rank's seconds, and the bytes of it that pass a link in each direction."""
    from mpi4py import MPI

    ranks = world.size
    part = max(1, size // 4 // ranks)
    counts, starts = [part] * ranks, [part * rank for rank in range(ranks)]
    whole, result = np.ones(part * ranks, np.float32), np.zeros(part * ranks, np.float32)
    own = np.ones(part, np.float32)
    divided: list[Any] = [whole, counts, starts, MPI.FLOAT]
    calls = {
        "allreduce": lambda: world.Allreduce(whole, result),
        "reduce_scatter": lambda: world.Reduce_scatter(whole, own, counts),
        "allgatherv": lambda: world.Allgatherv(own, [result, counts, starts, MPI.FLOAT]),
        "alltoallv": lambda: world.Alltoallv(divided, [result, counts, starts, MPI.FLOAT]),
        "exchange": lambda: world.Sendrecv(whole, world.rank ^ 1, recvbuf=result, source=world.rank ^ 1),
    }
    seconds = []
    for _ in range(repetitions + 1):
        world.Barrier()
        begun = time.monotonic()
        calls[call]()
        seconds.append(world.allreduce(time.monotonic() - begun, op=MPI.MAX))
    share = {"allreduce": 2 * (ranks - 1) / ranks, "exchange": 1.0}.get(call, (ranks - 1) / ranks)
    return statistics.median(seconds[1:]), share * whole.nbytes


def measure(output: Path, sizes: list[int], repetitions: int) -> None:
    """In a rank: time each call and size; rank 0 writes them."""
    from mpi4py import MPI

    from horovod_flowers.emulation.gauge import CoreReading

    world = MPI.COMM_WORLD
    world.Barrier()
    reading = CoreReading(precedence=True)
    found = [[call, size, *seconds_of(call, size, repetitions, world)] for call in CALLS for size in sizes]
    gauge = reading.until_now()
    waited = world.allreduce(gauge.waited_seconds / gauge.elapsed_seconds, op=MPI.MAX)
    if world.rank == 0:
        output.write_text(json.dumps({"calls": found, "waited": waited}), encoding="utf-8")


def on_nodes(nodes: int, mbit: float, setting: str, words: list[str]) -> dict[str, Any]:
    """Start the ranks, a node each, with a setting; what they measured."""
    from horovod_flowers.config.emulated_network import EmulatedNetwork
    from horovod_flowers.emulation.launcher import on_virtual_nodes

    flags, options = SETTINGS[setting]
    network = EmulatedNetwork(nodes=nodes, mbit=mbit)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "measured.json"
        launcher = on_virtual_nodes(network, ("--mca", "btl_tcp_flags", flags, *options))
        command = launcher.command(nodes, [sys.executable, __file__, "--in-rank", str(output), *words])
        subprocess.run(command, check=True, timeout=1800, stderr=subprocess.DEVNULL)
        measured: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
        return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="4", help="numbers of nodes, a rank on each, separated by commas")
    parser.add_argument("--mbit", type=float, default=200.0, help="of a node's link, each way")
    parser.add_argument("--bytes", default="1024,65536,262144,1000000,4000000", help="sizes, separated by commas")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--in-rank", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = [int(size) for size in given.bytes.split(",")]
    if given.in_rank:
        measure(Path(given.in_rank), sizes, given.repetitions)
        return
    for nodes in map(int, given.nodes.split(",")):
        words = ["--bytes", given.bytes, "--repetitions", str(given.repetitions)]
        found = {setting: on_nodes(nodes, given.mbit, setting, words) for setting in SETTINGS}
        title = f"{nodes} nodes, {given.mbit:g} Mbit/s: seconds over those of the bytes"
        table = Table("call", "bytes", *SETTINGS, title=title)
        for row in zip(*(found[setting]["calls"] for setting in SETTINGS), strict=True):
            ideal = row[0][3] * 8 / given.mbit / 1e6
            table.add_row(row[0][0], f"{row[0][1]:,}", *(f"{seconds / ideal:.2f}" for _, _, seconds, _ in row))
        waited = (f"{found[setting]['waited']:.1%}" for setting in SETTINGS)
        table.add_row("waited for a core", "", *waited)
        Console(width=110).print(table)


if __name__ == "__main__":
    main()
