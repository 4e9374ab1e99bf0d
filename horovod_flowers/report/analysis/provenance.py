"""What the figures rest on: factors varied and held, runs counted, failed and left out, and how to make them again."""

from collections.abc import Sequence
from dataclasses import dataclass

from horovod_flowers.report.analysis.repeat_commands import Repeat, repeats_of
from horovod_flowers.report.analysis.run_factors import values_of
from horovod_flowers.report.analysis.run_summary import RunSummary

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
    started = sorted(run.environment.started_utc for run in runs)
    return Provenance(
        varied={name: sorted(found, key=_by_number) for name, found in values.items() if len(found) > 1},
        held={name: next(iter(found)) for name, found in values.items() if len(found) == 1},
        runs=len(runs),
        first_started_utc=started[0],
        last_started_utc=started[-1],
        commands=repeats_of(runs),
    )


def _by_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text
