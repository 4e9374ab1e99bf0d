"""A program for N ranks: every call of a communicator, over MPI or over Gloo, against what its ranks have to get.

mpirun -np N python -m tests.parallel.communicator_calls mpi OUTPUT
horovodrun --gloo -np N python -m tests.parallel.communicator_calls gloo OUTPUT

Rank 0 writes the name of the library into OUTPUT where every call was right on every rank.
"""

import sys
import time
from pathlib import Path

import numpy as np

from horovod_flowers.ranks.communicator import Communicator, Request
from horovod_flowers.ranks.gloo import GlooCommunicator
from horovod_flowers.ranks.mpi import MpiCommunicator


def wait(request: Request) -> None:
    """Until it is done."""
    while not request.done():
        time.sleep(0.001)


def check_calls_of_all(world: Communicator) -> None:
    """The collective calls that every communicator knows."""
    rank, size = world.rank, world.size
    own: dict[str, object] = {"rank": rank, "more": "x" * 1000 * rank}
    everybody = [{"rank": other, "more": "x" * 1000 * other} for other in range(size)]
    assert world.allgather(own) == everybody
    assert world.gather(own) == (everybody if rank == 0 else None)
    for root in range(size):
        assert world.broadcast(own if rank == root else None, root) == everybody[root]
        for kind in (np.float32, np.float64, np.int64, np.uint8):
            values = np.full(5, rank, kind)
            world.broadcast_array(values, root)
            assert np.array_equal(values, np.full(5, root, kind))
    sums, largest = np.empty(2), np.empty(1, np.int32)
    world.allreduce_sum(np.array([rank, 0.5]), sums)
    assert sums.tolist() == [size * (size - 1) / 2, size / 2]
    wait(world.start_allreduce_max(np.array([10 * rank], np.int32), largest))
    assert largest.tolist() == [10 * (size - 1)]
    furthest = np.empty(2)
    world.allreduce_max(np.array([-rank, 0.25]), furthest)
    assert furthest.tolist() == [0, 0.25]
    wait(world.start_barrier())


def check_groups_and_messages(world: Communicator) -> None:
    """What is there over MPI only."""
    rank, size = world.rank, world.size
    group = world.split(rank % 2)
    assert group.allgather(rank) == list(range(rank % 2, size, 2))
    assert group.rank == rank // 2
    group.free()
    sizes = [other + 1 for other in range(size)]
    ordered = np.repeat(np.arange(size, dtype=np.float32), sizes)
    whole = np.zeros(sum(sizes), np.float32) if rank == 0 else None
    world.gather_slices(np.full(rank + 1, rank, np.float32), sizes, whole)
    if whole is not None:
        assert np.array_equal(whole, ordered)
    own = np.empty(rank + 1, np.float32)
    world.scatter_slices(whole, sizes, own)
    assert np.array_equal(own, np.full(rank + 1, rank))
    received = np.zeros(3, np.uint8)
    if rank == 0:
        world.send("hello", to=1)
        world.receive_array(received, source=1)
        assert received.tolist() == [7, 7, 7]
    elif rank == 1:
        assert world.receive(source=0) == "hello"
        world.send_array(np.full(3, 7, np.uint8), to=0)
    if rank < 2:
        world.exchange_arrays(np.full(3, rank, np.uint8), received, other=1 - rank)
        assert received.tolist() == [1 - rank] * 3


def main() -> None:
    kind, output = sys.argv[1:]
    world: Communicator
    if kind == "mpi":
        world = MpiCommunicator.world()
        check_groups_and_messages(world)
    else:
        import horovod.tensorflow as hvd

        hvd.init()
        world = GlooCommunicator()
    check_calls_of_all(world)
    if all(world.allgather(True)) and world.rank == 0:
        Path(output).write_text(f"{world.size} ranks, {world.mpi_library}")
    wait(world.start_barrier())


if __name__ == "__main__":
    main()
