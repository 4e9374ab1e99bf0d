"""What the figures rest on: factors varied and held, runs counted, failed and left out, and how to make them again."""

from collections.abc import Sequence
from dataclasses import dataclass

from horovod_flowers.report.analysis.repeat_commands import Repeat, repeats_of
from horovod_flowers.report.analysis.run_factors import values_of
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.runtime.errors import harmless

MOST_COMMANDS = 40


@dataclass(frozen=True)
class Provenance:
    """See the module."""

    varied: dict[str, list[str]]
    held: dict[str, str]
    runs: int
    first_started_utc: str
    last_started_utc: str
    commands: list[Repeat]
    """What makes these runs again: each different command, without a name and a folder of runs."""


def provenance_of(runs: Sequence[RunSummary]) -> Provenance:
    """The provenance of all runs that figures rest on."""
    values = values_of(runs)
    values["hosts"] = _hosts(runs)
    started = sorted(run.environment.started_utc for run in runs)
    return Provenance(
        varied={name: sorted(found, key=_by_number) for name, found in values.items() if len(found) > 1},
        held={name: next(iter(found)) for name, found in values.items() if len(found) == 1},
        runs=len(runs),
        first_started_utc=started[0],
        last_started_utc=started[-1],
        commands=repeats_of(runs),
    )


def _hosts(runs: Sequence[RunSummary]) -> set[str]:
    """Each node once, with the numbers of ranks that runs had on it."""
    found: dict[str, set[int]] = {}
    for run in runs:
        for host in run.environment.hosts:
            found.setdefault(harmless(host.host), set()).add(host.ranks)
    return {f"{host} ({_alternatives(ranks)} {'rank' if ranks == {1} else 'ranks'})" for host, ranks in found.items()}


def _alternatives(numbers: set[int]) -> str:
    """'4', '1 or 4', '1, 2 or 4'."""
    *others, last = map(str, sorted(numbers))
    return f"{', '.join(others)} or {last}" if others else last


def _by_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text
