"""Who holds up a job, judged by what the ranks answer; and what a single rank does where nothing moves."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from horovod_flowers.ranks.stall_status import READERS, Answer, AnswerFolder
from horovod_flowers.ranks.stall_watch import Renewals, longest, why_it_ends
from horovod_flowers.runtime.errors import UserError, cause
from horovod_flowers.runtime.exit import failure, follows_from_another
from horovod_flowers.runtime.heartbeat import Heartbeat
from tests.conftest import clean_environment

HOSTS = ["n1", "n1", "n2"]


def answer(rank: int, *, waits: bool = True, over: bool = True, beat: int = 0, asks: bool = True) -> Answer:
    return Answer(
        rank=rank,
        host=HOSTS[rank],
        beat=beat,
        at="step 7 of epoch 1",
        waits=waits,
        still_seconds=120,
        asks=asks,
        over=over,
    )


def judged(*answers: Answer) -> str | None:
    return why_it_ends(answers[0], {given.rank: given for given in answers}, HOSTS)


def test_a_rank_without_an_answer_is_named_before_all_else() -> None:
    said = judged(answer(0), answer(1, waits=False))
    waits = "rank 0 on n1 has waited for others at step 7 of epoch 1 for 120 s"
    assert said == f"rank 2 on n2 does not respond (stopped, dead or unreachable), and {waits}"


def test_a_rank_that_hangs_is_named_and_those_that_wait_for_it_are_not() -> None:
    said = judged(answer(0), answer(1, waits=False), answer(2))
    assert said == "rank 1 on n1 hangs, not waiting for another rank, at step 7 of epoch 1 for 120 s"


def test_a_rank_that_may_go_on_is_waited_for() -> None:
    assert judged(answer(0), answer(1), answer(2, waits=False, over=False)) is None
    assert judged(answer(0), answer(1), answer(2, over=False)) is None


def test_ranks_that_all_wait_for_each_other_end() -> None:
    said = judged(answer(0), answer(1), answer(2))
    assert said is not None
    assert said.startswith("every rank responds, and all wait for each other")
    assert said.count(" has waited for others at ") == 3


def test_an_answer_counts_while_it_is_renewed() -> None:
    renewals = Renewals(0, silence_seconds=3)
    renewals.take_in({1: answer(1, beat=4), 2: answer(2, beat=9)}, 100)
    assert not renewals.complete(102)  # who has just been asked may still answer
    renewals.take_in({1: answer(1, beat=5), 2: answer(2, beat=9)}, 104)
    assert renewals.complete(104)
    assert set(renewals.fresh(104)) == {1}
    renewals.take_in(None, 105)  # nothing could be read
    assert not renewals.complete(120)
    assert renewals.fresh(105) == {}


def test_ranks_ask_answer_and_leave_nothing(tmp_path: Path) -> None:
    folder = tmp_path / ".stall-run"
    first, second = AnswerFolder(folder, 0), AnswerFolder(folder, 1)
    quiet = second.visit(answer(1, asks=False), False, 10)
    assert quiet is not None
    assert not folder.exists()
    assert first.visit(answer(0), False, 10) is not None
    second.visit(answer(1, asks=False, waits=False), False, 10)
    found = first.visit(answer(0, beat=1), False, 10)
    assert found is not None
    assert found.answers == {0: answer(0, beat=1), 1: answer(1, asks=False, waits=False)}
    first.visit(answer(0, asks=False), False, 10)  # it goes on
    second.visit(answer(1, asks=False), False, 10)
    assert not folder.exists()
    first.close(10)
    second.close(10)


def test_a_file_system_that_blocks_holds_nobody_up(tmp_path: Path) -> None:
    """Reading a pipe that nobody writes into blocks, as a file of a server that is away does."""
    folder = tmp_path / ".stall-run"
    pipe = folder / "answers" / "rank-00001.json"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    answers = AnswerFolder(folder, 0)
    started = time.monotonic()
    assert answers.visit(answer(0), False, 0.2) is None
    assert answers.visit(answer(0), False, 0.2) is None
    assert time.monotonic() - started < 60
    assert answers.failing_seconds >= 0.2
    assert answers.complaint == f"{folder} does not answer"
    with open(pipe, "wb"):  # the server is back
        pass
    deadline = time.monotonic() + 60
    while answers.failing_seconds:
        pipe.unlink(missing_ok=True)
        answers.visit(answer(0), False, 0.2)
        assert time.monotonic() < deadline


def test_a_position_is_told_in_words_and_counts_what_is_begun() -> None:
    position = Heartbeat()
    position.at("step {} of epoch {}", 12, 3)
    with position.waiting():
        assert position.waits
    assert (str(position), position.waits, position.long, position.moves) == ("step 12 of epoch 3", False, False, 3)


def test_what_may_take_long_has_a_minute_at_least() -> None:
    assert [longest(limit) for limit in (0, 4, 120)] == [0, 60, 600]


HANGS = """
import sys, time
from pathlib import Path
from horovod_flowers.runtime.heartbeat import HEARTBEAT
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.single_process import SingleProcess
from horovod_flowers.ranks.stall_watch import StallWatch
with StallWatch("command") as watch:
    watch.begin(Ranks(0, 1, 0, 1, "single", SingleProcess()), Path(sys.argv[1]), float(sys.argv[2]))
    for step in range(8):
        HEARTBEAT.at("step {} of epoch {}", step, 1)
        time.sleep(float(sys.argv[3]))
    print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "status"), [("1", 1), ("0", 0)])
