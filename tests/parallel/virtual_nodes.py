"""What ranks on virtual nodes see and measure: one job for all questions; rank 0 writes the answers as JSON.

mpirun ... python virtual_nodes.py FILE
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

from horovod_flowers.config.emulated_network import emulated_network
from horovod_flowers.emulation.gauge import CoreReading
from horovod_flowers.launch.job_environment import JobEnvironment

MESSAGE_BYTES = 1_000_000
REDUCED_BYTES = 1_200_000
CALLS = 3


def seconds_of_message(world: MPI.Comm) -> float:
    """The least of the times that a message takes from rank 0 to the last rank."""
    sent, received, seconds = np.ones(MESSAGE_BYTES, np.uint8), np.zeros(MESSAGE_BYTES, np.uint8), []
    for _ in range(CALLS):
        world.Barrier()
        begun = time.monotonic()
        if world.rank == 0:
            world.Send(sent, world.size - 1)
        elif world.rank == world.size - 1:
            world.Recv(received, 0)
        world.Barrier()
        seconds.append(time.monotonic() - begun)
    assert world.rank != world.size - 1 or received.all()
    return min(seconds)


def seconds_of_allreduce(world: MPI.Comm) -> float:
    """The least of the times that a reduction takes."""
    values, sums, seconds = np.ones(REDUCED_BYTES // 4, np.float32), np.zeros(REDUCED_BYTES // 4, np.float32), []
    for _ in range(CALLS):
        world.Barrier()
        begun = time.monotonic()
        world.Allreduce(values, sums)
        seconds.append(world.allreduce(time.monotonic() - begun, op=MPI.MAX))
        assert (sums == world.size).all()
    return min(seconds)


def idle_cpu_seconds(world: MPI.Comm, pause: float) -> float:
    """What a rank takes while it waits for rank 0 to come."""
    world.Barrier()
    begun = time.process_time()
    if world.rank == 0:
        time.sleep(pause)
    world.Barrier()
    return time.process_time() - begun


def main() -> None:
    world = MPI.COMM_WORLD
    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    job = JobEnvironment.from_environment(os.environ)
    network = emulated_network()
    reading = CoreReading(precedence=False)
    own = {
        "host": os.uname().nodename,
        "node": [node.rank, node.size],
        "told": [job.local_rank, job.local_size],
        "mbit": None if network is None else network.mbit,
        "message_seconds": seconds_of_message(world),
        "allreduce_seconds": seconds_of_allreduce(world),
        "idle_cpu_seconds": idle_cpu_seconds(world, pause=2.0),
    }
    gauge = reading.until_now()
    own |= {"elapsed": gauge.elapsed_seconds, "waited": gauge.waited_seconds, "cpu": gauge.cpu_seconds}
    gathered = world.gather(own)
    if gathered is not None:
        Path(sys.argv[1]).write_text(json.dumps(gathered), encoding="utf-8")


if __name__ == "__main__":
    main()
