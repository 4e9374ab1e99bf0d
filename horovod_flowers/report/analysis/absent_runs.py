"""Runs of a point that are not among its figures: failed, stopped, unfinished, removed. Those that are left may be the
fast ones.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from horovod_flowers.config.options import Effect, flat_options, names_of
from horovod_flowers.config.run import RunConfig
from horovod_flowers.config.script import ScriptConfig, is_script
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.runlog.json_lines import read_json
from horovod_flowers.runlog.reading.config import read_config
from horovod_flowers.runlog.records import Environment
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.study_attempts import last_attempts
from horovod_flowers.runtime.errors import UserError

MOST_TOLD = 6
_OF_STUDY = re.compile(r"(?P<study>.+)-(?P<ranks>\d+)ranks-(?P<how>.+)-run(?P<number>\d+)")
"""A name that a study gives (study/points.py)."""
_COPY = ("a copy of", "the same folder as")
_APART = (Effect.FOLDER, Effect.PLACE, Effect.OUTPUT, Effect.REPETITION, Effect.HARMLESS)
"""Options that repetitions of a run may differ in."""


@dataclass(frozen=True)
class AbsentRun:
    """A run that was begun, or a point of a study, of which there are no figures."""

    name: str
    reason: str
    options: str | None = None
    """What repetitions have in common with it, where its folder tells: see `options_of`."""


@cache
def _options_of(run: RunSummary) -> str:
    return options_of(run.config, run.ranks)


def options_of(config: dict[str, Any], ranks: int) -> str:
    """The number of ranks and the options that repetitions of a run have in common."""
    kind = ScriptConfig if is_script(config) else RunConfig
    untold = names_of(kind, *_APART)
    values = flat_options(asdict(kind())) | flat_options(config)
    return repr((ranks, sorted((name, repr(value)) for name, value in values.items() if name not in untold)))


def left_out_run(path: Path, name: str, reason: str) -> AbsentRun:
    """A folder that is no figure, with what its files tell of it."""
    folder = RunFolder(path)
    try:
        ranks = read_json(folder.environment, Environment).world_size
        return AbsentRun(name, reason, options_of(read_config(folder.config), ranks))
    except (OSError, UserError, msgspec.MsgspecError):
        return AbsentRun(name, reason)


def absent_points(runs_dir: Path, present: Iterable[str]) -> list[AbsentRun]:
    """Points of studies of a folder of runs that did not finish, or finished and are gone. present: names of runs that
    are there, whole or not.
    """
    there, found = set(present), []
    for name, attempt in last_attempts(runs_dir):
        if name in there or _has_other_record(runs_dir, name):
            continue
        reason = attempt.reason or attempt.outcome
        told = "finished, and its folder is gone" if attempt.outcome == "finished" else f"{attempt.outcome}: {reason}"
        found.append(AbsentRun(name, told))
    return found


def _has_other_record(runs_dir: Path, name: str) -> bool:
    """Whether it is no run of training (collective calls, a profile): these have a record in a folder of their own."""
    return any(path.parent.name != ".study" for path in runs_dir.glob(f".*/{name}.json"))


def absence_of(runs: Sequence[RunSummary], every: Sequence[str], absent: Sequence[AbsentRun]) -> str | None:
    """A sentence where runs of a point are missing. every: the names of all runs that are figures, of any point.

    A study numbers its repetitions and makes as many of each point, so that a gap shows, and an end that comes early.
    """
    present = {*every}
    reasons = {run.name: run.reason for run in absent if run.name not in present}
    missing = {
        run.name: run.reason
        for run in absent
        if run.name in reasons
        and not run.reason.startswith(_COPY)
        and run.options is not None
        and run.options in {_options_of(each) for each in runs}
    }
    most = _most_repetitions([*present, *reasons])
    for run in runs:
        named = _OF_STUDY.fullmatch(run.name)
        if named is None:
            continue
        for number in range(1, most[named["study"]] + 1):
            name = f"{named['study']}-{named['ranks']}ranks-{named['how']}-run{number}"
            if name not in present:
                missing.setdefault(name, reasons.get(name, "not in these folders"))
    if not missing:
        return None
    told = [f"{name} ({reason})" for name, reason in sorted(missing.items())]
    listed = "; ".join(told if len(told) <= MOST_TOLD else [*told[:MOST_TOLD], "..."])
    return (
        f"{len(missing)} of its {len(missing) + len(runs)} runs are missing, and those that are there "
        f"may be the fast ones: {listed}"
    )


def _most_repetitions(names: Iterable[str]) -> dict[str, int]:
    """By study: the highest number of a repetition."""
    found: dict[str, int] = {}
    for name in names:
        named = _OF_STUDY.fullmatch(name)
        if named is not None:
            found[named["study"]] = max(found.get(named["study"], 0), int(named["number"]))
    return found
