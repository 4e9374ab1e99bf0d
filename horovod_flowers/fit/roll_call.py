"""That all ranks make the same calls in the same order: else they would wait for each other for ever.

Every call that needs all ranks begins with a roll call, and so does the end of the script. Where ranks differ, all of
them know it at once, and one tells which rank is where.
"""

import time
import zlib

import numpy as np

from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.runtime.errors import AgreedError, JobError
from horovod_flowers.runtime.heartbeat import HEARTBEAT

END = "the end of the script"
_SHORTEST_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.0002, 0.02
_MOST_NAMED = 8


class RollCall:
    """Of all ranks, over a communicator that nothing else uses."""

    def __init__(self, ranks: Ranks) -> None:
        """Every rank calls it."""
        self._rank, self._size = ranks.rank, ranks.size
        self._communicator = ranks.communicator.split(0) if ranks.size > 1 else None

    def answer(self, call: str, patience_seconds: float | None = None, left: str | None = None) -> None:
        """Wait until all ranks are there, without occupying a core. `call`: what this one is about to do.

        patience_seconds: how long; None: for ever. left: a call that this rank has left before its end.

        Raises AgreedError, on every rank, where others are about to do something else; JobError where they do not come
        in time.
        """
        if self._communicator is None:
            return
        code = zlib.crc32(call.encode())
        own, largest = np.array([code, -code], np.int64), np.zeros(2, np.int64)
        request = self._communicator.start_allreduce_max(own, largest)
        pause = _SHORTEST_POLL_SECONDS
        with HEARTBEAT.waiting():
            began = time.monotonic()
            while not request.done():
                if patience_seconds is not None and time.monotonic() - began > patience_seconds:
                    raise JobError(
                        f"rank {self._rank} has left {left} by sys.exit and is at {call}, and the others are not: end "
                        "the script on all ranks, or set model.stop_training, which stops them all"
                    )
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_POLL_SECONDS)
            if largest[0] == -largest[1]:
                return
            calls = self._communicator.allgather(call)
        raise AgreedError(
            f"the ranks are at different places of the script: {places(calls)}; every rank has to make the same calls "
            "in the same order: take them out of conditions on the rank"
        )


def places(calls: list[str]) -> str:
    """Which ranks are where, in words: 'rank 0 at fit, ranks 1, 2 at the end of the script'."""
    words = []
    for call in dict.fromkeys(calls):
        ranks = [str(rank) for rank, other in enumerate(calls) if other == call]
        more = f" and {len(ranks) - _MOST_NAMED} more" if len(ranks) > _MOST_NAMED else ""
        words.append(f"rank{'s' * (len(ranks) > 1)} {', '.join(ranks[:_MOST_NAMED])}{more} at {call}")
    return ", ".join(words)
