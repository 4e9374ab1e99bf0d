"""The proposal table as text, the same for pages, Markdown and LaTeX: scaling; memory and data; hours."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from horovod_flowers.report.analysis.intervals import Estimate
from horovod_flowers.report.analysis.proposal_table import ProposalRow, ProposalTable
from horovod_flowers.report.analysis.run_factors import run_factors_of
from horovod_flowers.report.pages.proposal_notes import hours_notes, scaling_notes, uses_whole_nodes, volume_notes
from horovod_flowers.report.pages.significant import FEWEST_DIGITS, decimals_in, digits_for, rounded_to, significant
from horovod_flowers.report.pages.wording import MISSING, below, marks, number

GIB, MIB = 2**30, 2**20


@dataclass(frozen=True)
class TextTable:
    """A table of words, the same in every format. The first `labels` columns say which row it is."""

    caption: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]


@dataclass(frozen=True)
class _Column:
    name: str
    cell: Callable[[ProposalRow], str]


def text_tables(table: ProposalTable) -> list[TextTable]:
    """Scaling; memory and data; hours."""
    shown = {row: _ShownTimes(row, table.planned_runs) for row in table.rows}
    title = title_of(table)
    return [
        _table(f"{title}: scaling", table, _scaling_columns(table, shown), scaling_notes(table)),
        _table(f"{title}: memory, checkpoints and data of one run", table, _volume_columns(table), volume_notes(table)),
        _table(f"{title}: hours", table, _hours_columns(table, shown), hours_notes(table)),
    ]


def title_of(table: ProposalTable) -> str:
    """What was run, on what: 'Strong scaling of training flowers_cnn (tensor, batch 64, bf16) on AMD EPYC'."""
    point = table.series.rated[-1]
    factors = run_factors_of(point.runs[0])
    model = factors.get("model.name") or f"a model of {point.runs[0].result.parameters:,} parameters"
    batch = f"batch {point.batch}" if point.scaling == "strong" else f"batch {point.batch} per rank"
    gpu = "" if factors["GPU"] == "none" else f" and {factors['GPU']}"
    machine = f"{factors['CPU']}{gpu}"
    words = f"({table.series.strategy}, {batch}, {point.precision})"
    return f"{point.scaling.capitalize()} scaling of training {model} {words} on {machine}"


class _ShownTimes:
    """Wall time and hours of a row, with digits enough that one follows from the other as they are shown."""

    def __init__(self, row: ProposalRow, planned_runs: int | None) -> None:
        wall, hours = row.wall_seconds, asdict(row.hours)
        planned = asdict(row.hours.times(planned_runs or 0))
        self.planned = {name: MISSING if value is None else _total(value) for name, value in planned.items()}
        results = [] if planned_runs is None else [(float(planned_runs), TOTAL_DIGITS)]
        self.each: dict[str, str] = {}
        follow: list[tuple[float, int]] = []
        for name, value in hours.items():
            digits = FEWEST_DIGITS if value is None else digits_for(value, results)
            self.each[name] = MISSING if value is None else significant(value, digits)
            follow += [(value / wall, digits)] if wall and value is not None else []
        self.wall = MISSING if wall is None else significant(wall, digits_for(wall, follow))


TOTAL_DIGITS = 4
"""Of the hours of all planned runs."""


def _total(hours: float) -> str:
    return significant(rounded_to(hours, TOTAL_DIGITS), TOTAL_DIGITS)


def _table(caption: str, table: ProposalTable, columns: Sequence[_Column], notes: Sequence[str]) -> TextTable:
    alike = len({(row.nodes, row.point.ranks) for row in table.rows}) < len(table.rows)
    which = [_Column("which", lambda row: row.point.which)] if alike else []
    columns = [*columns[:2], *which, *columns[2:]]
    rows = [[column.cell(row) for column in columns] for row in table.rows]
    return TextTable(caption, [column.name for column in columns], rows, list(notes))


_NODES = _Column("nodes", lambda row: MISSING if row.nodes is None else str(row.nodes))
_RANKS = _Column("ranks", lambda row: f"{row.point.ranks}{marks(row.point)}")


def _scaling_columns(table: ProposalTable, shown: dict[ProposalRow, _ShownTimes]) -> list[_Column]:
    gpus = [_Column("GPUs", lambda row: str(row.gpus))] if table.has_gpus else []
    return [
        _NODES,
        _RANKS,
        _Column("ranks per node", lambda row: "/".join(map(str, row.ranks_per_node))),
        _Column("threads per rank", lambda row: "/".join(map(str, row.threads))),
        _Column("cores", lambda row: str(row.cores)),
        *gpus,
        _Column("runs", lambda row: str(len(row.point.runs))),
        _Column("wall time, s", lambda row: shown[row].wall),
        _Column("training, s", lambda row: _significant(row.training_seconds)),
        _Column("ideal", lambda row: MISSING if row.ideal is None else f"{row.ideal:.4g}"),
        _Column("speed-up", lambda row: _speed_up(row, table.threshold)),
        _Column("efficiency", lambda row: below(row.efficiency, table.threshold)),
    ]


def _speed_up(row: ProposalRow, threshold: float) -> str:
    """With the digits that give the efficiency beside it."""
    speed_up, efficiency, ideal = row.speed_up, row.efficiency, row.ideal
    if speed_up is None or efficiency is None or ideal is None:
        return MISSING
    decimals = decimals_in(below(efficiency, threshold).partition(" ")[0])
    nearest = 0.4999 * 10**-decimals  # a half is rounded by some to the one side, by others to the other
    ends = [(end, round(end / ideal, decimals)) for end in _ends(speed_up) if end is not None]
    for digits in range(2, 6):
        cut = [(round(end, digits), end, shown) for end, shown in ends]
        if all(math.isclose(made, end) or abs(made / ideal - shown) < nearest for made, end, shown in cut):
            return number(speed_up, digits)
    return number(speed_up, 6)


def _ends(found: Estimate) -> tuple[float | None, float | None, float | None]:
    return found.value, found.low, found.high


def _volume_columns(table: ProposalTable) -> list[_Column]:
    def volume(
        name: str,
        of: Callable[[ProposalRow], float | None],
        largest: Callable[[ProposalRow], float | None] | None = None,
    ) -> _Column:
        size, unit = _unit([(largest or of)(row) for row in table.rows])
        return _Column(f"{name}, {unit}", lambda row: _scaled(of(row), size))

    gpu = [volume("GPU memory per rank", lambda row: row.gpu_memory_per_rank_bytes)] if table.has_gpus else []
    return [
        _NODES,
        _RANKS,
        volume("memory per rank", lambda row: row.memory_per_rank_bytes, lambda row: row.memory_per_node_bytes),
        volume("memory per node", lambda row: row.memory_per_node_bytes),
        *gpu,
        _Column("checkpoints", lambda row: MISSING if row.checkpoints is None else f"{row.checkpoints:g}"),
        volume("their size", lambda row: row.checkpoint_bytes),
        _Column("writing them, s", lambda row: _significant(row.checkpoint_write_seconds)),
        _Column("waiting for them, s", lambda row: _significant(row.checkpoint_wait_seconds)),
        volume("data set", lambda row: row.data_bytes),
        _Column("waiting for batches, s", lambda row: _significant(row.input_wait_seconds)),
    ]


def _hours_columns(table: ProposalTable, shown: dict[ProposalRow, _ShownTimes]) -> list[_Column]:
    names = {"core_hours": "core-h"}
    if not uses_whole_nodes(table):
        names["whole_node_core_hours"] = "core-h, whole nodes"
    names["node_hours"] = "node-h"
    if table.has_gpus:
        names["gpu_hours"] = "GPU-h"

    def each(name: str) -> _Column:
        return _Column(names[name], lambda row: shown[row].each[name])

    def planned(name: str) -> _Column:
        return _Column(f"{names[name]} of {table.planned_runs} runs", lambda row: shown[row].planned[name])

    totals = [] if table.planned_runs is None else [planned(name) for name in names]
    return [
        _NODES,
        _RANKS,
        _Column("cores", lambda row: str(row.cores)),
        _Column("cores of the nodes", lambda row: MISSING if row.node_cores is None else str(row.node_cores)),
        _Column("wall time, s", lambda row: shown[row].wall),
        *(each(name) for name in names),
        *totals,
    ]


def _significant(value: float | None) -> str:
    return MISSING if value is None else significant(value)


def _unit(values: Sequence[float | None]) -> tuple[int, str]:
    most = max((value for value in values if value is not None), default=0)
    return (GIB, "GiB") if most >= GIB else (MIB, "MiB")


def _scaled(value: float | None, size: int) -> str:
    return MISSING if value is None else "0" if value == 0 else significant(value / size)
