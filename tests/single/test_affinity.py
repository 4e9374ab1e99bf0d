"""Cores of each rank from the affinity masks of a node."""

from horovod_flowers.ranks.affinity import Cores, share_out, should_yield_when_idle, unbound

ONE_THREAD_A_CORE = {cpu: (0, cpu) for cpu in range(64)}
# The usual numbering with hyperthreads: CPUs 0..15 are the first threads of 16 cores, 16..31 the second ones.
TWO_THREADS_A_CORE = {cpu: (0, cpu % 16) for cpu in range(32)}


def mask(*cores: int) -> frozenset[int]:
    return frozenset(cores)


def cpus(shares: list[Cores]) -> list[tuple[int, ...]]:
    return [share.cpus for share in shares]


def test_unbound_ranks_divide_the_node() -> None:
    shares = share_out([mask(*range(8))] * 2, ONE_THREAD_A_CORE)
    assert shares == [Cores((0, 1, 2, 3), 4, False), Cores((4, 5, 6, 7), 4, False)]


def test_ranks_are_equal_where_the_division_leaves_a_rest() -> None:
    shares = share_out([mask(*range(8))] * 3, ONE_THREAD_A_CORE)
    assert cpus(shares) == [(0, 1), (2, 3), (4, 5)]


def test_hyperthreads_of_a_core_stay_together() -> None:
    shares = share_out([mask(*range(32))] * 2, TWO_THREADS_A_CORE)
    assert shares[0] == Cores((*range(8), *range(16, 24)), 8, False)
    assert shares[1] == Cores((*range(8, 16), *range(24, 32)), 8, False)


def test_ranks_of_one_core_are_put_on_different_cores() -> None:
    shares = share_out([mask(*range(32))] * 2, TWO_THREADS_A_CORE, most=1)
    assert shares == [Cores((0, 16), 1, False), Cores((8, 24), 1, False)]


def test_two_hyperthreads_of_one_core_are_oversubscribed() -> None:
    shares = share_out([mask(0), mask(16)], TWO_THREADS_A_CORE)
    assert [share.oversubscribed for share in shares] == [True, True]


def test_ranks_bound_apart_keep_their_cores() -> None:
    shares = share_out([mask(0, 1), mask(2, 3)], ONE_THREAD_A_CORE)
    assert shares == [Cores((0, 1), 2, False), Cores((2, 3), 2, False)]


def test_ranks_bound_to_sockets_divide_each_socket() -> None:
    shares = share_out([mask(0, 1), mask(2, 3), mask(0, 1), mask(2, 3)], ONE_THREAD_A_CORE)
    assert cpus(shares) == [(0,), (2,), (1,), (3,)]
    assert not any(share.oversubscribed for share in shares)


def test_more_ranks_than_cores_are_oversubscribed() -> None:
    shares = share_out([mask(4, 6)] * 8, ONE_THREAD_A_CORE)
    assert cpus(shares) == [(4,), (6,)] * 4
    assert all(share.oversubscribed for share in shares)


def test_partly_overlapping_masks_are_seen() -> None:
    shares = share_out([mask(0), mask(0, 1)], ONE_THREAD_A_CORE)
    assert [share.oversubscribed for share in shares] == [True, True]


def test_ranks_left_unbound_share_only_where_cores_are_too_few() -> None:
    assert unbound([mask(0, 1)] * 2, ONE_THREAD_A_CORE, 1) == Cores((0, 1), 2, False)
    assert unbound([mask(0, 1)] * 3, ONE_THREAD_A_CORE, 1) == Cores((0, 1), 2, True)
    assert unbound([mask(0), mask(1)], ONE_THREAD_A_CORE, 0) == Cores((0,), 1, False)
    assert unbound([mask(0, 16)] * 2, TWO_THREADS_A_CORE, 0) == Cores((0, 16), 1, True)


def test_waiting_gives_up_the_core_where_none_is_spare() -> None:
    assert should_yield_when_idle(mask=2, online=2, ranks=2)
    assert not should_yield_when_idle(mask=16, online=16, ranks=2)
    assert should_yield_when_idle(mask=16, online=16, ranks=2, most=1)  # pinned to one core each, of many
    assert should_yield_when_idle(mask=1, online=64, ranks=2)  # bound to one core by mpirun
    assert not should_yield_when_idle(mask=4, online=16, ranks=4)  # bound to four cores of its own by Slurm
