"""Two jobs in one run: the second is refused and told who is at work; what the first one writes stays whole."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from horovod_flowers import train
from horovod_flowers.runlog.json_lines import read_lines
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.records import EpochRecord
from horovod_flowers.runlog.run_hold import RunHold, lock_of
from tests.conftest import Ended, Workplace, run_command
from tests.parallel.running_job import HOST, training

OPTIONS = ("--global-batch", "16", "--name", "r")


def test_a_run_in_progress_is_held_and_a_dead_one_is_not(
    workplace: Workplace, refused_here: Callable[..., Ended]
) -> None:
    run = workplace.folder / "runs" / "r"
    with training(workplace, *OPTIONS, "--epochs", "400", "--checkpoint-steps", "2") as job:
        job.wait_for("epoch 2/400: ")
        holder = job.rank(0)
        said = f"r is in use by horovod_flowers.train on {HOST} (process {holder.pid}), since 20"
        data = workplace.tiny(*OPTIONS)
        for words in (
            ("train", *data),
            ("train", *data, "--overwrite"),
            ("train", *data, "--resume", "--epochs", "9"),
            ("train", *data, "--resume-or-start", "--epochs", "9"),
            ("train", "--name", "r", "--resume", "--replay-step", "2"),
            ("export", run),
            ("export", run, "--output", workplace.folder / "elsewhere"),
            ("evaluate", run),
            ("evaluate", run, "--output", workplace.folder / "elsewhere"),
        ):
            refused = refused_here(words[0], *words[1:])
            assert refused.status == 2, refused.output
            assert said in refused.stderr
            assert refused.stderr.count("\n") == 1
        launcher = (sys.executable, "-m", "horovod_flowers.launcher", "--ranks", "2", "--oversubscribe", "--")
        command = (sys.executable, "-m", "horovod_flowers.train", *data, "--resume-or-start", "--epochs", "400")
        launched = run_command((*launcher, *command), workplace.folder)
        assert launched.status == 2, launched.output
        assert said in launched.stderr
        assert job.process.poll() is None, job.output
        assert job.rank(0).pid == holder.pid
        holder.kill()
        job.end(30)
    assert lock_of(run).exists()  # left behind by the killed process, and no obstacle
    again = workplace.train(*OPTIONS, "--resume", "--epochs", "400", "--steps", "6", ranks=2)
    assert again.status == 2  # other options: it holds the run no longer than that
    epochs = len(list(read_lines(run / "epochs.jsonl", EpochRecord))) + 1
    again = workplace.train(*OPTIONS, "--resume-or-start", "--epochs", str(epochs), ranks=2)
    assert again.status == 0, again.output
    assert not lock_of(run).exists()
    assert len(read_run(run).epochs) == epochs
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    third = workplace.train(*OPTIONS, "--resume-or-start", "--epochs", str(epochs), ranks=2)
    assert third.status == 0, third.output
    assert "is complete: nothing to do" in third.stdout
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_that_ends_as_the_second_job_looks_at_it(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was seen of the run before it was held does not count."""
    assert workplace.train(*OPTIONS).status == 0
    result = workplace.folder / "runs" / "r" / "result.json"
    written = result.rename(result.with_name("kept"))

    class EndsJustNow(RunHold):
        def take(self, folder: Path, remedy: str) -> None:
            if written.exists():
                written.rename(result)
            super().take(folder, remedy)

    monkeypatch.setattr(train, "RunHold", EndsJustNow)
    monkeypatch.chdir(workplace.folder)
    train.main([str(word) for word in workplace.tiny(*OPTIONS, "--resume-or-start")])
    assert "run runs/r is complete: nothing to do" in capsys.readouterr().out
