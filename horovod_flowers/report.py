"""Read runs and report speed-up and parallel efficiency: a table, CSV, JSON and a picture.

    python -m horovod_flowers.report
    python -m horovod_flowers.report --runs-dir /scratch/me/runs --output /scratch/me/report

A ratio is given only against a one-rank baseline of the same work; runs with gaps are listed as left out.
"""

import csv
import io
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from horovod_flowers.command_line import flags, parse
from horovod_flowers.config import RunConfig, flat_options, option
from horovod_flowers.errors import UserError
from horovod_flowers.files import whole_file, writable_folder, write_whole
from horovod_flowers.launch import error_boundary
from horovod_flowers.progress import say
from horovod_flowers.recorded_run import RecordedRun
from horovod_flowers.run_folders import LeftOut, runs_in
from horovod_flowers.scaling import Point, points_of
from horovod_flowers.study_record import failures

SCHEMA = 1
TABLE_WIDTH = 120  # in a log
COLUMNS = (
    "scaling",
    "batch",
    "precision",
    "strategy",
    "ranks",
    "threads",
    "epochs",
    "runs",
    "median_step_seconds",
    "images_per_second",
    "speed_up",
    "efficiency",
    "best_validation_accuracy",
    "input_wait_share",
    "compute_share",
    "communication_share",
    "update_share",
    "oversubscribed",
    "run_names",
)


