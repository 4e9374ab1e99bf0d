"""The example of a training loop of one's own trains on two ranks what it trains on one."""

from pathlib import Path

from tests.conftest import PROJECT, mpirun, run_command


def losses_of(ranks: int, folder: Path) -> list[float]:
    """Of each epoch, as one rank prints them."""
    ended = run_command(mpirun(ranks, "python", PROJECT / "examples" / "training_loop.py"), folder)
    assert ended.status == 0, ended.output
    lines = [line for line in ended.stdout.splitlines() if line.startswith("epoch ")]
    return [float(line.rpartition(" ")[2]) for line in lines]


def test_two_ranks_train_what_one_trains(tmp_path: Path) -> None:
    alone, together = (losses_of(ranks, tmp_path) for ranks in (1, 2))
    assert len(alone) == len(together) == 3
    assert alone[2] < alone[0] / 2
    assert all(abs(one - other) < 1e-5 for one, other in zip(alone, together, strict=True))
