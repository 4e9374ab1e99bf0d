"""What a network that blocks makes of collective calls: SimGrid against the formula, for each algorithm.

python benchmarks/topologies.py --ranks 256 --topologies star fat-tree:16:16 fat-tree:16:4 dragonfly:4:8:8:8

Needs SimGrid (tools/simgrid.sh). Bandwidth and latency of a node's link are given; each cell is simulated time over the
formula's, which assumes that nothing blocks.
"""

import argparse
import time

from horovod_flowers.scaling_model.call_model import CallModel
from horovod_flowers.scaling_model.network import parse_network
from horovod_flowers.scaling_model.open_mpi import AlgorithmChoice
from horovod_flowers.scaling_model.simgrid.engine import SimulatedCalls
from horovod_flowers.scaling_model.simgrid.topology import SPELLING, topology_named
from horovod_flowers.scaling_model.step_tasks import Call, RankGroup

ALGORITHMS = (
    ("allreduce", "ring"), ("allreduce", "rabenseifner"), ("allreduce", "recursive doubling"),
    ("reducescatter", "ring"), ("reducescatter", "recursive halving"), ("allgather", "ring"), ("allgather", "bruck"),
    ("alltoall", "pairwise"), ("alltoall", "linear"),
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--ranks", type=int, default=256, help="one a node")
    parser.add_argument("--bytes", type=float, default=105e6, help="of a call, its larger side on a rank")
    parser.add_argument("--network", default="100Gbit,2us", help="rate and latency of a node's link")
    parser.add_argument("--topologies", nargs="+", default=["star", "fat-tree:16:4"], help=SPELLING)
    options = parser.parse_args()
    network = parse_network(options.network)
    print(f"{'':34} {'formula ms':>11} " + " ".join(f"{name:>19}" for name in options.topologies))
    for operation, algorithm in ALGORITHMS:
        model = CallModel.of(network, AlgorithmChoice({operation: algorithm}))
        call = Call(operation, options.bytes, RankGroup(options.ranks))
        formula = model.seconds(call)
        cells = []
        for name in options.topologies:
            started = time.monotonic()
            (seconds,) = SimulatedCalls(model, topology_named(name)).call_seconds([call], options.ranks)
            cells.append(f"{seconds / formula:8.3f} × ({time.monotonic() - started:4.1f} s)")
        print(f"{operation:14} {algorithm:19} {formula * 1e3:11.2f} " + " ".join(f"{c:>19}" for c in cells), flush=True)


if __name__ == "__main__":
    main()
