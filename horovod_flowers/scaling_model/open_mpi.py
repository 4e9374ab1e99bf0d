"""Which algorithm Open MPI takes for a call, by its size and the number of ranks.

The thresholds of the fixed decisions of its component 'tuned' (ompi/mca/coll/tuned/coll_tuned_decision_fixed.c since
4.1.0), as far as Horovod's calls need them: MPI_Allreduce, MPI_Reduce_scatter, MPI_Allgatherv and MPI_Alltoallv of
commutative sums. An algorithm can be pinned with coll_tuned_use_dynamic_rules and coll_tuned_OPERATION_algorithm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from horovod_flowers.runlog.records import Operation
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.scaling_model.algorithms import Algorithm

Rows = Sequence[tuple[float, Sequence[tuple[float, Algorithm]]]]
"""(ranks below, [(bytes below, algorithm), ...]), ...; inf for the last."""

_ALL = float("inf")
_RING: Algorithm = "ring"  # Open MPI's segmented ring has the same terms, but for segments of which one is in the air
_DOUBLING: Algorithm = "recursive doubling"
_RABENSEIFNER: Algorithm = "rabenseifner"
_TREES: Algorithm = "reduce and broadcast"
_HALVING: Algorithm = "recursive halving"
_BUTTERFLY: Algorithm = "butterfly"
_BRUCK: Algorithm = "bruck"
_NEIGHBOR: Algorithm = "neighbor exchange"
_GATHER: Algorithm = "gather and broadcast"

_ALLREDUCE: Rows = (
    (4, ((8, _RING), (4096, _DOUBLING), (8192, _RING), (16384, _DOUBLING), (262144, _RING), (_ALL, _RABENSEIFNER))),
    (8, ((16, _RING), (8192, _DOUBLING), (_ALL, _RABENSEIFNER))),
    (16, ((8192, _DOUBLING), (_ALL, _RABENSEIFNER))),
    (32, ((64, _RING), (4096, _DOUBLING), (_ALL, _RABENSEIFNER))),
    (64, ((128, _RING), (_ALL, _RABENSEIFNER))),
    (128, ((262144, _DOUBLING), (_ALL, _RABENSEIFNER))),
    (256, ((131072, _TREES), (262144, _DOUBLING), (_ALL, _RABENSEIFNER))),
    (512, ((4096, _TREES), (_ALL, _RABENSEIFNER))),
    (2048, ((2048, _TREES), (16384, _DOUBLING), (_ALL, _RABENSEIFNER))),
    (4096, ((2048, _TREES), (4096, _RING), (16384, _DOUBLING), (_ALL, _RABENSEIFNER))),
    (_ALL, ((2048, _TREES), (16384, _RING), (32768, _DOUBLING), (_ALL, _RABENSEIFNER))),
)
_REDUCE_SCATTER: Rows = (
    (4, ((65536, _RING), (131072, _BUTTERFLY), (_ALL, _RING))),
    (8, ((8, _TREES), (262144, _HALVING), (_ALL, _RING))),
    (32, ((262144, _HALVING), (_ALL, _RING))),
    (64, ((64, _TREES), (2048, _HALVING), (524288, _BUTTERFLY), (_ALL, _RING))),
    (128, ((256, _TREES), (512, _HALVING), (2048, _BUTTERFLY), (4096, _HALVING), (_ALL, _BUTTERFLY))),
    (256, ((256, _TREES), (512, _HALVING), (_ALL, _BUTTERFLY))),
    (512, ((256, _TREES), (1024, _HALVING), (_ALL, _BUTTERFLY))),
    (1024, ((512, _TREES), (2048, _HALVING), (8192, _BUTTERFLY), (16384, _HALVING), (_ALL, _BUTTERFLY))),
    (2048, ((512, _TREES), (4096, _HALVING), (16384, _BUTTERFLY), (32768, _HALVING), (_ALL, _BUTTERFLY))),
    (4096, ((512, _TREES), (4096, _HALVING), (_ALL, _BUTTERFLY))),
    (_ALL, ((1024, _TREES), (8192, _HALVING), (_ALL, _BUTTERFLY))),
)
_ALLGATHER: Rows = (  # by the bytes of one rank
    (3, ((_ALL, _RING),)),  # two ranks exchange, whatever it is called
    (8, (
        (256, _GATHER), (4096, _NEIGHBOR), (8192, _RING), (16384, _NEIGHBOR), (262144, _BRUCK), (_ALL, _NEIGHBOR),
    )),
    (16, ((1024, _GATHER), (_ALL, _BRUCK))),
    (32, ((128, _GATHER), (262144, _BRUCK), (_ALL, _RING))),
    (64, ((256, _GATHER), (8192, _BRUCK), (_ALL, _RING))),
    (128, ((256, _GATHER), (4096, _BRUCK), (_ALL, _RING))),
    (256, ((1024, _BRUCK), (65536, _NEIGHBOR), (_ALL, _RING))),
    (512, ((1024, _BRUCK), (_ALL, _RING))),
    (1024, ((512, _BRUCK), (1024, _GATHER), (4096, _BRUCK), (1048576, _NEIGHBOR), (_ALL, _RING))),
    (_ALL, ((4096, _BRUCK), (_ALL, _NEIGHBOR))),
)  # fmt: skip
_ALLTOALL: Rows = (
    (4, ((_ALL, "pairwise"),)),
    (64, ((_ALL, "linear"),)),
    (128, ((_ALL, "pairwise"),)),
    (256, ((_ALL, "linear"),)),
    (1024, ((_ALL, "pairwise"),)),
    (_ALL, ((_ALL, "linear"),)),
)
_TABLES: dict[Operation, Rows] = {
    "allreduce": _ALLREDUCE, "reducescatter": _REDUCE_SCATTER, "allgather": _ALLGATHER, "alltoall": _ALLTOALL,
}  # fmt: skip

_NUMBERS: dict[Operation, dict[int, Algorithm]] = {
    "allreduce": {2: _TREES, 3: _DOUBLING, 4: _RING, 5: _RING, 6: _RABENSEIFNER},
    "reducescatter": {1: _TREES, 2: _HALVING, 3: _RING, 4: _BUTTERFLY},
    "allgather": {1: _GATHER, 2: _BRUCK, 3: _RING, 4: _NEIGHBOR},
    "alltoall": {1: "linear", 2: "pairwise"},
}
_PARAMETERS: dict[Operation, str] = {
    "allreduce": "coll_tuned_allreduce_algorithm",
    "reducescatter": "coll_tuned_reduce_scatter_algorithm",
    "allgather": "coll_tuned_allgatherv_algorithm",
    "alltoall": "coll_tuned_alltoallv_algorithm",
}
_YES = ("1", "true", "t", "yes", "enabled")


@dataclass(frozen=True)
class AlgorithmChoice:
    """The algorithm of each call: pinned, or by Open MPI's own decisions."""

    pinned: Mapping[Operation, Algorithm] = field(default_factory=dict)

    def algorithm(self, operation: Operation, size: float, ranks: int) -> Algorithm:
        """Of a call of `size` bytes, its larger side on a rank."""
        if operation in self.pinned:
            return self.pinned[operation]
        basis = size / ranks if operation == "allgather" else size
        rows = next(rows for below, rows in _TABLES[operation] if ranks < below)
        return next(algorithm for below, algorithm in rows if basis < below)

    @property
    def words(self) -> str:
        """For a table or a record."""
        if not self.pinned:
            return "by the fixed decisions of Open MPI 4.1"
        told = ", ".join(f"{operation} {algorithm}" for operation, algorithm in sorted(self.pinned.items()))
        return f"pinned ({told}), all others by the fixed decisions of Open MPI 4.1"


def choice_from_settings(settings: Mapping[str, str]) -> AlgorithmChoice:
    """From MCA parameters by their names, such as coll_tuned_allreduce_algorithm: '4'; others are ignored.

    Raises UserError for a number that this model does not know, or a file of rules, which it does not read.
    """
    if settings.get("coll_tuned_use_dynamic_rules", "").strip().lower() not in _YES:
        return AlgorithmChoice()
    if rules := settings.get("coll_tuned_dynamic_rules_filename", "").strip():
        raise UserError(f"coll_tuned_dynamic_rules_filename is {rules}: the scaling model does not read such rules")
    pinned: dict[Operation, Algorithm] = {}
    for operation, parameter in _PARAMETERS.items():
        number = settings.get(parameter, "0").strip()
        if number == "0":
            continue
        known = _NUMBERS[operation]
        if not number.isdigit() or int(number) not in known:
            listed = ", ".join(f"{key} ({name})" for key, name in known.items())
            raise UserError(f"{parameter} is {number}, which the scaling model does not know: it knows {listed}")
        pinned[operation] = known[int(number)]
    return AlgorithmChoice(pinned)
