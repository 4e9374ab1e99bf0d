"""The ranks of a person's script among themselves."""

from horovod_flowers.config.run import HorovodConfig, RunConfig
from horovod_flowers.fit.roll_call import RollCall
from horovod_flowers.ranks.affinity import Cores
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.startup import start_horovod
from horovod_flowers.ranks.stop_request import StopRequest
from horovod_flowers.runtime.errors import UserError

SCRIPT = "the script's own code"
"""Where a rank is outside of all calls of ours."""


class Script:
    """This process among the ranks that run the script."""

    def __init__(self, ranks: Ranks, cores: Cores) -> None:
        self._ranks, self._cores = ranks, cores
        self._horovod: Ranks | None = None
        self._roll_call = RollCall(ranks)
        self.stop_request = StopRequest()
        """Whether this process was asked to stop, from its first fit on."""
        self.left: str | None = None
        """The call that this rank has left before its end, by sys.exit."""

    @property
    def rank(self) -> int:
        """This process, from 0."""
        return self._ranks.rank

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self._ranks.size

    @property
    def local_rank(self) -> int:
        """This process among those of its node, from 0."""
        return self._ranks.local_rank

    @property
    def local_size(self) -> int:
        """How many ranks this node has."""
        return self._ranks.local_size

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0, which prints and writes files."""
        return self._ranks.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks, however long they take. Every rank calls it."""
        self.answer("ranks.barrier()")

    def answer(self, call: str, patience_seconds: float | None = None) -> None:
        """Wait until all ranks are about to make the same call. Raises AgreedError, on every rank, where they are not,
        and JobError where others do not come in time."""
        self._roll_call.answer(call, patience_seconds, self.left)

    def with_horovod(self, model_parallel_size: int | None = None) -> Ranks:
        """The ranks, once Horovod is started; with process sets for a mesh. Every rank calls it.

        model_parallel_size: ranks of a mesh that share one copy of the divided layers; None: those of a node.
        Raises UserError where Horovod was started for others before.
        """
        if self._horovod is None:
            ranks = self._ranks
            if ranks.size > 1:
                local_size = ranks.allreduce_min(ranks.local_size)
                group = RunConfig(strategy="mesh", model_parallel_size=model_parallel_size).model_parallel_size_for(
                    ranks.size, local_size
                )
                ranks = start_horovod(ranks, HorovodConfig(), group)
                self.horovod_started()
            self._horovod = ranks
        elif model_parallel_size not in (None, self._horovod.model_parallel_size):
            raise UserError(
                f"model_parallel_size {model_parallel_size} was asked for, and the ranks of this script are grouped by "
                f"{self._horovod.model_parallel_size} already: give model_parallel_size to the first distribute"
            )
        return self._horovod

    def horovod_started(self) -> None:
        """Called when it has."""

    @property
    def plain(self) -> Ranks:
        """The ranks by MPI alone."""
        return self._ranks
