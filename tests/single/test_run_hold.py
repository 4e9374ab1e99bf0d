"""A run is held by one process at a time: who holds it, when that one counts as dead, and who takes over."""

import errno
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import msgspec
import pytest

from horovod_flowers.config.run import RunConfig
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.single_process import SingleProcess
from horovod_flowers.runlog.holder import STALE_SECONDS, Holder, this_process
from horovod_flowers.runlog.run_hold import RunAtRest, RunHold, check_not_held, holder_of, lock_of
from horovod_flowers.runtime.errors import JobError, UserError
from horovod_flowers.runtime.machine import process_start
from horovod_flowers.training import setup
from tests.single.held_run import another_process

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "r"


def write_lock(run: Path, silent_seconds: float = 0.0, **changes: Any) -> Holder:
    """A lock of a process of another node, unless the changes say otherwise."""
    holder = this_process("horovod_flowers.train", {"SLURM_JOB_ID": "4711", "SLURM_RESTART_COUNT": "1"})
    holder = msgspec.structs.replace(holder, **({"kernel": "another", "host": "far"} | changes))
    lock = lock_of(run)
    lock.write_bytes(msgspec.json.encode(holder))
    then = time.time() - silent_seconds
    os.utime(lock, (then, then))
    return holder


def test_the_second_is_told_who_holds_the_run(run: Path) -> None:
    with another_process(run) as process, RunHold("mine") as hold:
        with pytest.raises(UserError) as refused:
            hold.take(run, "wait for its end")
        said = f"{run} is in use by horovod_flowers.train on {os.uname().nodename} (process {process.pid}), since 20"
        assert str(refused.value).startswith(said)
        assert str(refused.value).endswith(": wait for its end")
        with pytest.raises(UserError, match="is in use by"):
            check_not_held(run, "wait")
        assert not hold.take_if_free(run)
        assert hold.take_if_free(run.with_name("other"))
    assert not lock_of(run.with_name("other")).exists()


