"""Numbers that go wrong stop all ranks at once, with nothing of it saved, and can be looked at and gone on from."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from horovod_flowers.data.order import epoch_order
from horovod_flowers.data.prepared import open_prepared
from horovod_flowers.runlog.json_lines import read_lines
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.records import Header, StepRecord
from tests.conftest import Ended, Workplace

BATCH, IMAGES = 16, 96
# One thread a rank: sums in the same order, so that the weights can be compared bit by bit.
OPTIONS = ("--global-batch", str(BATCH), "--threads", "1", "--epochs", "2")
MODEL = ("--model.name", "tests.parallel.unhealthy_models:nan_for_one_image")
SOUND = {"POISON": "-1"}


DRIFTING = ("--model.name", "tests.parallel.unhealthy_models:drifting_on_rank_1")


@pytest.fixture(scope="module")
def whole(shared_workplace: Workplace) -> Path:
    """Two epochs of two ranks in which nothing goes wrong; beside it, one in which nobody looks for what does."""
    training = shared_workplace.training
    shared_workplace.run_in_one_job(
        training(*OPTIONS, *MODEL, "--name", "sound", variables=SOUND),
        training(*OPTIONS, *DRIFTING, "--name", "drift-unchecked", "--no-check-weights", "--epochs", "1"),
        ranks=2,
    )
    return shared_workplace.folder / "runs" / "sound"


def poison(workplace: Workplace, step: int, rank: int) -> tuple[int, dict[str, str]]:
    """An image that a rank sees in that step of the first epoch, and the variable that makes its loss no number."""
    image = int(epoch_order(IMAGES, 0, 1)[step * BATCH + rank * BATCH // 2 + 3])
    (folder,) = (path.parent for path in workplace.prepared.glob("objects/*/manifest.json") if _is_tiny(path.parent))
    pixels = open_prepared(folder).image(image)
    return image, {"POISON": str(int(pixels.astype(np.int64).sum()))}


def _is_tiny(folder: Path) -> bool:
    prepared = open_prepared(folder)
    return (prepared.image_size, len(prepared)) == (32, 120)


def steps_of(run: Path, rank: int) -> list[StepRecord]:
    lines = read_lines(run / "steps" / f"rank-{rank:05d}.jsonl", Header | StepRecord)
    return [record for record in lines if isinstance(record, StepRecord)]


def told(ended: Ended) -> str:
    """The one sentence."""
    assert ended.status == 1, ended.output
    assert "Traceback" not in ended.output
    (sentence,) = (line for line in ended.stderr.splitlines() if "horovod_flowers.train: error: " in line)
    return sentence


@pytest.mark.parametrize(("step", "rank"), [(3, 1), (5, 0)])  # within an epoch, and in its last step
def test_a_loss_that_is_no_number_stops_all_ranks_at_one_step(
    shared_workplace: Workplace, whole: Path, step: int, rank: int
) -> None:
    image, variables = poison(shared_workplace, step, rank)
    options = (*OPTIONS, *MODEL, "--name", f"poisoned-{step}", "--checkpoint-steps", "1")
    sentence = told(shared_workplace.train(*options, ranks=2, variables=variables))
    assert f"in step {step} (epoch 1/2, step {step + 1} of 6): nan on rank {rank} (" in sentence
    listed = re.search(r"images ([\d, ]+);", sentence)
    assert listed is not None
    assert image in map(int, listed[1].split(", "))
    assert len(listed[1].split(", ")) == BATCH // 2
    run = shared_workplace.folder / "runs" / f"poisoned-{step}"
    first, second = (steps_of(run, each) for each in (0, 1))
    assert len(first) == len(second) <= step + 2
    assert (first, second)[rank][step].loss is None
    assert (first, second)[1 - rank][step].loss is not None
    for path in run.glob("checkpoints/*"):
        assert all(np.isfinite(value).all() for value in load_file(path).values()), path

    # What it says to type shows which image it is, and changes nothing.
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    words = shlex.split(sentence.split("with: ")[1])
    assert words[:3] == ["mpirun", "-np", "2"]
    with pytest.MonkeyPatch.context() as patch:
        for key, value in variables.items():
            patch.setenv(key, value)
        replayed = shared_workplace.run(*words[:3], "--oversubscribe", *words[3:])
    assert replayed.status == 0, replayed.output
    rows = [line.split("│")[1:-1] for line in replayed.stdout.splitlines() if line.startswith("│")]
    assert [int(cells[0]) for cells in rows if cells[3].strip() == "nan"] == [image]
    assert len(rows) == BATCH
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    # Put right, it goes on in the middle of the epoch as if nothing had been; at another number of ranks, too.
    ranks = 2 if step == 3 else 1
    resumed = shared_workplace.train(*options, "--resume-or-start", ranks=ranks, variables=SOUND)
    assert resumed.status == 0, resumed.output
    reached = re.search(r"resuming after epoch 0, step (\d)", resumed.stdout)  # later where a checkpoint was put off
    assert reached is not None
    assert 1 <= int(reached[1]) <= step
    found = load_file(run / "checkpoints" / "last.safetensors")
    for name, expected in load_file(whole / "checkpoints" / "last.safetensors").items():
        if ranks == 2:
            assert np.array_equal(expected, found[name]), name
        elif name.startswith("weight.") and expected.dtype.kind == "f":
            np.testing.assert_allclose(expected, found[name], rtol=0, atol=1e-4)
    if ranks == 2:
        assert read_run(run).epochs[0].training_loss == pytest.approx(read_run(whole).epochs[0].training_loss)


def test_a_loss_that_is_no_number_ends_ranks_that_train_apart(shared_workplace: Workplace, whole: Path) -> None:
    _, variables = poison(shared_workplace, 2, 1)
    options = (*OPTIONS, *MODEL, "--name", "apart-poisoned", "--strategy", "none")
    assert "nan on rank 1 (" in told(shared_workplace.train(*options, ranks=2, variables=variables))


def test_weights_that_drift_apart_are_found_before_they_are_saved(workplace: Workplace) -> None:
    options = (*OPTIONS, *DRIFTING, "--name", "drift", "--checkpoint-steps", "4")
    sentence = told(workplace.train(*options, ranks=2))
    assert re.search(r"the weights of rank 0 on \S+ and rank 1 on \S+ no longer match after step \d", sentence)
    assert list((workplace.folder / "runs" / "drift").glob("checkpoints/*")) == []


def test_weights_that_drift_apart_are_not_looked_for_where_asked(whole: Path) -> None:
    assert (whole.parent / "drift-unchecked" / "result.json").exists()
