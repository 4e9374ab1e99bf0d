"""From what ranks saw to problems with remedies."""

from dataclasses import replace

import pytest

from horovod_flowers.mpi.intel_mpi import IntelMpi
from horovod_flowers.mpi.library import MpiLibrary
from horovod_flowers.mpi.mpich import Mpich
from horovod_flowers.mpi.open_mpi import OpenMpi
from horovod_flowers.preflight.link import Link, Neighbours
from horovod_flowers.preflight.problems import Finding, Limits, find
from horovod_flowers.preflight.rank_facts import RankFacts, of_nodes
from horovod_flowers.ranks.affinity import Cores


def look(rank: int, host: str = "n1", cpu: int | None = None) -> RankFacts:
    """A rank on a core of its own of a node of eight cores, four ranks a node."""
    own = rank % 4 if cpu is None else cpu
    return RankFacts(
        rank=rank,
        local_rank=rank % 4,
        host=host,
        machine=host,
        bound_to=tuple(range(8)),
        cores=Cores((own,), 1, False),
        threads=1,
        memory_bytes=2**35,
        cpu_quota=None,
        cpu_features=("avx2",),
        gpus=0,
        versions={"numpy": "2.0.2"},
        sources="a",
        python="/usr/bin/python3",
        clock_offset_seconds=0.0,
        digest="d",
    )


def job(nodes: int = 2) -> list[RankFacts]:
    return [look(rank, f"n{rank // 4 + 1}") for rank in range(4 * nodes)]


FAST = Link(1e-4, 1e9, ())


def problems(looks: list[RankFacts], link: Link | None = FAST, limits: Limits | None = None) -> list[Finding]:
    limits = limits or Limits(least_bytes_per_second=1e8, most_latency_seconds=0.005)
    return [finding for finding in find(looks, link, ("mpi",), limits) if finding.remedy is not None]


def test_a_sound_job_is_ready() -> None:
    assert find(job(), FAST, ("mpi",), Limits()) == []


def test_each_problem_is_named_with_its_remedy() -> None:
    sound = job()
    for changed, text, remedy in (
        ({"versions": {"numpy": "1.26"}}, "numpy differs: 2.0.2 on n1, n2; 1.26 on n2", "same environment"),
        ({"sources": "b"}, "the code of horovod_flowers on n2 is not that on n1", "same environment"),
        ({"python": "/other"}, "different Pythons: /other, /usr/bin/python3", "same environment"),
        ({"threads": 3}, "more threads than cores: rank 7 on n2 has 1 core and starts 3 threads", "--threads 1"),
        ({"memory_bytes": 2**32}, "n2 has 4.0 GiB of memory left for 4 ranks, and each needs about 1.5", "--mem"),
        ({"cpu_quota": 2.0}, "n2 may use 2 cores' worth of time, and its ranks take 4 CPUs", "CPU limit"),
        ({"data": "cannot read x: share it"}, "n2: cannot read x", "share it"),
        ({"scarce": ("/tmp has 0.5 MiB free, and 64 are needed",)}, "n2: /tmp has 0.5 MiB free", "set TMPDIR"),
        ({"runs_dir": "does not see runs"}, "n2: does not see runs", "--runs-dir"),
        ({"clock_offset_seconds": -7.0}, "the clock of n2 is 7.0 s behind that of n1", "chronyd"),
        ({"gpus": 1}, "Horovod was built without NCCL", "HOROVOD_GPU_OPERATIONS=NCCL"),
    ):
        (found,) = problems([*sound[:-1], replace(sound[-1], **changed)])
        assert text in found.text
        assert remedy in str(found.remedy)


def test_two_ranks_bound_to_one_core() -> None:
    bound = [replace(seen, bound_to=(seen.rank % 4,)) for seen in job(1)]
    pair = [replace(seen, bound_to=(0,), cores=Cores((0,), 1, True)) for seen in bound[:2]]
    (found,) = problems([*pair, *bound[2:]])
    assert found.text.startswith("oversubscribed: ranks 0, 1 on n1 share cores")
    assert "mpirun --bind-to none, srun --cpu-bind=none" in str(found.remedy)
    limits = Limits(oversubscribe=True)
    assert problems([*pair, *bound[2:]], limits=limits) == []
    assert find([*pair, *bound[2:]], FAST, ("mpi",), limits)[0].text == found.text  # still said


def test_nodes_that_are_one_machine_share_its_cores() -> None:
    shared = [replace(seen, machine="m", cores=Cores((seen.rank % 4,), 1, True)) for seen in job()]
    (found,) = problems(shared)
    assert "on n1, n2, which are one machine, share cores" in found.text


