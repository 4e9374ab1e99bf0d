"""The report in a terminal or a log: a table, and sentences that say what it means."""

from rich import box
from rich.markup import escape
from rich.table import Table

from horovod_flowers.report.analysis.claims import BeforeAfter
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.report.analysis.repeat_commands import baseline_of
from horovod_flowers.report.content import Content
from horovod_flowers.report.pages.answer_words import answer_lines
from horovod_flowers.report.pages.evaluation_words import evaluation_sentences
from horovod_flowers.report.pages.predicted import sentences as predicted_sentences
from horovod_flowers.report.pages.single_runs import timed_steps_words
from horovod_flowers.report.pages.utilisation_words import reason_lines, share_words
from horovod_flowers.report.pages.wording import (
    EMULATED,
    NO_INTERVAL,
    OVERSUBSCRIBED,
    UNLIKE,
    counted,
    held_out_sentence,
    marks,
    number,
    percent,
    proposal_paragraph,
    step_digits,
    time_words,
    with_interval,
    work_words,
)
from horovod_flowers.runtime.console import Terminal, say
from horovod_flowers.runtime.errors import harmless

TABLE_WIDTH = 132  # in a log
OF_PEAK_WIDTH = 14  # of one column more


def print_content(content: Content) -> None:
    """Print the answer, the table, what was left out, and each claim in a sentence."""
    for title, sentence in answer_lines(content):
        say(harmless(f"{title}: {sentence}"))
    print_table(content)
    for name, reason in content.left_out:
        say(f"left out: {name}: {reason}")
    for name, reason in content.failed:
        say(f"failed: {name}: {reason}")
    for line in sentences(content):
        say(harmless(line))