@dataclass(frozen=True)
class ReportConfig:
    """Options of the report command."""

    runs_dir: str = option("runs", "folder that holds the runs")
    output: str = option("report", "folder to write scaling.csv, scaling.json and scaling.png into")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.report`."""
    with error_boundary("horovod_flowers.report"):
        config = parse(ReportConfig, "horovod_flowers.report", (__doc__ or "").splitlines()[0], arguments)
        failed = failures(Path(config.runs_dir))
        runs, left_out = read_runs(Path(config.runs_dir))
        points = points_of(runs)
        output = writable_folder(Path(config.output), "choose another folder with --output")
        write_files(output, points, left_out, failed)
        print_table(points)
        for name, reason in left_out:
            say(f"left out: {name}: {reason}")
        for name, reason in failed:
            say(f"failed: {name}: {reason}")
        for line in sentences(points):
            say(line)
        say(f"written: {output}/scaling.csv, scaling.json, scaling.png")


def read_runs(folder: Path) -> tuple[list[RecordedRun], list[tuple[str, str]]]:
    """All whole runs of a folder, and name and reason of those left out. Raises UserError where none is whole."""
    runs, left_out = [], []
    for found in runs_in([folder]):
        if isinstance(found, LeftOut):
            left_out.append((found.name, found.reason))
        else:
            runs.append(found)
    if not runs:
        listed = "; ".join(f"{name}: {reason}" for name, reason in left_out) or "it is empty"
        raise UserError(f"no finished run in {folder} ({listed}): run 'python -m horovod_flowers.train' first")
    return runs, left_out


def row(point: Point) -> dict[str, Any]:
    """One point as plain values, None where there is none."""
    work = dict(point.work)
    return {
        "scaling": work["scaling"],
        "batch": work["global_batch"] if work["scaling"] == "strong" else work["per_rank_batch"],
        "precision": work["precision"],
        "strategy": point.strategy,
        "ranks": point.ranks,
        "threads": "/".join(str(threads) for threads in work["threads"]),
        "epochs": point.runs[0].result.epochs,
        "runs": len(point.runs),
        "median_step_seconds": point.median_step_seconds,
        "images_per_second": point.images_per_second,
        "speed_up": point.speed_up,
        "efficiency": point.efficiency,
        "best_validation_accuracy": point.best_validation_accuracy,
        **{f"{part}_share": share for part, share in point.part_shares.items()},
        "oversubscribed": point.oversubscribed,
        "run_names": " ".join(run.name for run in point.runs),
    }


def write_files(
    output: Path, points: Sequence[Point], left_out: Sequence[tuple[str, str]], failed: Sequence[tuple[str, str]]
) -> None:
    """Write CSV, JSON and picture, each whole or not at all."""
    from horovod_flowers.scaling_picture import draw_scaling  # matplotlib takes a second that a usage error need not

    rows = [row(point) for point in points]
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(output / "scaling.csv", table.getvalue())
    document = {
        "schema": SCHEMA,
        "points": rows,
        "left_out": [{"run": name, "reason": reason} for name, reason in left_out],
        "failed": [{"point": name, "reason": reason} for name, reason in failed],
    }
    write_whole(output / "scaling.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    with whole_file(output / "scaling.png") as temporary:
        draw_scaling(points, temporary)


def print_table(points: Sequence[Point]) -> None:
    """The table for a terminal or a log."""
    console = Console() if Console().is_terminal else Console(width=TABLE_WIDTH)
    caption = "* oversubscribed: ranks shared a core, no measure of speed"
    marked = any(point.oversubscribed for point in points)
    table = Table(title="Scaling", caption=caption if marked else None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    numbers = ("ranks", "threads", "epochs", "runs", "step s", "images/s", "speed-up", "efficiency", "val. acc.")
    for name in ("work", "strategy", *numbers):
        table.add_column(name, justify="right" if name in numbers else "left")
    for point in points:
        values = row(point)
        batch = f"batch {values['batch']}" if values["scaling"] == "strong" else f"{values['batch']} a rank"
        table.add_row(
            f"{values['scaling']}, {batch}, {values['precision']}",
            values["strategy"],
            f"{point.ranks}{'*' if point.oversubscribed else ''}",
            values["threads"],
            str(values["epochs"]),
            str(len(point.runs)),
            f"{point.median_step_seconds:.3f}",
            f"{point.images_per_second:.1f}",
            _shown(point.speed_up, 2),
            _shown(point.efficiency, 2),
            _shown(point.best_validation_accuracy, 3),
        )
    console.print(table)


def _shown(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def sentences(points: Sequence[Point]) -> list[str]:
    """What the table means: each speed-up in words, or why it is refused and what to run."""
    lines = []
    for point in points:
        if point.ranks == 1:
            continue
        mark = " (oversubscribed: no measure of speed)" if point.oversubscribed else ""
        if point.speed_up is not None:
            lines.append(
                f"{point.ranks} ranks ({point.strategy}) against one rank: speed-up {point.speed_up:.2f}, parallel "
                f"efficiency {point.efficiency:.2f}{mark}"
            )
        else:
            lines.append(
                f"no speed-up for {point.ranks} ranks ({point.strategy}, {point.runs[0].name}): its one-rank baseline "
                f"is missing; run: {baseline_command(point)}"
            )
    return lines


# Options that the command below sets itself, or that belong to another number of ranks.
_NOT_REPEATED = (
    *("name", "global_batch", "per_rank_batch", "threads", "precision", "strategy", "compression", "dense_gradients"),
    *("model_parallel_size", "shard_layers", "shard_above"),
)


def baseline_command(point: Point) -> str:
    """The command that makes a point's one-rank baseline, beside the run that lacks it."""
    work, defaults = dict(point.work), flat_options(asdict(RunConfig()))
    words = ["mpirun", "-np", "1", "python", "-m", "horovod_flowers.train"]
    flag = "--global-batch" if work["scaling"] == "strong" else "--per-rank-batch"
    words += [flag, str(work.get("global_batch", work.get("per_rank_batch"))), "--threads", str(work["threads"][0])]
    words += ["--precision", work["precision"]]
    differing = {
        name: value
        for name, value in flat_options(point.runs[0].config).items()
        if name not in _NOT_REPEATED and value != defaults.get(name)
    }
    return shlex.join([*words, *flags(differing)])


if __name__ == "__main__":
    main()
