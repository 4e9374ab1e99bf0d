"""What was asked first: what is best, what costs most, how far it goes, how sure that is, and what to do next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from horovod_flowers.config.choices import DIVIDING
from horovod_flowers.report.analysis.claims import Proposal
from horovod_flowers.report.analysis.efficiency_losses import EfficiencyLosses
from horovod_flowers.report.analysis.points import Point, Series

WORTH_TELLING = 0.02
"""Share of the ranks' time below which a loss is not named."""
WORTH_FEEDING = 0.05
"""Share of the ranks' time that waits for batches from which on reading is what to look at first."""


@dataclass(frozen=True)
class Findings:
    """The answer; of each part nothing where the runs do not tell."""

    best: Point
    """Of the largest speed-up, among ranks with cores of their own."""
    proposal: Proposal | None
    """Of its series."""
    largest_loss: tuple[str, float] | None
    """Of the best point: cause (efficiency_losses.CAUSES) and share of the ranks' time."""
    advice: str
    """The one next thing to do, in an imperative clause."""


def findings_of(
    series: Sequence[Series],
    losses: Mapping[Point, EfficiencyLosses],
    doubts: Mapping[Point, list[str]],
    proposals: Sequence[Proposal],
) -> Findings | None:
    """The answer; None where no series has a ratio that measures speed."""
    rated = [
        (point, members)
        for members in series
        if not (members.without_communication or members.emulated)
        for point in members.rated
        if point.speed_up is not None
    ]
    if not rated:
        return None
    best, members = max(rated, key=lambda found: found[0].speed_up.value if found[0].speed_up else 0.0)
    shares = losses[best].shares if best in losses else {}
    known = {cause: share for cause, share in shares.items() if share is not None}
    cause = max(known, key=lambda name: known[name], default=None)
    largest = None if cause is None or known[cause] < WORTH_TELLING else (cause, known[cause])
    proposal = next((each for each in proposals if each.series is members), None)
    return Findings(best, proposal, largest, _advice(best, members, series, largest, doubts))


def _advice(
    best: Point,
    members: Series,
    series: Sequence[Series],
    largest: tuple[str, float] | None,
    doubts: Mapping[Point, list[str]],
) -> str:
    """By what would change the answer most: first whether it is one, then what costs most."""
    assert best.speed_up is not None
    doubted = {point.runs for point in doubts}
    if best.runs in doubted or (best.baseline is not None and best.baseline.runs in doubted):
        return "look into what speaks against these figures (listed as doubtful under the table) before you use them"
    if not best.speed_up.has_interval:
        return "run every point at least six times (commands: Provenance): without intervals no difference is sure"
    tried = {each.points[0].runs[0].environment.strategy for each in series}
    return _against_loss(largest, tried) or (
        f"run more ranks: throughput still grows at {best.ranks} ranks"
        if members.points[-1] is best
        else f"use {best.ranks} ranks: none of the larger numbers that were measured trains faster"
    )


def _against_loss(largest: tuple[str, float] | None, tried: set[str]) -> str | None:
    cause, share = largest if largest is not None else ("", 0.0)
    if cause == "input" and share >= WORTH_FEEDING:
        return "feed the ranks faster: copy the prepared images to each node's own disk, or raise the batch"
    if cause in ("communication", "update") and not tried & set(DIVIDING):
        return (
            "try strategies that divide the large layers (--strategy tensor or mesh): each rank sends and updates less"
        )
    if cause == "imbalance":
        return "find out why a rank is slow (table of ranks): the others wait for it"
    return None
