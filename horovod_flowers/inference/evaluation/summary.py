"""An evaluation in a terminal or a log."""

from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from horovod_flowers.inference.evaluation.record import EvaluationRecord, title_of
from horovod_flowers.report.analysis.classification import Metrics
from horovod_flowers.report.pages.evaluation_words import evaluation_sentences
from horovod_flowers.report.pages.wording import MISSING, percent
from horovod_flowers.runtime.console import Terminal, on_terminal, say
from horovod_flowers.runtime.errors import harmless

TABLE_WIDTH = 100  # in a log
MOST_MISTAKES = 5


def print_summary(record: EvaluationRecord, metrics: Metrics, output: Path) -> None:
    """A table of the classes, sentences, the worst mistakes, and where the files are."""
    evaluated = record.evaluated
    _print_classes(record)
    for photo in record.unreadable:
        say(harmless(f"unreadable, left out: {photo.photo}: {photo.reason}"))
    said = evaluation_sentences(metrics)
    if evaluated.logged_accuracy is not None:
        said[0] += f"; training logged {evaluated.logged_accuracy:.3f} for epoch {evaluated.epoch}"
        said[0] += f" in {evaluated.logged_precision}" if evaluated.logged_precision != "fp32" else ""
    for mistake in record.worst_mistakes[:MOST_MISTAKES]:
        name = mistake.photo or f"image {mistake.image}"
        said.append(f"mistake: {name}, {mistake.label}, taken for {mistake.predicted} ({percent(mistake.probability)})")
    for line in said:
        say(harmless(line))
    say(f"{record.images} images evaluated by {evaluated.world_size} rank(s): {output}/evaluation.json")


def _print_classes(record: EvaluationRecord) -> None:
    console = Terminal() if on_terminal() else Terminal(width=TABLE_WIDTH, force_terminal=False)
    evaluated = record.evaluated
    title = f"Evaluation of {title_of(evaluated)}: {evaluated.checkpoint} checkpoint, epoch {evaluated.epoch}"
    table = Table(title=escape(harmless(title)), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("class")
    top = [] if record.top_k is None else [f"top-{record.top_k.k}"]
    for name in ("images", "precision", "recall", "95 % interval", "F1", *top):
        table.add_column(name, justify="right")
    for row in record.classes:
        interval = MISSING if row.accuracy is None else f"{row.accuracy.low:.3f}–{row.accuracy.high:.3f}"
        within = MISSING if row.top_k_accuracy is None else f"{row.top_k_accuracy:.3f}"
        metrics = [f"{row.precision:.3f}", f"{row.recall:.3f}", interval, f"{row.f1:.3f}"]
        table.add_row(escape(harmless(row.name)), str(row.images), *metrics, *([within] if top else []))
    console.print(table)
