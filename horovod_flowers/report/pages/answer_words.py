"""The report's first screen in words: what was asked, answered in a handful of sentences."""

from horovod_flowers.config.script import is_script
from horovod_flowers.report.analysis.findings import Findings
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.report.analysis.run_factors import run_factors_of
from horovod_flowers.report.content import Content
from horovod_flowers.report.pages.wording import below, counted, number, percent
from horovod_flowers.runtime.errors import harmless

LOSSES = {
    "input": "input wait (the next batch of images is not ready)",
    "imbalance": "load imbalance (ranks wait for the slowest one)",
    "communication": "exposed communication (not hidden behind computation)",
    "update": "the optimizer step (repeated on every rank)",
    "contention": "contention (the forward and backward pass is slower where ranks share memory and caches)",
    "rest": "computation (the forward and backward pass takes more than its ideal share of the baseline's)",
}
NO_ANSWER = (
    "there are no runs on several ranks, with at least a core per rank, that have a baseline: run a study over 1, 2, "
    "4, ... ranks"
)


def answer_lines(content: Content) -> list[tuple[str, str]]:
    """Title and sentence of each line of the answer."""
    found = content.findings
    if found is None:
        return [("Answer", NO_ANSWER)]
    best = found.best
    lines = [("Trained", _trained(best)), ("Best measured", _best(best)), ("Largest loss", _loss(found))]
    return [*lines, ("How far it scales", _reach(found)), ("Next", found.advice)]


def _trained(point: Point) -> str:
    run, factors = point.runs[0], run_factors_of(point.runs[0])
    if is_script(run.config):
        what = f"a script's model of {run.result.parameters:,} parameters"
    else:
        data = run.config.get("data", {})
        source = data.get("source", "unknown")
        name = source if source == "synthetic" else data.get("path") or data.get("dataset") or source
        images = f"{run.result.training_images:,} images" if run.result.training_images else "images"
        what = f"{run.config['model']['name']} on {images} ({harmless(str(name))})"
    machine = factors["CPU"] if factors["GPU"] == "none" else f"{factors['GPU']}, {factors['CPU']}"
    nodes = counted(int(factors["nodes"]), "node")
    return f"{what}, {factors['precision']}, {point.scaling} scaling with batch {point.batch}, on {nodes} of {machine}"


def _best(point: Point) -> str:
    assert point.baseline is not None
    base = counted(point.baseline.ranks, "rank")
    runs = counted(len(point.runs), "run")
    sure = "95 % interval" if point.speed_up is not None and point.speed_up.has_interval else "no interval"
    marked = " (mixed runs, †)" if point.unlike else ""
    return (
        f"{point.strategy} on {point.ranks} ranks{marked}: speed-up {number(point.speed_up, 2)} over {base}, parallel "
        f"efficiency {number(point.efficiency, 2)} ({runs}, {sure})"
    )


def _loss(found: Findings) -> str:
    if found.largest_loss is None:
        return "none above 2 % of the ranks' time"
    cause, share = found.largest_loss
    return f"{LOSSES[cause]}: {percent(share)} of the ranks' time at {found.best.ranks} ranks"


def _reach(found: Findings) -> str:
    proposal = found.proposal
    if proposal is None:
        return "not known"
    beyond = proposal.beyond
    if proposal.point is None:
        first = proposal.series.rated[0]
        measured = number(first.efficiency, 2)
        return f"not to {first.ranks} ranks with a parallel efficiency of {proposal.threshold:g}: {measured}"
    efficiency = proposal.point.efficiency
    sure = "" if efficiency is not None and efficiency.has_interval else ", not sure without an interval"
    more = (
        "no larger number was measured with at least a core per rank"
        if beyond is None
        else f"at {beyond.ranks} ranks it is {below(beyond.efficiency, proposal.threshold)}"
    )
    threshold = f"a parallel efficiency of at least {proposal.threshold:g}"
    return f"up to {proposal.point.ranks} ranks with {threshold}{sure}; {more}"
