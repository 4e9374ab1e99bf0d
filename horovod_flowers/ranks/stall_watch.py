"""Ends a job in which nothing moves any more, and says which rank it is.

A rank that is stopped, dead or cut off makes all others wait, in MPI or Horovod, for ever: Horovod's own check needs
every rank's background thread. So each rank has a watch, a thread that looks now and then whether the main one has
begun anything new (position.py). A rank that has stood still for half of the limit asks the others, by files
(stall_status.py). At its limit it reads what they answer. Where a rank gives no answer, or is over its own limit
without waiting for anybody, or all wait for each other, the job ends; as long as the others answer that they move, it
waits. Without anybody asking, each look costs opening one folder.

No MPI here: its calls would hang, too.
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.stall_status import Answer, AnswerFolder
from horovod_flowers.runtime.exit import EXIT_FAILURE
from horovod_flowers.runtime.heartbeat import HEARTBEAT, Heartbeat

LOOKS = 8
"""Of a rank at itself and at the folder, in a limit."""
SILENT_LOOKS = 3
"""A rank whose answer was not renewed in the time of so many looks does not answer."""
SECONDS_A_TURN = 4.0
"""How long each rank leaves it to the one before it to speak for all; launchers take two seconds to end a rank."""
MOST_TURNS = 5
SECONDS_TO_SPEAK = 10.0
"""For the sentence to get out; then the process ends without it."""
MOST_NAMED = 8
LEAST_LONG_SECONDS = 60.0
SECONDS_TO_LEAVE = 2.0
"""For taking files away at the end, where a file system may block."""


class StallWatch:
    """The watch of one rank. Use as a context manager around everything; it watches from `begin` on."""

    def __init__(
        self, command: str, heartbeat: Heartbeat = HEARTBEAT, to_allow_longer: str = "raise --stall-seconds"
    ) -> None:
        self._command, self._heartbeat, self._to_allow_longer = command, heartbeat, to_allow_longer
        self._over = threading.Event()
        self._others_are_left = False
        self._thread: threading.Thread | None = None

    def begin(self, ranks: Ranks, folder: Path, limit_seconds: float) -> None:
        """Watch this rank through `folder`, which no other job uses, in one that all nodes see. 0 seconds: do not.

        Every rank calls it.
        """
        hosts = ranks.allgather(os.uname().nodename)
        if ranks.rank == 0:  # an earlier job's
            shutil.rmtree(folder, ignore_errors=True)
        ranks.barrier()
        self._others_are_left = ranks.size > 1
        if limit_seconds:
            watched = (ranks.rank, hosts, folder, limit_seconds)
            self._thread = threading.Thread(target=self._watch, args=watched, name="stall watch", daemon=True)
            self._thread.start()

    def __enter__(self) -> "StallWatch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(2 * SECONDS_TO_LEAVE)
        if isinstance(error, SystemExit) and self._others_are_left:
            raise RuntimeError(f"this rank alone ended itself ({error!r}) at {self._heartbeat}") from error

    def _watch(self, rank: int, hosts: Sequence[str], folder: Path, limit: float) -> None:
        look, still, moves, last = limit / LOOKS, 0.0, self._heartbeat.moves, time.monotonic()
        answers = AnswerFolder(folder, rank)
        renewals = Renewals(rank, look * SILENT_LOOKS)
        for beat in range(2**63):
            if self._over.wait(look):
                break
            now, moves_before, moves = time.monotonic(), moves, self._heartbeat.moves
            # At most two looks' time: a process that was stopped for an hour, its watch with it, did not hang.
            stands = moves == moves_before and (self._heartbeat.waits or not self._heartbeat.away)
            still = still + min(now - last, 2 * look) if stands else 0.0
            last, patient = now, longest(limit) if self._heartbeat.long else limit
            own = Answer(
                rank=rank,
                host=hosts[rank],
                beat=beat,
                at=str(self._heartbeat),
                waits=self._heartbeat.waits,
                still_seconds=still,
                asks=still >= limit / 2,
                over=still >= patient,
            )
            if len(hosts) > 1:
                visit = answers.visit(own, still >= 2 * patient, look)
                renewals.take_in(visit.answers if visit else None, now)
            reason = None
            if own.over and answers.failing_seconds >= limit:
                reason, turn = f"{answers.complaint}, and {_where(own)}", rank
            elif own.over and (len(hosts) == 1 or renewals.complete(now)):
                fresh = {**renewals.fresh(now), rank: own}
                reason, turn = (
                    why_it_ends(own, fresh, hosts),
                    sum(other < rank and fresh[other].asks for other in fresh),
                )
            if reason is not None:
                self._end(reason, turn, moves)
        answers.close(SECONDS_TO_LEAVE)

    def _end(self, reason: str, turn: int, moves: int) -> None:
        """End this process, whatever its main thread is in, and the job with it; the first rank speaks for all."""
        if self._over.wait(min(turn, MOST_TURNS) * SECONDS_A_TURN) or self._heartbeat.moves != moves:
            return
        timer = threading.Timer(SECONDS_TO_SPEAK, os._exit, (EXIT_FAILURE,))
        timer.daemon = True
        timer.start()
        message = (
            f"{self._command}: the job has stalled and is ended: {reason}; to allow longer, {self._to_allow_longer}"
        )
        print(message, file=sys.stderr, flush=True)
        os._exit(EXIT_FAILURE)  # the launcher ends the others, stopped ones too


def longest(limit: float) -> float:
    """Seconds that what may take long may take (Position.long), from the limit for all else; 0 where that is 0."""
    return max(5 * limit, LEAST_LONG_SECONDS) if limit else 0.0


class Renewals:
    """When each rank's answer was seen to be a new one, by the clock of this rank alone."""

    def __init__(self, own_rank: int, silence_seconds: float) -> None:
        self._own_rank, self._silence = own_rank, silence_seconds
        self._since: float | None = None
        self._seen: dict[int, tuple[Answer, float]] = {}

    def take_in(self, answers: Mapping[int, Answer] | None, now: float) -> None:
        """What was read just now; None where nothing was, so that all that was known is too old."""
        if answers is None:
            self._since, self._seen = None, {}
            return
        self._since = now if self._since is None else self._since
        for rank, answer in answers.items():
            if rank not in self._seen or self._seen[rank][0].beat != answer.beat:
                self._seen[rank] = (answer, now)

    def complete(self, now: float) -> bool:
        """Whether each rank had the time to answer."""
        return self._since is not None and now - self._since > self._silence

    def fresh(self, now: float) -> dict[int, Answer]:
        """The answers of those that do."""
        return {rank: answer for rank, (answer, seen) in self._seen.items() if now - seen <= self._silence}


