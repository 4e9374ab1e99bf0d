"""Numbers in words, the same in the terminal, the pages and the pictures."""

import math
import statistics
from collections.abc import Sequence

from horovod_flowers.report.analysis.claims import Proposal
from horovod_flowers.report.analysis.intervals import CONFIDENCE, FEWEST_RUNS, Estimate
from horovod_flowers.report.analysis.laws import Fit
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.scaling_model.hold_out import HeldOut, errors_of

MISSING = "–"
OVERSUBSCRIBED = "* oversubscribed: ranks shared a core, not a measure of speed"
EMULATED = (
    "emulated: ranks slept for the measured time of a step instead of computing, or used a virtual network; this is no "
    "measurement of a machine"
)
NO_PROPOSAL = (
    "No table can be made for a proposal: it takes runs on several numbers of ranks, with cores of their own, that "
    "train one model together and are not emulated"
)
UNLIKE = "† mixed: these runs, or those of their baseline, differ in something that may change their speed"
NO_INTERVAL = f"interval not available: fewer than {FEWEST_RUNS} runs"


def number(found: Estimate | None, digits: int) -> str:
    """'1.61 (1.58 to 1.64)', or '1.61' where there is no interval."""
    if found is None:
        return MISSING
    text = f"{found.value:.{digits}f}"
    return text if found.low is None else f"{text} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def with_interval(found: Estimate | None, digits: int) -> str:
    """The same, shorter, for a column of a table."""
    return number(found, digits).replace(" to ", "–")


def marks(point: Point) -> str:
    """The marks that every number of a point carries."""
    return ("*" if point.oversubscribed else "") + ("†" if point.unlike else "")


def row_words(point: Point) -> str:
    """A row of the table in a sentence: 'one rank', '4* ranks, allreduce', with what tells it from others."""
    which = f" ({point.which})" if point.which else ""
    if point.ranks == 1:
        return f"{point.strategy}{marks(point)}{which}"
    return f"{point.ranks}{marks(point)} ranks, {point.strategy}{which}"


def percent(share: float) -> str:
    """'12.3 %'."""
    return f"{share * 100:.1f} %"


TIME_WORDS = {
    "input": "input wait",
    "input_wait": "input wait",
    "compute": "forward and backward pass",
    "communication": "exposed communication",
    "update": "optimizer step",
    "imbalance": "load imbalance",
    "contention": "contention",
    "rest": "other computation",
}
"""Parts of a step (runlog.reading.run.PARTS) and losses of efficiency (analysis.efficiency_losses.CAUSES)."""


def time_words(name: str) -> str:
    """What a part of a step, or a loss of efficiency, is called."""
    return TIME_WORDS.get(name, name.replace("_", " "))


def step_digits(point: Point) -> int:
    """Decimals that show three digits of a step's seconds."""
    value = point.step_seconds.value
    return 3 if value <= 0 else min(9, max(0, 2 - math.floor(math.log10(value))))


def work_words(point: Point) -> str:
    """'strong, batch 64, bf16'."""
    batch = f"batch {point.batch}" if point.scaling == "strong" else f"batch {point.batch} per rank"
    return f"{point.scaling}, {batch}, {point.precision}"


def seconds(value: float) -> str:
    """Three digits of it."""
    digits = 3 if value <= 0 else min(9, max(0, 2 - math.floor(math.log10(value))))
    return f"{value:.{digits}f}"


def signed_percent(share: float) -> str:
    """'+3.9 %'."""
    return f"{share * 100:+.1f} %"


def held_out_sentence(rows: Sequence[HeldOut]) -> str:
    """How well larger numbers of ranks were predicted from smaller ones."""
    errors = sorted(abs(error) for error in errors_of(rows))
    if not errors:
        return "no number of ranks could be predicted from the smaller ones"
    inside = sum(found.inside is True for found in rows)
    return (
        f"{len(errors)} of {counted(len(rows), 'step')} predicted from fewer ranks, median error "
        f"{percent(statistics.median(errors))}, largest {percent(errors[-1])}, {inside} inside the interval"
    )


