"""Start-up decisions that need neither MPI nor a GPU to be checked."""

import numpy as np
import pytest

from horovod_flowers.ranks.communicator import Communicator, Ranks
from horovod_flowers.ranks.gloo import GlooCommunicator
from horovod_flowers.ranks.single_process import SingleProcess
from horovod_flowers.ranks.startup import gpu_of
from horovod_flowers.runtime.errors import UserError


def rank(local_rank: int, local_size: int) -> Ranks:
    return Ranks(local_rank, local_size, local_rank, local_size, "openmpi", SingleProcess())


def test_each_local_rank_gets_its_own_gpu() -> None:
    assert [gpu_of(rank(k, 4), ["gpu0", "gpu1", "gpu2", "gpu3"]) for k in range(4)] == ["gpu0", "gpu1", "gpu2", "gpu3"]


def test_more_ranks_than_gpus_are_refused() -> None:
    with pytest.raises(UserError, match="3 ranks on .*, which has 2 GPUs: start one rank per GPU"):
        gpu_of(rank(2, 3), ["gpu0", "gpu1"])


def test_a_gpu_that_slurm_bound_to_the_task_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_GPUS", "0,1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu_of(rank(1, 2), ["gpu0"]) == "gpu0"


def test_a_rank_alone_talks_to_itself() -> None:
    alone = rank(0, 1)
    assert alone.gather("x") == ["x"]
    assert alone.broadcast("y") == "y"
    assert alone.allreduce_min(3) == 3


def test_a_single_process_answers_every_collective_call() -> None:
    alone: Communicator = SingleProcess()
    own, result = np.arange(3.0), np.zeros(3)
    assert (alone.rank, alone.size, alone.mpi_library) == (0, 1, None)
    assert (alone.allgather("x"), alone.gather("x"), alone.broadcast("x")) == (["x"], ["x"], "x")
    assert alone.split(7).size == 1
    assert alone.start_barrier().done()
    alone.broadcast_array(own)
    for call in (
        lambda: alone.allreduce_sum(own, result),
        lambda: alone.allreduce_max(own, result),
        lambda: alone.start_allreduce_max(own, result).done(),
        lambda: alone.gather_slices(own, [3], result),
        lambda: alone.scatter_slices(own, [3], result),
    ):
        result[:] = -1
        call()
        assert np.array_equal(result, [0, 1, 2])
    with pytest.raises(AssertionError, match="has no rank 1"):
        alone.receive(1)


def test_what_gloo_cannot_do_is_refused_in_one_sentence() -> None:
    gloo: Communicator = GlooCommunicator()
    values = np.zeros(2)
    for call, what in (
        (lambda: gloo.split(0), "groups of ranks"),
        (lambda: gloo.gather_slices(values, [2], values), "weights that are divided over ranks"),
        (lambda: gloo.scatter_slices(values, [2], values), "weights that are divided over ranks"),
        (lambda: gloo.send("x", 1), "messages from one rank to another"),
        (lambda: gloo.receive(1), "messages from one rank to another"),
        (lambda: gloo.send_array(values, 1), "messages from one rank to another"),
        (lambda: gloo.receive_array(values, 1), "messages from one rank to another"),
    ):
        with pytest.raises(UserError, match=f"connected by Gloo, has no {what}: start it with mpirun"):
            call()
