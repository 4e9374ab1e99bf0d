"""The answer as a table, sentences, JSON, CSV and a picture."""

import csv
import io
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from horovod_flowers.report.pages.wording import held_out_sentence, seconds
from horovod_flowers.report.prediction.answer import Answer
from horovod_flowers.runtime.console import Terminal, say
from horovod_flowers.runtime.errors import harmless
from horovod_flowers.runtime.files import whole_file, write_whole
from horovod_flowers.runtime.machine import own_command
from horovod_flowers.scaling_model.prediction import Predicted

SCHEMA = 1
CLOSE = 1.1
"""Steps whose seconds are apart by less than this are not told from each other."""
TABLE_WIDTH = 132  # in a log
EMULATED = "EMULATED: from runs that slept for what others would compute"


def print_answer(found: Answer) -> None:
    """The table, the recommendation, and what it lacks."""
    _print_table(found)
    for sentence in sentences(found):
        say(harmless(sentence))


def _print_table(found: Answer) -> None:
    console = Terminal() if Terminal().is_terminal else Terminal(width=TABLE_WIDTH)
    title = f"Predicted: {found.study.label}; network {found.network}"
    notes = ["in brackets: from the most communication hidden behind computation to the most exposed", "* the fastest"]
    notes += [EMULATED] if found.study.emulated else []
    table = Table(title=escape(title), caption="; ".join(notes), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    hours = found.training_hours(found.predictions[0]) is not None
    gpus = found.predictor.work.gpus_per_rank > 0
    names = ["ranks", "nodes", "step s", "speed-up", "efficiency", "exposed", "waiting"]
    names += (["core-h", "node-h", *(["GPU-h"] if gpus else [])]) if hours else []
    for name in ("strategy", *names):
        table.add_column(name, justify="left" if name == "strategy" else "right")
    for one in found.predictions:
        row = record(found, one)
        best = found.recommendation.best[one.ranks] is one
        step = f"{seconds(one.step_seconds)} ({seconds(one.low_seconds)}–{seconds(one.high_seconds)})"
        shown = [f"{one.ranks:,}", f"{row['nodes']:,}", step]
        shown.append(f"{row['speed_up']:.1f} ({row['speed_up_low']:.1f}–{row['speed_up_high']:.1f})")
        shown.append(f"{row['efficiency']:.2f} ({row['efficiency_low']:.2f}–{row['efficiency_high']:.2f})")
        shown += [f"{one.exposed_seconds / one.step_seconds:.0%}", f"{one.straggler_seconds / one.step_seconds:.0%}"]
        if hours:
            shown += [f"{row['core_hours']:.3g}", f"{row['node_hours']:.3g}"]
            shown += [f"{row['gpu_hours']:.3g}"] if gpus else []
        table.add_row(escape(one.setting.label) + (" *" if best else ""), *shown)
    console.print(table)


def sentences(found: Answer) -> list[str]:
    """What the table means."""
    mark = " (emulated)" if found.study.emulated else ""
    lines = [f"recommended{mark}: {found.recommendation.sentence}"]
    unlike = _close(found)
    lines += [unlike] if unlike else []
    reasons: dict[tuple[str, str], list[int]] = {}
    for setting, ranks, reason in found.left_out:
        reasons.setdefault((setting.label, reason), []).append(ranks)
    lines += [
        f"left out: {label} on {', '.join(f'{each:,}' for each in ranks)} ranks: {reason}"
        for (label, reason), ranks in reasons.items()
    ]
    if found.held_out:
        lines.append(f"how well this worked here: {held_out_sentence(found.held_out)}")
    lines.append(f"algorithms {found.predictor.calls.probable.choice.words}" if found.predictor.calls else "")
    lines += [f"lacking: {sentence}" for sentence in found.lacks]
    return [line for line in lines if line]


def _close(found: Answer) -> str | None:
    """Numbers of ranks at which the fastest two cannot be told from each other."""
    told = []
    for ranks, best in sorted(found.recommendation.best.items()):
        others = [one for one in found.predictions if one.ranks == ranks and one is not best]
        second = min(others, key=lambda one: one.step_seconds, default=None)
        if second is not None and second.step_seconds < CLOSE * best.step_seconds:
            told.append(f"{second.setting.label} at {ranks:,}")
    within = f"within {(CLOSE - 1) * 100:.0f} % of the fastest, too close for the prediction to tell which is faster"
    return f"{within}: {'; '.join(told)}" if told else None


def record(found: Answer, one: Predicted) -> dict[str, Any]:
    """One prediction as plain values."""
    value, low, high = found.speed_up(one)
    hours, nodes, work = found.training_hours(one), found.nodes(one.ranks), found.predictor.work
    return {
        "strategy": one.setting.strategy,
        "setting": one.setting.label,
        "group": one.setting.group_of(one.ranks),
        "ranks": one.ranks,
        "nodes": nodes,
        "images": one.images,
        "step_seconds": one.step_seconds,
        "step_seconds_low": one.low_seconds,
        "step_seconds_high": one.high_seconds,
        "images_per_second": one.images_per_second,
        "speed_up": value,
        "speed_up_low": low,
        "speed_up_high": high,
        "efficiency": value / one.ranks,
        "efficiency_low": low / one.ranks,
        "efficiency_high": high / one.ranks,
        "compute_seconds": one.compute_seconds,
        "communication_seconds": one.communication_seconds,
        "exposed_seconds": one.exposed_seconds,
        "straggler_seconds": one.straggler_seconds,
        "input_seconds": one.input_seconds,
        "nothing_hidden_seconds": one.nothing_hidden_seconds,
        "all_hidden_seconds": one.all_hidden_seconds,
        "calls": one.calls,
        "algorithms": "; ".join(one.algorithms),
        "core_hours": None if hours is None else hours * one.ranks * work.cores_per_rank,
        "node_hours": None if hours is None else hours * nodes,
        "gpu_hours": None if hours is None else hours * one.ranks * work.gpus_per_rank,
        "fastest": found.recommendation.best[one.ranks] is one,
    }


def as_json(found: Answer) -> dict[str, Any]:
    """The whole answer."""
    calibration = found.calibration
    return {
        "schema": SCHEMA,
        "kind": "predicted",
        "emulated": found.study.emulated,
        "command": shlex.join(own_command()),
        "work": found.study.label,
        "measured_ranks": found.study.counts,
        "network": found.network,
        "engine": found.engine,
        "ranks_per_node": found.predictor.ranks_per_node,
        "profile": found.predictor.profile is not None,
        "relative_error_of_calls": None if calibration is None else calibration.relative_error,
        "relative_error_of_steps": found.predictor.relative_error,
        "recommendation": found.recommendation.sentence,
        "predictions": [record(found, one) for one in found.predictions],
        "left_out": [
            {"setting": setting.label, "ranks": ranks, "reason": reason} for setting, ranks, reason in found.left_out
        ],
        "held_out": [
            {
                "setting": each.setting.label,
                "ranks": each.ranks,
                "from_ranks": list(each.from_ranks),
                "measured_seconds": each.measured_seconds,
                "predicted_seconds": each.predicted and each.predicted.step_seconds,
                "low_seconds": each.predicted and each.predicted.low_seconds,
                "high_seconds": each.predicted and each.predicted.high_seconds,
                "error": each.error,
                "inside": each.inside,
                "reason": each.reason or None,
            }
            for each in found.held_out
        ],
        "lacks": list(found.lacks),
    }


def _as_csv(found: Answer) -> str:
    rows = [record(found, one) for one in found.predictions]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def write_answer(folder: Path, found: Answer, formats: Sequence[str]) -> list[str]:
    """Write what was asked for; the names of what was written."""
    written = []
    if "json" in formats:
        write_whole(folder / "prediction.json", json.dumps(as_json(found), indent=1, allow_nan=False) + "\n")
        written.append("prediction.json")
    if "csv" in formats:
        write_whole(folder / "prediction.csv", _as_csv(found))
        written.append("prediction.csv")
    if "picture" in formats:
        from horovod_flowers.report.pages.pictures.predicted import picture_of

        drawn = picture_of(found)
        for ending, data in (("svg", drawn.svg), ("png", drawn.png)):
            with whole_file(folder / f"prediction.{ending}") as temporary:
                temporary.write_bytes(data)
            written.append(f"prediction.{ending}")
    return written
