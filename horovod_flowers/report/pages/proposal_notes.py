"""What has to be said beside a proposal table: its reference, its limits, and why figures are missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from horovod_flowers.config.script import is_script
from horovod_flowers.report.analysis.allocation import (
    checkpoint_wait_seconds_of,
    data_bytes_of,
    gpu_memory_per_rank_of,
    gpus_of,
    node_cores_of,
    wall_seconds_of,
)
from horovod_flowers.report.analysis.intervals import FEWEST_RUNS
from horovod_flowers.report.analysis.proposal_table import ProposalRow, ProposalTable
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.report.pages.wording import counted, marks

LEGEND = (
    "Speed-up: images per second of the timed steps over the reference's, in brackets the 95 % interval by bootstrap "
    "over runs; warm-up, evaluation and checkpoints are left out, so that it is not the ratio of these wall times",
    "Ideal: ranks over the reference's. Efficiency: speed-up over the ideal one",
    "Wall time: of a run's slowest rank, from the start of its process to its last record. Training: its steps alone. "
    "Medians over runs",
    "Memory: largest resident memory of any rank, and of all ranks of a node together, pages that ranks share counted "
    "for each; the most of all runs",
    "Checkpoints: how many a run wrote and how large they are together. Writing goes on beside the training, which "
    "waits for a part of it",
    "Data set: prepared images on storage, read in each epoch. Waiting for batches: in the timed steps, mean over "
    "ranks",
    "Hours (h): of the wall time of one whole run, without its time in a queue. Core-hours: of the physical cores that "
    "ranks computed on (ranks x threads, at most the cores that they could run on); whole nodes: of all physical cores "
    "of the nodes, as a site charges that gives whole nodes",
)
"""What the columns mean, once below all tables."""


def scaling_notes(table: ProposalTable) -> list[str]:
    told = [reference_words(table)]
    if few := [row for row in table.rows if _lacks_interval(row)]:
        told.append(f"Interval not available of {_ranks(few)}: fewer than {FEWEST_RUNS} runs of it or of the reference")
    nodes = {row.nodes for row in table.rows}
    if len(nodes) == 1 and None not in nodes:
        told.append(f"Measured on {counted(next(iter(nodes)) or 0, 'node')} only: nothing is said of more nodes")
    if table.series.points[0].scaling == "weak":
        told.append("Weak scaling: the batch per rank is held, and as many epochs take fewer steps on more ranks")
    images = {count for row in table.rows for count in row.images_trained}
    if len(images) > 1:
        told.append(
            f"These runs trained on {min(images):,} to {max(images):,} images in all: their wall times are not of "
            "equal trainings"
        )
    told += [f"{_ranks([row])}: {row.point.which}" for row in table.rows if row.point.which]
    if table.part_of_node:
        told.append(f"Not in this table, since on a part of the reference's nodes: {_of(table.part_of_node)}")
    if table.oversubscribed:
        told.append(f"Not in this table, since ranks shared cores, no measure of speed: {_of(table.oversubscribed)}")
    for row in table.rows:
        if row.refusal is not None and not row.is_reference:
            told.append(f"No speed-up of {_ranks([row])}: {row.refusal}")
        if row.point.unlike:
            told.append(f"† {_ranks([row])}: unlike runs: {'; '.join(row.point.unlike)}")
        told += [f"Doubtful: {_ranks([row])}: {sentence}" for sentence in row.doubts]
    if table.reference is not None and table.reference.point.ranks > 1 and any(row.doubts for row in table.rows):
        told.append("Speed-ups in these doubts are in multiples of one rank")
    return [*told, *_missing(table, [_WALL])]


def reference_words(table: ProposalTable) -> str:
    """What the table's ratios are taken against."""
    if table.reference is None:
        return (
            "No reference, and so no speed-up: run the work on one rank, or on one node, or name the runs on the "
            "fewest nodes that it fits on with --baseline"
        )
    row = table.reference
    base = table.series.baseline
    nodes = "several numbers of nodes" if row.nodes is None else counted(row.nodes, "node")
    several = len({each.nodes for each in table.rows}) > 1
    if table.baseline_named:
        why = ", as --baseline says"
    elif several and (row.nodes or 0) > 1:
        why = ", the fewest nodes that were run"
    else:
        why = ""
    ranks = f"{counted(row.point.ranks, 'rank')} on {nodes}"
    other = ""
    if base is not None and base.runs != row.point.runs:
        other = f"; the report's other figures are against {counted(base.ranks, 'rank')}"
    return f"Reference (speed-up 1): {ranks}, {counted(len(row.point.runs), 'run')}{why}{other}"


def _lacks_interval(row: ProposalRow) -> bool:
    return row.efficiency is not None and not row.efficiency.has_interval and not row.is_reference


def _ranks(rows: Sequence[ProposalRow]) -> str:
    return _of([f"{row.point.ranks}{marks(row.point)}" for row in rows])


def _of(counts: Sequence[int | str]) -> str:
    """'1 rank', '2, 4 ranks'."""
    listed = ", ".join(map(str, counts))
    return f"{listed} {'rank' if listed == '1' else 'ranks'}"


def volume_notes(table: ProposalTable) -> list[str]:
    figures = [_CHECKPOINTS, _DATA]
    return _missing(table, [*figures, _GPU_MEMORY] if table.has_gpus else figures)


def hours_notes(table: ProposalTable) -> list[str]:
    told = []
    if uses_whole_nodes(table):
        told.append("The ranks computed on all cores of their nodes: a site that charges whole nodes charges the same")
    return [*told, *_missing(table, [_WALL, _NODE_CORES])]


@dataclass(frozen=True)
class _Figure:
    """Something that runs may not have recorded."""

    name: str
    of: Callable[[RunSummary], float | None]


_WALL = _Figure("wall time, and so hours", wall_seconds_of)
_NODE_CORES = _Figure("cores of whole nodes", node_cores_of)
_CHECKPOINTS = _Figure("checkpoints", checkpoint_wait_seconds_of)
_DATA = _Figure("size of the data set", data_bytes_of)
_GPU_MEMORY = _Figure("GPU memory", lambda run: gpu_memory_per_rank_of(run) if gpus_of(run) else 0)


def _missing(table: ProposalTable, figures: Sequence[_Figure]) -> list[str]:
    """A sentence for each figure, and each reason, that any of the runs lack it for."""
    told = []
    for figure in figures:
        reasons: dict[str, list[str]] = {}
        for row in table.rows:
            lacking = [run for run in row.runs if figure.of(run) is None]
            count = "" if len(lacking) == len(row.runs) else f" in {len(lacking)} of {counted(len(row.runs), 'run')}"
            for reason in dict.fromkeys(_why(run) for run in lacking):
                reasons.setdefault(reason, []).append(f"{_ranks([row])}{count}")
        told += [f"Not known: {figure.name} ({', '.join(where)}): {reason}" for reason, where in reasons.items()]
    if empty := [row for row in table.rows if not row.runs]:
        told.append(f"No times of {_ranks(empty)}: none of these runs trained by the recipe of the others")
    return told


def _why(run: RunSummary) -> str:
    resources = run.result.resources
    if resources is None:
        return "an earlier version, which did not record it, made the runs"
    if resources.steps_before:
        return "the runs were resumed, and what their earlier jobs took is not recorded"
    if is_script(run.config):
        return "a script does not tell it"
    return "the system did not tell it"


def uses_whole_nodes(table: ProposalTable) -> bool:
    return all(row.cores == row.node_cores for row in table.rows)