def law_words(found: Fit) -> str:
    """A fitted law in a clause: its parameters, how well it meets the runs, its peak, and why it says no more."""
    words = [f"{name.replace('_', ' ')} {number(value, 5)}" for name, value in found.parameters.items()]
    words.append(f"fits the measured throughput within {percent(found.quality.residual)} (root mean square error)")
    if found.law == "USL":
        peak = found.determined_peak
        words.append("predicted peak not determined" if peak is None else f"predicted peak at {number(peak, 0)} ranks")
    refusal = found.not_extrapolated
    words += [] if refusal is None else [f"not extrapolated, since {refusal}"]
    return "; ".join(words)


def preferred_words(found: tuple[Fit, float] | None) -> str:
    """Which of several laws the data prefer."""
    if found is None:
        return "the runs do not decide between the laws (AICc)"
    return f"the runs favour {found[0].law} (AICc lower by {found[1]:.1f})"


def listed(values: Sequence[str]) -> str:
    """Several values; apart by semicolons where one is a list itself."""
    return ("; " if any("," in value for value in values) else ", ").join(values)


def counted(count: int, word: str) -> str:
    """'1 run', '3 runs'."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def proposal_paragraph(proposal: Proposal) -> str:
    """The paragraph for an allocation proposal, ready to paste."""
    series, point = proposal.series, proposal.point
    first = series.rated[0]
    work = dict(first.work)
    model = work.get("model") or f"a model of {work['parameters']:,} parameters"
    name = f"training {model} ({first.strategy}, {first.scaling} scaling, {first.precision})"
    if point is None:
        assert first.efficiency is not None
        surely_below = first.efficiency.value < proposal.threshold
        verb = "is" if surely_below else "may be"
        advice = (
            "Ask for the baseline's ranks, or lower the threshold."
            if surely_below
            else "The interval reaches below the threshold: more runs are needed to be sure."
        )
        return (
            f"For a proposal: {name} {verb} below a parallel efficiency of {proposal.threshold:g} on {first.ranks} "
            f"ranks already, the fewest beyond its baseline: {below(first.efficiency, proposal.threshold)}. {advice}"
            f"{_doubts(proposal, first)}"
        )
    measured = counted(len(point.runs), "run")
    efficiency = below(point.efficiency, proposal.threshold)
    interval = (
        f", {CONFIDENCE * 100:.0f} % interval by bootstrap over {measured}"
        if point.efficiency is not None and point.efficiency.has_interval
        else f", {measured}, {NO_INTERVAL.split(':', maxsplit=1)[0]}"
    )
    assert point.efficiency is not None
    reach = (
        _falls(proposal.beyond, proposal.threshold)
        if proposal.beyond is not None
        else f"No larger number of ranks was measured{_crowded(proposal)}"
    )
    return (
        f"For a proposal: {name} keeps a parallel efficiency of at least {proposal.threshold:g} up to {point.ranks} "
        f"ranks: {efficiency}{interval}, against {counted(point.baseline.ranks if point.baseline else 1, 'rank')} of "
        f"the same work. {reach}. The steps of one training on {point.ranks} ranks take "
        f"{proposal.core_hours:.3g} core-hours."
        f"{_doubts(proposal, point)}"
    )


def _doubts(proposal: Proposal, point: Point) -> str:
    """What speaks against the figures of a proposal, which are the point's."""
    told = "".join(f" Doubtful: {sentence}." for sentence in proposal.doubts)
    if point.efficiency is not None and not point.efficiency.has_interval:
        told = f" More runs are needed to be sure: an interval takes {FEWEST_RUNS} of each side.{told}"
    return told


def _falls(beyond: Point, threshold: float) -> str:
    assert beyond.efficiency is not None
    verb = "it falls to" if beyond.efficiency.value < threshold else "it may fall below: it is"
    return f"At {beyond.ranks} ranks {verb} {below(beyond.efficiency, threshold)}"


def below(found: Estimate | None, threshold: float) -> str:
    """A figure beside a threshold, with the digits that show on which side of it the figure and its interval are."""
    if found is None:
        return MISSING
    digits = 2
    while digits < 6 and any(
        (round(end, digits) >= threshold) != (end >= threshold)
        for end in (found.value, found.low, found.high)
        if end is not None
    ):
        digits += 1
    return number(found, digits)


def _crowded(proposal: Proposal) -> str:
    return " with a core for each" if len(proposal.series.rated) < len(proposal.series.points) else ""