def test_a_killed_holder_is_taken_over_at_once(run: Path) -> None:
    """Also one that nobody has waited for yet: a zombie."""
    with another_process(run) as process:
        os.kill(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while holder_of(run) is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.returncode is None
        with RunHold("mine") as hold:
            hold.take(run, "wait")
            assert msgspec.json.decode(lock_of(run).read_bytes(), type=Holder).pid == os.getpid()
    assert list(run.parent.iterdir()) == []


def test_a_later_process_of_the_same_number_is_not_the_holder(run: Path) -> None:
    began, _ = process_start(os.getppid())
    write_lock(run, kernel=this_process("").kernel, pid=os.getppid(), process_start=(began or 0) - 1)
    assert holder_of(run) is None


def test_one_of_another_node_counts_as_dead_once_it_is_silent(run: Path) -> None:
    write_lock(run)
    with RunHold("mine") as hold:
        with pytest.raises(UserError, match=r"on far \(process \d+, Slurm job 4711\), .*last sign of life 0 s ago"):
            hold.take(run, "wait")
        write_lock(run, STALE_SECONDS - 10)
        assert not hold.take_if_free(run)
        write_lock(run, STALE_SECONDS + 1)
        assert hold.take_if_free(run)


def test_the_clock_of_the_node_does_not_matter(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lock(run)
    monkeypatch.setattr(time, "time", lambda: 1e10)
    assert holder_of(run) is not None


def test_a_damaged_lock_counts_by_its_age(run: Path) -> None:
    lock_of(run).write_text("{")
    with RunHold("mine") as hold:
        with pytest.raises(UserError, match="is in use by an unknown process, last sign of life"):
            hold.take(run, "wait")
        os.utime(lock_of(run), (1, 1))
        hold.take(run, "wait")


def test_a_requeued_job_waits_for_its_earlier_attempt_to_count_as_dead(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    write_lock(run, STALE_SECONDS - 1)
    with RunHold("mine") as hold:
        with pytest.raises(UserError, match="is in use by"):  # of the same attempt: a command typed twice
            hold.take(run, "wait")
        write_lock(run, STALE_SECONDS - 1)
        monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
        hold.take(run, "wait")
    assert "is held by an earlier attempt of this job" in capsys.readouterr().out


def test_processes_of_one_elastic_job_hand_it_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_ADDR", "10.0.0.1")
    monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_PORT", "1234")
    write_lock(run, group="10.0.0.1:1234")
    with RunHold("mine", beat_seconds=0.02) as hold:
        hold.take(run, "wait")
        write_lock(run, group="10.0.0.1:1234")
        time.sleep(0.2)  # this process does not end
    assert lock_of(run).exists()  # the other's


def test_without_hard_links(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **options: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with RunHold("mine") as hold:
        hold.take(run, "wait")
        write_lock(run)
        assert not RunHold("other").take_if_free(run)
        write_lock(run, STALE_SECONDS + 1)
        other = RunHold("other")
        assert other.take_if_free(run)
        other.give_up()
    assert list(run.parent.iterdir()) == []


def test_signs_of_life_and_the_loss_of_a_run(run: Path) -> None:
    """A process that was frozen for long finds that another has the run, and ends."""
    with another_process(run) as process:
        lock = lock_of(run)
        os.utime(lock, (1, 1))
        deadline = time.monotonic() + 60
        while lock.stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        lock.unlink()  # by hand: it is made again
        while not lock.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        written = run.with_name("written")
        written.write_bytes(msgspec.json.encode(msgspec.structs.replace(this_process("b"), kernel="another")))
        written.rename(lock)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 1
        assert f"{run} was taken over by b on" in stderr
        assert lock.exists()


def contend(run: Path, barrier: Barrier, rounds: int, winners: Any) -> None:
    for number in range(rounds):
        hold = RunHold("contender")
        barrier.wait(60)
        if hold.take_if_free(run):
            winners[number] += 1  # one process at a time, if the lock is one
        barrier.wait(60)
        hold.give_up()
        if barrier.wait(60) == 0 and number % 2 == 0:
            write_lock(run, STALE_SECONDS + 1)


def test_one_of_many_takes_a_run_that_is_free_or_was_left(run: Path) -> None:
    rounds, contenders = 40, 6
    barrier, winners = FORK.Barrier(contenders), FORK.Array("i", rounds)
    processes = [FORK.Process(target=contend, args=(run, barrier, rounds, winners)) for _ in range(contenders)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert winners[:] == [1] * rounds
    assert {path.name for path in run.parent.iterdir()} <= {lock_of(run).name}


class OneSecond(setup.datetime.datetime):
    @classmethod
    def now(cls, tz: Any = None) -> "OneSecond":
        return cls(2026, 1, 2, 3, 4, 5)


def name_one(runs_dir: Path, barrier: Barrier, names: Any) -> None:
    setup.datetime.datetime = OneSecond  # type: ignore[misc]
    ranks = Ranks(0, 1, 0, 1, "single", SingleProcess())
    with RunHold("train") as hold:
        barrier.wait(60)
        names.put(setup.with_name(replace(RunConfig(), runs_dir=str(runs_dir)), ranks, hold).name)
        barrier.wait(60)


def test_unnamed_runs_of_one_second_get_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "20260102-030405-1ranks-2").mkdir()
    barrier, names = FORK.Barrier(4), FORK.Queue()
    processes = [FORK.Process(target=name_one, args=(tmp_path, barrier, names)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [names.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    first = "20260102-030405-1ranks"
    assert sorted(found) == [first, *(f"{first}-{number}" for number in (3, 4, 5))]


def test_a_run_that_is_trained_while_it_is_read(run: Path) -> None:
    run.mkdir()
    checkpoint = run / "best.safetensors"
    checkpoint.write_text("a")
    at_rest = RunAtRest(run, checkpoint)
    at_rest.check()
    written = run / "next"
    written.write_text("b")
    written.rename(checkpoint)
    with pytest.raises(JobError, match="was trained further or replaced while it was read: nothing was written"):
        at_rest.check()
    at_rest = RunAtRest(run, checkpoint)
    write_lock(run)
    with pytest.raises(JobError, match="was trained further"):
        at_rest.check()
    with pytest.raises(UserError, match="is in use by"):
        RunAtRest(run, checkpoint)
