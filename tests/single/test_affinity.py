"""Cores of each rank from the affinity masks of a node."""

from horovod_flowers.affinity import Cores, share_out, should_yield_when_idle, unbound


def mask(*cores: int) -> frozenset[int]:
    return frozenset(cores)


def test_unbound_ranks_divide_the_node() -> None:
    shares = share_out([mask(*range(8))] * 2)
    assert shares == [Cores((0, 1, 2, 3), False), Cores((4, 5, 6, 7), False)]


def test_an_uneven_division_gives_every_core_once() -> None:
    shares = share_out([mask(*range(7))] * 3)
    assert sorted(core for share in shares for core in share.cores) == list(range(7))
    assert {len(share.cores) for share in shares} == {2, 3}


def test_ranks_bound_apart_keep_their_cores() -> None:
    assert share_out([mask(0, 1), mask(2, 3)]) == [Cores((0, 1), False), Cores((2, 3), False)]


def test_ranks_bound_to_sockets_divide_each_socket() -> None:
    shares = share_out([mask(0, 1), mask(2, 3), mask(0, 1), mask(2, 3)])
    assert [share.cores for share in shares] == [(0,), (2,), (1,), (3,)]
    assert not any(share.oversubscribed for share in shares)


def test_more_ranks_than_cores_are_oversubscribed() -> None:
    shares = share_out([mask(4, 6)] * 8)
    assert [share.cores for share in shares] == [(4,), (6,)] * 4
    assert all(share.oversubscribed for share in shares)


def test_partly_overlapping_masks_are_seen() -> None:
    shares = share_out([mask(0), mask(0, 1)])
    assert [share.oversubscribed for share in shares] == [True, True]


def test_ranks_left_unbound_share_only_where_cores_are_too_few() -> None:
    assert unbound([mask(0, 1)] * 2, 1) == Cores((0, 1), False)
    assert unbound([mask(0, 1)] * 3, 1) == Cores((0, 1), True)
    assert unbound([mask(0), mask(1)], 0) == Cores((0,), False)


def test_waiting_gives_up_the_core_where_none_is_spare() -> None:
    assert should_yield_when_idle(cores=2, ranks=2)
    assert not should_yield_when_idle(cores=16, ranks=2)