def why_it_ends(own: Answer, answers: Mapping[int, Answer], hosts: Sequence[str]) -> str | None:
    """Which rank holds up all others; None where one that answers may bring the job on.

    answers: of the ranks that gave one, by rank, this rank's (`own`) among them; hosts: of all ranks.
    """
    missing = [rank for rank in range(len(hosts)) if rank not in answers]
    if missing:
        does = "does" if len(missing) == 1 else "do"
        return f"{_named(missing, hosts)} {does} not respond (stopped, dead or unreachable), and {_where(own)}"
    stuck = [answer for answer in answers.values() if answer.over and not answer.waits]
    if stuck:
        return "; ".join(_where(answer) for answer in stuck[:MOST_NAMED])
    if all(answer.over for answer in answers.values()):
        where = "; ".join(_where(answer) for answer in list(answers.values())[:MOST_NAMED])
        return f"every rank responds, and all wait for each other, as when the network carries nothing: {where}"
    return None


def _where(answer: Answer) -> str:
    what = "has waited for others" if answer.waits else "hangs, not waiting for another rank,"
    return f"rank {answer.rank} on {answer.host} {what} at {answer.at} for {answer.still_seconds:.0f} s"


def _named(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    words = [f"rank {rank} on {hosts[rank]}" for rank in ranks[:MOST_NAMED]]
    more = len(ranks) - len(words)
    return ", ".join(words) + (f" and {more} more" if more else "")