def test_cores_that_idle_are_worth_a_note() -> None:
    bound = [replace(seen, bound_to=(seen.rank % 4,)) for seen in job()]
    assert problems(bound) == []
    (note,) = find(bound, FAST, ("mpi",), Limits())
    assert note.text.startswith("the launcher bound each rank to one core")
    by_intel = [replace(seen, pinned_by_mpi=True) for seen in bound]
    (note,) = find(by_intel, FAST, ("mpi",), Limits(), IntelMpi("2021.18"))
    assert note.text.startswith(
        "Intel MPI by itself, as it does unless told otherwise (I_MPI_PIN=0 in the environment, "
    )


@pytest.mark.parametrize(
    ("library", "interface", "binding"),
    [
        (OpenMpi("4.1.8"), "OMPI_MCA_btl_tcp_if_include=NAME", "mpirun --bind-to none, srun"),
        (Mpich("5.0.2"), "UCX_NET_DEVICES=NAME", "mpirun -bind-to none, srun"),
        (IntelMpi("2021.18"), "FI_TCP_IFACE=NAME", "I_MPI_PIN=0 in the environment, srun"),
    ],
)
def test_remedies_are_in_the_words_of_the_ranks_mpi(library: MpiLibrary, interface: str, binding: str) -> None:
    limits = Limits(least_bytes_per_second=1e8)
    (found,) = [each for each in find(job(), Link(1e-4, 5e7, ()), ("mpi",), limits, library) if each.remedy]
    assert interface in str(found.remedy)
    bound = [replace(seen, bound_to=(0,), cores=Cores((0,), 1, True)) for seen in job(1)[:2]]
    (found,) = [each for each in find(bound, FAST, ("mpi",), limits, library) if each.remedy]
    assert binding in str(found.remedy)


@pytest.mark.parametrize(("both_ways", "told"), [(1.0, False), (1.2, False), (1.9, True)])
def test_directions_of_tcp_that_take_turns(both_ways: float, told: bool) -> None:
    link = Link(1e-4, 1e9, tuple(Neighbours(f"n{k}", f"n{k + 1}", 1e-5, 1e9, both_ways) for k in range(3)))
    over_tcp = [replace(seen, interfaces=("TCP eth0 1 Gbit/s",)) for seen in job()]
    notes = find(over_tcp, link, ("mpi",), Limits())
    assert all(note.remedy is None for note in notes)
    said = [note.text for note in notes if "take turns" in note.text]
    assert [("1.9 times as long" in text, "FLOWERS_TCP_SETTINGS=1" in text) for text in said] == [(True, True)] * told
    assert not any("take turns" in note.text for note in find(job(), link, ("mpi",), Limits()))  # not over TCP


@pytest.mark.parametrize(
    ("link", "text"),
    [
        (Link(1e-4, 5e7, ()), "allreduce moves 0.05 GB/s, below the 0.1 asked for"),
        (Link(0.02, 1e9, ()), "a small allreduce takes 20 ms, more than the 5 accepted"),
        (
            Link(1e-4, 1e9, tuple(Neighbours(f"n{k}", f"n{k + 1}", 1e-5, 1e8 if k == 2 else 1e9) for k in range(5))),
            "n2 to n3 carries 0.1 GB/s, the median one 1",
        ),
    ],
)
def test_slow_links(link: Link, text: str) -> None:
    (found,) = problems(job(), link)
    assert text in found.text
    assert "OMPI_MCA_btl_tcp_if_include" in str(found.remedy)
    shared = [replace(seen, cores=Cores((0,), 1, True)) for seen in job()]
    limits = Limits(True, 1e8, 0.005)
    # Ranks that share a core measure their turns on it; one link that is slower than the others still is.
    assert len(problems(shared, link, limits)) == bool(link.neighbours)


def test_what_the_first_rank_of_a_node_looked_at_holds_for_all_of_it() -> None:
    """Digests of files and clock offsets are asked for once a node."""
    looks = [look(rank, f"n{rank // 4 + 1}") for rank in range(8)]
    told = [
        replace(each, sources=each.host, clock_offset_seconds=float(each.rank))
        if each.local_rank == 0
        else replace(each, sources="")
        for each in looks
    ]
    found = of_nodes(told)
    assert [each.sources for each in found] == ["n1"] * 4 + ["n2"] * 4
    assert [each.clock_offset_seconds for each in found] == [0.0] * 4 + [4.0] * 4
    assert [each.rank for each in found] == list(range(8))
