"""What speaks against a baseline: one chosen by hand though others are there, or a slow one."""

from collections.abc import Sequence

from horovod_flowers.report.analysis.run_factors import differences, run_factors_of
from horovod_flowers.report.analysis.run_summary import RunSummary

CLEARLY_FASTER = 1.1
"""One rank's throughput over the baseline's from which on the baseline is told to be a slow one."""
_MACHINE = ("CPU", "GPU")


def chosen_by_hand(
    pattern: str | None, runs: Sequence[RunSummary], baseline: Sequence[RunSummary], alone: Sequence[RunSummary]
) -> str | None:
    """A sentence where `pattern` named a baseline though runs on one rank of the same work, `alone`, are others."""
    if pattern is None or not alone or {id(run) for run in alone} == {id(run) for run in baseline}:
        return None
    ranks = baseline[0].ranks
    instead = _rate(runs) / _rate(alone)
    which = (
        f"{len(baseline)} of the {len(alone)} runs on one rank"
        if ranks == 1
        else f"{ranks} ranks ({baseline[0].environment.strategy}), though one rank did the same work"
    )
    return (
        f"its baseline was named by hand (--baseline {pattern}): {which}; against all runs on one rank the speed-up is "
        f"{instead:.2f}"
    )


def slow_baseline(
    baseline: Sequence[RunSummary], others: Sequence[Sequence[RunSummary]], runs: Sequence[RunSummary]
) -> str | None:
    """A sentence where one rank of the same machine did the same work much faster in another setting.

    others: runs on one rank of the same work, by setting. 'Use the fastest serial program as a baseline' is the first
    of Bailey's twelve ways (1991), and rule 1 of Hoefler and Belli (2015).
    """
    if baseline[0].ranks > 1:
        return None
    machine = _machine(baseline)
    alike = [each for each in others if _machine(each) == machine and not set(each) & set(baseline)]
    if not alike:
        return None
    fastest = max(alike, key=_rate)
    faster = _rate(fastest) / _rate(baseline)
    if faster < CLEARLY_FASTER:
        return None
    apart = "; ".join(differences(fastest, baseline))
    return (
        f"its baseline is not the fastest run on one rank of this work: {fastest[0].name} is {faster:.2f} times as "
        f"fast ({apart}), and against it the speed-up is {_rate(runs) / _rate(fastest):.2f}"
    )


def _machine(runs: Sequence[RunSummary]) -> tuple[str, ...]:
    factors = run_factors_of(runs[0])
    return tuple(value for name, value in sorted(factors.items()) if name.startswith(_MACHINE))


def _rate(runs: Sequence[RunSummary]) -> float:
    return sum(run.images for run in runs) / sum(run.timed_seconds for run in runs)
