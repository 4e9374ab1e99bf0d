"""Slices and byte formulas: arithmetic."""

import pytest

from horovod_flowers.runlog.records import CommunicationVolume
from horovod_flowers.strategy.communication_volume import DenseShape, bytes_per_step, factors_send_less, volume_per_step
from horovod_flowers.strategy.layout import EqualSlices, Slice


def test_slices_are_whole_and_nearly_equal() -> None:
    assert list(EqualSlices(10, 4)) == [Slice(0, 3), Slice(3, 3), Slice(6, 2), Slice(8, 2)]
    assert EqualSlices(10, 4, unit=5)[-1] == Slice(40, 10)
    assert EqualSlices(10, 4).sizes == [3, 3, 2, 2]
    with pytest.raises(IndexError):
        EqualSlices(10, 4)[4]
    assert list(EqualSlices(2, 3)) == [Slice(0, 1), Slice(1, 1), Slice(2, 0)]


FLOWER = DenseShape(51_200, 512)


def test_the_flower_cnns_bytes_are_those_of_the_design() -> None:
    """At 32 images a rank and 16 ranks: 197 MB by allreduce, 13 MB where the layer is divided."""
    small = [26_310_725 - 51_200 * 512]
    allreduce = bytes_per_step("allreduce", ranks=16, images=32, small=small, layers=[FLOWER])
    tensor = bytes_per_step("tensor", ranks=16, images=32, small=small, layers=[FLOWER])
    assert allreduce == pytest.approx(197e6, rel=0.01)
    assert 12e6 < tensor < 16e6
    assert bytes_per_step("none", ranks=16, images=32, small=small, layers=[FLOWER]) == 0


def test_a_mesh_lies_between_its_ends() -> None:
    def mesh(group: int) -> float:
        return bytes_per_step("mesh", ranks=64, images=32, small=[], layers=[FLOWER], group=group)

    assert mesh(1) == bytes_per_step("allreduce", ranks=64, images=32, small=[], layers=[FLOWER])
    assert mesh(64) == bytes_per_step("tensor", ranks=64, images=32, small=[], layers=[FLOWER])
    assert mesh(64) < mesh(8) < mesh(1)


def test_factors_are_sent_while_they_are_fewer_bytes() -> None:
    assert factors_send_less(FLOWER, images=32, ranks=2, factor_value_bytes=4, rows_only=False)
    assert factors_send_less(FLOWER, images=32, ranks=16, factor_value_bytes=4, rows_only=False)
    assert not factors_send_less(FLOWER, images=32, ranks=64, factor_value_bytes=4, rows_only=False)
    assert factors_send_less(FLOWER, images=32, ranks=64, factor_value_bytes=4, rows_only=True)
    assert not factors_send_less(DenseShape(128, 64), images=128, ranks=2, factor_value_bytes=4, rows_only=False)


def test_traffic_is_told_by_operation_and_ranks() -> None:
    """Two bf16 layers over groups of two of four ranks, one of them on sequences of three; written out by hand."""
    layers = [DenseShape(100, 10), DenseShape(60, 20, rows=3)]
    found = volume_per_step("mesh", ranks=4, images=8, small=[7, 9], layers=layers, factor_value_bytes=2, group=2)
    units = 8 * 2 * 10 + 24 * 2 * 20
    assert found == [
        CommunicationVolume(operation="allreduce", ranks=4, calls=2, bytes_sent=2 * 3 / 4 * 16 * 4),
        CommunicationVolume(operation="alltoall", ranks=2, calls=4, bytes_sent=2 * (8 * 100 + 24 * 60) / 2 * 2),
        CommunicationVolume(operation="reducescatter", ranks=2, calls=2, bytes_sent=units / 2 * 4),
        CommunicationVolume(operation="allgather", ranks=2, calls=2, bytes_sent=units / 2 * 2),
        CommunicationVolume(operation="allreduce", ranks=2, calls=2, bytes_sent=(100 * 10 + 60 * 20) / 2 * 4),
    ]
    assert volume_per_step("allreduce", ranks=1, images=8, small=[7], layers=layers) == []


@pytest.mark.parametrize(("elements", "parts"), [(10, 4), (12, 4), (3, 8), (7, 1)])
def test_runs_of_equal_slices_are_all_of_them(elements: int, parts: int) -> None:
    slices = EqualSlices(elements, parts, unit=3)
    ends = [run.end for run in slices.runs]
    assert [run.start for run in slices.runs] == [0, *ends[:-1]]
    assert ends[-1] == 3 * elements
    assert [size for run in slices.runs for size in [run.size] * run.count] == [part.size for part in slices]
    assert slices.largest == max(part.size for part in slices)
