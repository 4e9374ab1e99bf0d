"""What the preflight prints: a table of the nodes, the facts of the job, and the findings."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

from horovod_flowers.mpi.identify import library_from_text
from horovod_flowers.preflight.link import Link
from horovod_flowers.preflight.problems import Finding
from horovod_flowers.preflight.rank_facts import NOT_LOOKED_AT, RankFacts
from horovod_flowers.ranks.affinity import spans
from horovod_flowers.runlog.environment import mpi_settings
from horovod_flowers.runtime.console import Terminal, on_terminal

TABLE_WIDTH = 120  # in a log
NODES_SHOWN, RANKS_SHOWN = 32, 8


def print_nodes(ranks: Sequence[RankFacts]) -> None:
    """A row a node."""
    console = Terminal() if on_terminal() else Terminal(width=TABLE_WIDTH, force_terminal=False)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("node", "ranks", "rank: its CPUs", "threads", "memory GiB", "through", "data", "clock s"):
        table.add_column(name, justify="right" if name in ("ranks", "threads", "memory GiB", "clock s") else "left")
    hosts = list(dict.fromkeys(rank.host for rank in ranks))
    for host in hosts[:NODES_SHOWN]:
        on_host = [rank for rank in ranks if rank.host == host]
        more = f"; and {len(on_host) - RANKS_SHOWN} more" if len(on_host) > RANKS_SHOWN else ""
        threads = sorted({rank.threads for rank in on_host})
        data = {None: "not drawn yet", NOT_LOOKED_AT: "not looked at"}.get(on_host[0].digest, "readable")
        if any(rank.data for rank in on_host):
            data = "not readable"
        table.add_row(
            host,
            str(len(on_host)),
            "; ".join(f"{rank.rank}: {spans(rank.cores.cpus)}" for rank in on_host[:RANKS_SHOWN]) + more,
            "/".join(map(str, threads)),
            f"{min(rank.memory_bytes for rank in on_host) / 2**30:.1f}",
            ", ".join(sorted({name for rank in on_host for name in rank.interfaces})) or "shared memory",
            data,
            f"{max((rank.clock_offset_seconds for rank in on_host), key=abs):+.3f}",
        )
    console.print(table)
    if len(hosts) > NODES_SHOWN:
        console.print(f"and {len(hosts) - NODES_SHOWN} more nodes")


def facts(
    ranks: Sequence[RankFacts], launcher: str, mpi_library: str | None, features: Sequence[str], precision: str
) -> Iterator[str]:
    """The lines above the table."""
    first, nodes = ranks[0], len({rank.host for rank in ranks})
    yield f"{len(ranks)} rank(s) on {nodes} node(s), started by {launcher}; {mpi_library or 'no MPI: one process'}"
    if settings := mpi_settings():
        told = ", ".join(f"{name} {value}" for name, value in settings.items())
        yield f"{library_from_text(mpi_library or '').name} is told: {told}"
    yield f"Horovod {first.versions.get('horovod', 'missing')} with {', '.join(features) or 'nothing'}"
    tensorflow = first.versions.get("tensorflow-cpu") or first.versions.get("tensorflow", "missing")
    named = ", ".join(first.cpu_features) or "none of those that matter"
    yield f"TensorFlow {tensorflow} on CPUs with {named}; precision {precision}; {first.gpus} GPU(s) per rank"


def describe_link(link: Link) -> str:
    """One line."""
    text = (
        f"allreduce: {link.latency_seconds * 1e3:.3g} ms for 1 KiB, {link.bytes_per_second / 1e9:.3g} GB/s for large "
        "gradients"
    )
    if link.neighbours:
        slowest = min(link.neighbours, key=lambda neighbours: neighbours.bytes_per_second)
        text += (
            f"; between nodes at least {slowest.bytes_per_second / 1e9:.3g} GB/s and at most "
            f"{max(n.latency_seconds for n in link.neighbours) * 1e3:.3g} ms"
        )
    return text


def findings(found: Sequence[Finding]) -> Iterator[str]:
    """The last lines: 'ready', or every problem with its remedy."""
    for finding in found:
        if finding.remedy is None:
            yield f"note: {finding.text}"
    problems = [finding for finding in found if finding.remedy is not None]
    for number, problem in enumerate(problems, 1):
        yield f"problem {number}: {problem.text}"
        yield f"  remedy: {problem.remedy}"
    yield "ready" if not problems else f"not ready: {len(problems)} problem(s)"
