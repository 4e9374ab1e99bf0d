"""What an export gives back: files that are written together, and sentences for whoever asked for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from horovod_flowers.report.analysis.run_summary import RunSummary


@dataclass(frozen=True)
class Exported:
    """The files of one format."""

    files: Mapping[str, str | bytes]
    """What each holds, by its path within the report's folder."""
    told: Sequence[str] = ()
    """Sentences: what was left out, and why."""
    folder: str | None = None
    """That all of them are in, where their number depends on the runs."""
    earlier: str = ""
    """A pattern of the paths in that folder that an earlier report wrote: what is not written again is removed."""


def names_of(runs: Sequence[RunSummary]) -> dict[RunSummary, str]:
    """A name for the file of each run: its own, with a number behind it where runs of several folders share it."""
    found: dict[RunSummary, str] = {}
    for run in runs:
        name, number = run.name, 1
        while name in found.values():
            number += 1
            name = f"{run.name}.{number}"
        found[run] = name
    return found
