"""Which runs a prediction starts from, and which it must not start from (a sentence for each)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from horovod_flowers.config.script import is_script
from horovod_flowers.report.analysis.points import Point, points_of
from horovod_flowers.report.analysis.run_factors import work_apart
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.report.analysis.scaling_inputs import (
    ScalingStudy,
    is_emulated,
    profile_fits,
    study_of,
    usable,
)
from horovod_flowers.report.prediction.options import PredictionConfig
from horovod_flowers.runlog.collectives import Collectives
from horovod_flowers.runlog.reading.steps import times_begun
from horovod_flowers.runlog.step_profile import StepProfile, read_step_profile
from horovod_flowers.runtime.errors import UserError

MOST_NAMED = 3


def chosen_study(
    config: PredictionConfig,
    runs: Sequence[RunSummary],
    records: Sequence[Collectives],
    profiles: Sequence[StepProfile],
) -> ScalingStudy:
    """The one study that these runs are. Raises UserError where they are none, or several."""
    measured = _measured(runs, config.from_emulated)
    every = points_of(measured)
    points = [point for point in every if usable(point)]
    if not points:
        raise UserError(f"no run measures speed ({_named(runs)}): ranks shared cores; give each a core of its own")
    given = None if config.profile is None else read_profile(Path(config.profile))
    baselines = [point for point in points if point.ranks == 1]
    if not baselines:
        counts = ", ".join(str(count) for count in sorted({point.ranks for point in points}))
        raise UserError(f"there is no run of one rank (only of {counts}): a prediction starts from what one computes")
    profiles = profiles if given is None else [given]
    studies = _studies(points, baselines, records, profiles)
    wanted = [study for study in studies if config.scaling in ("auto", study.scaling)]
    if not wanted and config.scaling != "auto":  # from one rank, whose batch is its own and the global one
        alone = [study_of([], study.baseline, records, profiles) for study in studies]
        wanted = [replace(study, scaling=config.scaling) for study in alone]
    if len(wanted) > 1:
        raise UserError(f"the runs are of different work ({_apart(wanted)}): give the folder of one, or --scaling")
    (study,) = wanted
    if given is not None and not profile_fits(given, study.baseline):
        raise UserError(
            f"profile {config.profile} is of other work than the runs: model {given.model}, {given.precision}, "
            f"{given.threads} thread(s) on {given.cpu_model or 'an unknown processor'}, or other options; measure the "
            "runs' own with python -m horovod_flowers.step_profile"
        )
    return replace(study, left_out=(*_not_used(runs, measured, every, study), *study.left_out))


def _not_used(
    runs: Sequence[RunSummary], measured: Sequence[RunSummary], points: Sequence[Point], study: ScalingStudy
) -> list[str]:
    """Runs that the prediction does not start from, with the reason."""
    found = []
    others = [run for run in runs if run not in measured]
    if others:
        found.append(
            f"{_named(others)}: resumed, of a script, or of the other kind of emulated and real ones: left out"
        )
    used = (study.baseline, *study.points)
    for point in points:
        if any(point.runs == each.runs for each in used):
            continue
        if not usable(point):
            reason = "ranks shared cores"
        elif point.refusal is not None:
            reason = point.refusal
        elif point.baseline is not None:
            reason = f"of {point.scaling} scaling, and {study.scaling} scaling is predicted"
        else:
            reason = f"no run of one rank did the same work{point.nearest}"
        found.append(f"{_named(point.runs)}: {reason}: left out")
    return found


def _measured(runs: Sequence[RunSummary], from_emulated: bool) -> list[RunSummary]:
    """Runs that are a measurement: not resumed, and either all real, or all emulated where that is asked for."""
    scripts = [run for run in runs if is_script(run.config)]
    if len(scripts) == len(runs):
        raise UserError(
            f"every run is of a script ({_named(scripts)}), whose calls are its own: they are not predicted"
        )
    own = [run for run in runs if not is_script(run.config)]
    whole = [run for run in own if times_begun(run.path) == 1]
    if not whole:
        raise UserError(f"every run was resumed ({_named(runs)}): the times before and after are not of one job")
    emulated = [run for run in whole if is_emulated(run)]
    if from_emulated:
        if not emulated:
            raise UserError("from_emulated is given, and no run is emulated: leave it out")
        return emulated
    real = [run for run in whole if not is_emulated(run)]
    if not real:
        raise UserError(
            f"every run is emulated ({_named(emulated)}): they slept for what others would compute; add "
            "--from-emulated to predict from them all the same, marked"
        )
    return real


def _studies(
    points: Sequence[Point],
    baselines: Sequence[Point],
    records: Sequence[Collectives],
    profiles: Sequence[StepProfile],
) -> list[ScalingStudy]:
    """By baseline and kind of scaling; a baseline that nothing is compared with is a study of its own."""
    found = []
    for baseline in baselines:
        members = [p for p in points if p.ranks > 1 and p.baseline is not None and p.baseline.runs == baseline.runs]
        for scaling in ("strong", "weak"):
            of_kind = [point for point in members if point.scaling == scaling]
            if of_kind or (not members and baseline.scaling == scaling):
                found.append(study_of(of_kind, baseline, records, profiles))
    return found


def _apart(studies: Sequence[ScalingStudy]) -> str:
    first, other = studies[0], studies[1]
    differing = work_apart(first.baseline.work, other.baseline.work)
    if not differing:
        return f"{first.label}, and {other.label}"
    more = f", and {len(differing) - MOST_NAMED} more" if len(differing) > MOST_NAMED else ""
    return "; ".join(differing[:MOST_NAMED]) + more


def _named(runs: Sequence[RunSummary]) -> str:
    names = [run.name for run in runs[:MOST_NAMED]]
    return ", ".join(names) + (f" and {len(runs) - MOST_NAMED} more" if len(runs) > MOST_NAMED else "")


def read_profile(path: Path) -> StepProfile:
    """Raises UserError with a sentence."""
    try:
        return read_step_profile(path)
    except OSError as error:
        raise UserError(
            f"step profile {path} cannot be read ({error.strerror}): measure one with python -m "
            "horovod_flowers.step_profile"
        ) from error
