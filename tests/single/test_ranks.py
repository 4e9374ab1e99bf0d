"""Start-up decisions that need neither MPI nor a GPU to be checked."""

import pytest

from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.startup import gpu_of
from horovod_flowers.runtime.errors import UserError


def rank(local_rank: int, local_size: int) -> Ranks:
    return Ranks(local_rank, local_size, local_rank, local_size, "openmpi", None)


def test_each_local_rank_gets_its_own_gpu() -> None:
    assert [gpu_of(rank(k, 4), ["gpu0", "gpu1", "gpu2", "gpu3"]) for k in range(4)] == ["gpu0", "gpu1", "gpu2", "gpu3"]


def test_more_ranks_than_gpus_are_refused() -> None:
    with pytest.raises(UserError, match="3 ranks on .*, which has 2 GPUs: start one rank a GPU"):
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