def test_a_single_rank_that_hangs_ends(tmp_path: Path, limit: str, status: int) -> None:
    """A step of two seconds is too long for a limit of one; without a limit it is not, nor are eight short ones."""
    for pause, expected in (("2" if status else "0.3", status), ("0.3", 0)):
        words = [sys.executable, "-c", HANGS, str(tmp_path / ".stall-run"), limit, pause]
        ended = subprocess.run(words, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == expected, ended.stderr
        if expected:
            assert "command: the job has stalled and is ended: rank 0 on " in ended.stderr
            assert " hangs, not waiting for another rank, at step 0 of epoch 1 for 1 s" in ended.stderr
            assert ended.stdout == ""


def test_an_error_of_tensorflow_is_told_in_one_line() -> None:
    page = (
        "Graph execution error:\n\nDetected at node PyFunc defined at (most recent call last):\n<stack traces>\n"
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 4.00 GiB\n\n\n\t [[{{node PyFunc}}]]"
    )
    assert cause(RuntimeError(page)) == "ArrayMemoryError: Unable to allocate 4.00 GiB"
    assert cause(MemoryError()) == "MemoryError"
    said = 'Input 0 of layer "dense" is incompatible with the layer: expected axis -1 to have value 8'
    keras = (
        f"Exception encountered when calling Net.call().\n\n\x1b[1m{said}\x1b[0m\n\nArguments received by Net.call()"
    )
    assert cause(ValueError(f"{keras}:\n  • x=tf.Tensor(shape=(4, 9))")) == f"ValueError: {said}"
    assert cause(UserError("try that")) == "UserError: try that"
    assert "memory ran out: try a smaller batch" in failure(RuntimeError(page))


def test_an_error_that_another_rank_caused_is_known() -> None:
    said = "Horovod has been shut down. This was caused by an exception on one of the ranks or an attempt to"
    assert follows_from_another(RuntimeError(said))
    assert not follows_from_another(RuntimeError("one rank is broken"))


def test_few_of_many_ranks_that_stand_still_ask_and_the_others_read_nothing(tmp_path: Path) -> None:
    """Forty at once: from the second look on four questions are listed by each rank, and four ranks read 40 answers."""
    runs, many = tmp_path / "runs", 40
    runs.mkdir()
    watches = [AnswerFolder(runs / ".stall-x", rank) for rank in range(many)]
    asking = [
        Answer(rank=r, host="n", beat=0, at="s", waits=True, still_seconds=9, asks=True, over=False)
        for r in range(many)
    ]
    for _ in range(2):
        visits = [watch.visit(own, False, 10) for watch, own in zip(watches, asking, strict=True)]
        assert sorted(os.listdir(runs / ".stall-x")) == ["answers", *(f"asks-{rank:05d}" for rank in range(READERS))]
    read = [len(visit.answers) for visit in visits if visit is not None and visit.answers is not None]
    assert read == [many] * READERS
    for watch in watches:
        watch.close(10)
    assert os.listdir(runs) == []