def print_table(content: Content) -> None:
    """One row a point."""
    shares = any(found.share is not None for found in content.utilisations.values())
    wide = TABLE_WIDTH + (OF_PEAK_WIDTH if shares else 0)
    console = Terminal() if Terminal().is_terminal else Terminal(width=wide)
    notes = [OVERSUBSCRIBED] if content.oversubscribed else []
    notes += [EMULATED] if content.emulated else []
    notes += [UNLIKE] if content.unlike else []
    told = [point.images_per_second.has_interval for point in content.points]
    notes += ["in brackets: 95 % intervals by bootstrap over runs"] if any(told) else []
    notes += [NO_INTERVAL] if not all(told) else []
    notes += ["steps: timed steps per run"]
    table = Table(title="Scaling", caption="; ".join(notes), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    which = any(point.which for point in content.points)
    of_peak = ("of peak",) if shares else ()
    figures = ("step, s", "images/s", "speed-up", "efficiency", *of_peak, "val. acc.")
    numbers = ("ranks", "threads", "runs", "steps", *figures)
    for name in ("work", "strategy", *(["which"] if which else []), *numbers):
        # What is too wide is folded: with '...' in its place a figure would be another one.
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for point in content.points:
        accuracy = point.best_validation_accuracy
        table.add_row(
            escape(work_words(point)),
            escape(point.strategy),
            *([escape(point.which)] if which else []),
            f"{point.ranks}{marks(point)}",
            "/".join(str(threads) for threads in dict(point.work)["threads"]),
            str(len(point.runs)),
            timed_steps_words(point),
            _step_seconds(point, parted=point in content.bursts),
            with_interval(point.images_per_second, 1),
            with_interval(point.speed_up, 2),
            with_interval(point.efficiency, 2),
            *([share_words(content.utilisations.get(point), "–")] if shares else []),
            "–" if accuracy is None else f"{accuracy:.3f}",
        )
    console.print(table)


def _step_seconds(point: Point, parted: bool) -> str:
    """The median; the mean beside it where the two tell different things."""
    mean = f", mean {point.mean_step_seconds:.{step_digits(point)}f}" if parted else ""
    return with_interval(point.step_seconds, step_digits(point)) + mean


def sentences(content: Content) -> list[str]:
    """What the table means: each speed-up in words, or why it is refused and what to run; then the claims."""
    lines = [_ratio(point) for point in content.points if point.ranks > 1]
    for point, losses in content.efficiency_losses.items():
        told = [f"{time_words(cause)} {percent(share)}" for cause, share in losses.shares.items() if share is not None]
        lines.append(
            f"share of the ranks' time, {point.ranks} ranks ({point.strategy}){_note(point)}: "
            f"parallel efficiency {percent(losses.efficiency)}; lost to {', '.join(told)}"
        )
    lines += reason_lines(content)
    for times in content.rank_times:
        if times.stragglers:
            first = times.stragglers[0]
            others = f", and {times.straggler_count - 1} more" if times.straggler_count > 1 else ""
            lines.append(
                f"slow in {times.run.name}: rank {first.rank} on {first.host}, cores {first.cores}, takes "
                f"{percent(first.excess)} longer per step than the median rank, communication aside{others}"
            )
    if content.drift is not None and content.drift.seen:
        lines.append(f"doubtful: {content.drift.sentence}")
    for point, doubts in content.doubts.items():
        label = f"{counted(point.ranks, 'rank')} ({point.strategy}{', ' if point.which else ''}{point.which})"
        lines += [f"doubtful: {label}{_note(point)}: {sentence}" for sentence in doubts]
    if content.predicted is not None:
        lines += [f"predicted: {sentence}" for sentence in predicted_sentences(content.predicted)]
    for study, rows in content.held_out:
        mark = " (emulated)" if study.emulated else ""
        lines.append(f"{study.label}{mark}: {held_out_sentence(rows)}")
    for found in content.evaluations:
        lines.append(f"predictions of {found.title}: {evaluation_sentences(found.metrics)[0]}")
    lines += [proposal_paragraph(proposal) for proposal in content.proposals]
    if content.comparison is not None:
        lines.append(compared(content))
    if content.before_after is not None:
        lines.append(f"before and after: {_before_after(content.before_after)}")
    for verdict in content.verdicts:
        strict = " (strict)" if verdict.strict else ""
        lines.append(
            f"check {verdict.check.text}{strict}: {'passed' if verdict.passed else 'FAILED'}: {verdict.reason}"
        )
    return lines


def compared(content: Content) -> str:
    """The comparison in one sentence: a difference is claimed only where the intervals do not overlap."""
    found = content.comparison
    assert found is not None
    (one, other), (first, second) = found.names, found.rates
    rates = f"{other} {number(second, 1)} images/s, {one} {number(first, 1)} images/s, ratio {number(found.ratio, 3)}"
    verdict = {
        None: "no difference is claimed: intervals take at least 6 runs on each side",
        False: "no difference is claimed: the intervals overlap",
        True: f"{other if second.value > first.value else one} is faster: the intervals do not overlap",
    }[found.apart]
    mark = " (oversubscribed: not a measure of speed)" if found.oversubscribed else ""
    mark += " (emulated)" if found.emulated else ""
    factors = "; ".join(found.factors) or "nothing that is recorded"
    return f"{rates}{mark}: {verdict}. What differs: {factors}"


def _before_after(found: BeforeAfter) -> str:
    if found.before is None or found.after is None:
        return str(found.refusal)
    sides = [f"{side.training_seconds:.1f} s" for side in (found.before, found.after)]
    mark = " (oversubscribed: not a measure of speed)" if found.oversubscribed else ""
    mark += " (mixed runs)" if found.unlike else ""
    ranks = f"{found.after.ranks} ranks ({found.after.strategy})"
    return f"the same training took one process {sides[0]}, {ranks} {sides[1]}{mark}"


def _note(point: Point) -> str:
    words = ["oversubscribed: not a measure of speed"] if point.oversubscribed else []
    words += [f"mixed runs: {'; '.join(point.unlike)}"] if point.unlike else []
    return f" ({'; '.join(words)})" if words else ""


def _ratio(point: Point) -> str:
    if point.speed_up is not None and point.efficiency is not None and point.baseline is not None:
        alone = " (no communication: ranks train independently)" if point.without_communication else ""
        base = "one rank" if point.baseline.ranks == 1 else f"{point.baseline.ranks} ranks ({point.baseline.strategy})"
        speed_up = number(point.speed_up, 2)
        if not point.speed_up.has_interval and len(point.runs) > 1:
            speed_up += f" (interval not available; runs: {' '.join(f'{value:.2f}' for value in point.speed_up.each)})"
        return (
            f"{point.ranks} ranks ({point.strategy}) against {base}: speed-up {speed_up}, parallel efficiency "
            f"{number(point.efficiency, 2)}{alone}{_note(point)}"
        )
    if point.refusal is not None:
        return (
            f"no speed-up for {point.ranks} ranks ({point.strategy}, {point.runs[0].name}) against its baseline: "
            f"{point.refusal}; add --allow-differences to report it anyway, marked"
        )
    baseline = baseline_of(point)
    needs = f"   # {'; '.join(baseline.needs)}" if baseline.needs else ""
    return (
        f"no speed-up for {point.ranks} ranks ({point.strategy}, {point.runs[0].name}): its one-rank baseline "
        f"is missing{point.nearest}; run: {baseline.command}{needs}"
    )
