"""The proposal table as plain values, unrounded: CSV, and for scaling.json."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from horovod_flowers.report.analysis.proposal_table import Hours, ProposalRow, ProposalTable
from horovod_flowers.report.analysis.run_factors import run_factors_of
from horovod_flowers.report.pages.proposal_notes import reference_words
from horovod_flowers.report.pages.proposal_table import text_tables, title_of

CSV_COLUMNS = (
    *("series", "scaling", "batch", "precision", "strategy", "which", "model", "data", "cpu", "gpu"),
    *("reference", "is_reference", "nodes", "ranks", "ranks_per_node", "threads_per_rank", "cores", "node_cores"),
    *("gpus", "runs", "wall_seconds", "training_seconds", "ideal_speed_up"),
    *("speed_up", "speed_up_low", "speed_up_high", "efficiency", "efficiency_low", "efficiency_high"),
    *("memory_per_rank_bytes", "memory_per_node_bytes", "gpu_memory_per_rank_bytes"),
    *("checkpoints", "checkpoint_bytes", "checkpoint_write_seconds", "checkpoint_wait_seconds"),
    *("data_bytes", "input_wait_seconds"),
    *("core_hours", "whole_node_core_hours", "node_hours", "gpu_hours"),
    *("planned_runs", "planned_core_hours", "planned_whole_node_core_hours", "planned_node_hours"),
    *("planned_gpu_hours", "unlike", "doubts", "run_names"),
)


def plain_row(table: ProposalTable, row: ProposalRow) -> dict[str, Any]:
    """A row as plain values, unrounded, None where there is none; for CSV and JSON."""
    point, planned = row.point, table.planned_runs
    factors = run_factors_of(point.runs[0])
    hours = asdict(row.hours)
    totals = asdict(Hours(None, None, None, None) if planned is None else row.hours.times(planned))
    found: dict[str, Any] = {
        "series": table.series.label,
        # One rank serves both kinds of scaling: the series says which it stands for here.
        "scaling": table.series.points[0].scaling,
        "batch": table.series.points[0].batch,
        "precision": point.precision,
        "strategy": point.strategy,
        "which": point.which,
        "model": factors.get("model.name", f"{point.runs[0].result.parameters} parameters"),
        "data": factors["data hash"],
        "cpu": factors["CPU"],
        "gpu": factors["GPU"],
        "reference": reference_words(table),
        "is_reference": row.is_reference,
        "nodes": row.nodes,
        "ranks": point.ranks,
        "ranks_per_node": "/".join(map(str, row.ranks_per_node)),
        "threads_per_rank": "/".join(map(str, row.threads)),
        "cores": row.cores,
        "node_cores": row.node_cores,
        "gpus": row.gpus,
        "runs": len(point.runs),
        "ideal_speed_up": row.ideal,
        **hours,
        "planned_runs": planned,
        **{f"planned_{name}": value for name, value in totals.items()},
        "unlike": "; ".join(point.unlike),
        "doubts": "; ".join(row.doubts),
        "run_names": " ".join(run.name for run in point.runs),
    }
    for name, estimate in (("speed_up", row.speed_up), ("efficiency", row.efficiency)):
        low, high = (None, None) if estimate is None else (estimate.low, estimate.high)
        found |= {name: estimate and estimate.value, f"{name}_low": low, f"{name}_high": high}
    values = {name: found[name] if name in found else getattr(row, name) for name in CSV_COLUMNS}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def as_csv(tables: Sequence[ProposalTable]) -> str:
    """One line per row of each table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain_row(table, row) for table in tables for row in table.rows)
    return text.getvalue()


def as_json(table: ProposalTable) -> dict[str, Any]:
    """For scaling.json."""
    return {
        "series": table.series.label,
        "title": title_of(table),
        "reference": reference_words(table),
        "planned_runs": table.planned_runs,
        "rows": [plain_row(table, row) for row in table.rows],
        "notes": [note for text in text_tables(table) for note in text.notes],
    }
