"""Everything that the report says, gathered once: the terminal, the pages, the pictures and the files all show this."""

from collections.abc import Sequence
from dataclasses import dataclass

from horovod_flowers.report.analysis.absent_runs import AbsentRun
from horovod_flowers.report.analysis.bounds import Bounds, bounds_of
from horovod_flowers.report.analysis.call_costs import Kind, calibrations_of
from horovod_flowers.report.analysis.claims import (
    BeforeAfter,
    Comparison,
    Proposal,
    Verdict,
    before_and_after,
    compare,
    judge,
    proposal_of,
)
from horovod_flowers.report.analysis.doubts import doubts_of
from horovod_flowers.report.analysis.drift import Drift, drift_of
from horovod_flowers.report.analysis.efficiency_losses import (
    EfficiencyLosses,
    efficiency_losses_of,
    without_communication_of,
)
from horovod_flowers.report.analysis.evaluation import Evaluation, evaluation_of, predictions_of
from horovod_flowers.report.analysis.findings import Findings, findings_of
from horovod_flowers.report.analysis.laws import Fit, Law, fit, preferred
from horovod_flowers.report.analysis.learning import Curve, Reached, curve_of, reached_by
from horovod_flowers.report.analysis.points import Point, Series, points_of, series_of
from horovod_flowers.report.analysis.pop import PopEfficiencies, pop_of
from horovod_flowers.report.analysis.proposal_table import ProposalTable, proposal_table_of
from horovod_flowers.report.analysis.provenance import Provenance, provenance_of
from horovod_flowers.report.analysis.rank_times import RankTimes, bursts_of, rank_times_of, shown_in_detail
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.report.analysis.scaling_inputs import ScalingStudy, studies_of
from horovod_flowers.report.analysis.utilisation import Utilisation, doubts_of_utilisation, utilisation_of
from horovod_flowers.report.options import ReportConfig
from horovod_flowers.report.prediction.answer import Answer, answer
from horovod_flowers.report.prediction.study import chosen_study
from horovod_flowers.runlog.collectives import Collectives
from horovod_flowers.runlog.machine_peak import MachinePeak
from horovod_flowers.runlog.step_profile import StepProfile
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.machine import own_command
from horovod_flowers.scaling_model.calibration import Calibration
from horovod_flowers.scaling_model.hold_out import HeldOut

MOST_EVALUATIONS = 3


@dataclass(frozen=True)
class SeriesFits:
    """The laws fitted to a series, and why others were not."""

    series: Series
    fits: list[Fit]
    refused: list[str]

    @property
    def preferred(self) -> tuple[Fit, float] | None:
        """The law that the data prefer, and by how much of AICc; None where they do not tell."""
        return preferred(self.fits)


@dataclass(frozen=True)
class Content:
    """The report."""

    command: list[str]
    findings: Findings | None
    """The answer; None without a ratio that measures speed."""
    points: list[Point]
    series: list[Series]
    fits: list[SeriesFits]
    efficiency_losses: dict[Point, EfficiencyLosses]
    bounds: dict[Point, Bounds]
    rank_times: list[RankTimes]
    """Of every point of more than one rank."""
    pop: dict[Point, PopEfficiencies]
    utilisations: dict[Point, Utilisation]
    """Percent of peak, of points that are not emulated."""
    doubts: dict[Point, list[str]]
    """Sentences for each point that something speaks against, or against its baseline where that is no point here."""
    drift: Drift | None
    """Over the starts of all runs; None where there is nothing to see."""
    bursts: dict[Point, str]
    """A sentence for each point whose mean and median step part."""
    detailed: list[RankTimes]
    """Of those that are drawn."""
    curves: list[tuple[Point, list[Curve]]]
    reached: list[Reached]
    evaluations: list[Evaluation]
    """Of the runs that have predictions, the most accurate first: at most MOST_EVALUATIONS on validation images, then
    as many on other images."""
    proposals: list[Proposal]
    proposal_tables: list[ProposalTable]
    """Of each series that may be in a proposal."""
    before_after: BeforeAfter | None
    comparison: Comparison | None
    verdicts: list[Verdict]
    provenance: Provenance
    collectives: list[Collectives]
    call_models: dict[Kind, Calibration]
    """Fitted to them, by their kind."""
    predicted: Answer | None
    """Larger numbers of ranks, where these were asked for."""
    held_out: list[tuple[ScalingStudy, list[HeldOut]]]
    """Each number of ranks predicted from the smaller ones, of each work with three numbers of ranks or more."""
    left_out: list[tuple[str, str]]
    failed: list[tuple[str, str]]

    @property
    def oversubscribed(self) -> bool:
        """Whether any figure is of ranks that shared a core."""
        return any(point.oversubscribed for point in self.points)

    @property
    def emulated(self) -> bool:
        """Whether any figure is of emulated runs."""
        return any(point.emulated for point in self.points)

    @property
    def unlike(self) -> bool:
        """Whether any figure is of runs that differ in what may change their speed."""
        return any(point.unlike for point in self.points)


def gather(
    config: ReportConfig,
    runs: Sequence[RunSummary],
    collectives: Sequence[Collectives],
    left_out: Sequence[tuple[str, str]],
    failed: Sequence[tuple[str, str]],
    profiles: Sequence[StepProfile] = (),
    absent: Sequence[AbsentRun] = (),
    peaks: Sequence[MachinePeak] = (),
) -> Content:
    """Work out the report. absent: runs that are not among `runs`, whether listed as left out or failed, or not.

    Raises UserError where options ask for what the runs cannot answer.
    """
    comparison = compare(runs, config.compare, config.allow_differences) if config.compare is not None else None
    points = points_of(runs, config.baseline, config.allow_differences, absent)
    series = series_of(points)
    evaluations, unreadable = evaluations_of(runs)
    uncoupled = {point: without_communication_of(point, points) for point in points}
    efficiency_losses = {point: efficiency_losses_of(point, uncoupled[point]) for point in points}
    call_models = calibrations_of(collectives)
    bounds = {point: bounds_of(point, uncoupled[point], call_models) for point in points}
    drawn = shown_in_detail(series)
    rank_times = [rank_times_of(point) for point in points if point.ranks > 1]
    proposed = [proposal_of(members, config.min_efficiency) for members in series if not members.without_communication]
    proposals = [proposal for proposal in proposed if proposal is not None]
    losses = {point: found for point, found in efficiency_losses.items() if found is not None}
    utilisations = {point: utilisation for point in points if (utilisation := utilisation_of(point, peaks)) is not None}
    alone = {point.runs for point in points}
    doubts = {
        point: told
        for point in points
        if (
            told := [
                *doubts_of(point, of_baseline=point.baseline is None or point.baseline.runs not in alone),
                *doubts_of_utilisation(utilisations.get(point)),
            ]
        )
    }
    return Content(
        command=own_command(),
        findings=findings_of(series, losses, doubts, proposals),
        points=points,
        series=series,
        fits=[fits_of(members) for members in series],
        efficiency_losses=losses,
        pop={
            point: efficiencies
            for point, bound in bounds.items()
            if (efficiencies := pop_of(point, None if bound is None else bound.communication_seconds)) is not None
        },
        bounds={point: found for point, found in bounds.items() if found is not None},
        rank_times=rank_times,
        bursts={point: found for point in points if (found := bursts_of(point)) is not None},
        detailed=[times for times in rank_times if times.point in drawn],
        curves=[(point, [curve_of(run) for run in point.runs]) for point in points if not point.emulated],
        reached=reached_by([point for point in points if not point.emulated], config.target_accuracy),
        evaluations=evaluations,
        proposals=proposals,
        proposal_tables=proposal_tables_of(config, series),
        before_after=before_and_after(series),
        utilisations=utilisations,
        comparison=comparison,
        doubts=doubts,
        drift=drift_of([point for point in points if not point.emulated]),
        verdicts=[judge(check, points, config.strict_checks) for check in config.checks],
        provenance=provenance_of(runs),
        collectives=list(collectives),
        call_models=call_models,
        predicted=predicted_of(config, runs, collectives, profiles),
        held_out=held_out_of(points, collectives, profiles),
        left_out=[*left_out, *unreadable],
        failed=list(failed),
    )


def proposal_tables_of(config: ReportConfig, series: Sequence[Series]) -> list[ProposalTable]:
    """The tables for proposals. Raises UserError where hours of planned runs are asked for and there is none."""
    made = [
        proposal_table_of(
            members, config.min_efficiency, config.planned_runs, config.baseline is not None, config.allow_differences
        )
        for members in series
    ]
    tables = [table for table in made if table is not None]
    if config.planned_runs is not None and not tables:
        raise UserError(
            "planned_runs is of a table for proposals, and these runs make none, which takes several numbers of ranks "
            "with cores of their own, of a strategy that communicates, not emulated: leave out --planned-runs, or run "
            "more"
        )
    return tables


def predicted_of(
    config: ReportConfig,
    runs: Sequence[RunSummary],
    collectives: Sequence[Collectives],
    profiles: Sequence[StepProfile],
) -> Answer | None:
    """What was asked for of larger numbers of ranks. Raises UserError where the runs cannot tell."""
    asked = config.prediction
    return None if asked is None else answer(asked, chosen_study(asked, runs, collectives, profiles))


def held_out_of(
    points: Sequence[Point], collectives: Sequence[Collectives], profiles: Sequence[StepProfile]
) -> list[tuple[ScalingStudy, list[HeldOut]]]:
    """What each study predicts of its own larger numbers of ranks."""
    found = [(study, study.held_out()) for study in studies_of(points, collectives, profiles)]
    return [(study, rows) for study, rows in found if rows]


def evaluations_of(runs: Sequence[RunSummary]) -> tuple[list[Evaluation], list[tuple[str, str]]]:
    """The evaluations that runs have, and those that cannot be read."""
    found, unreadable = [], []
    for run, of in [(each, of) for each in runs for of in predictions_of(each)]:
        try:
            evaluation = evaluation_of(run, of)
        except (OSError, UserError) as error:
            unreadable.append((f"predictions of {run.name}", str(error)))
            continue
        if evaluation is not None:
            found.append(evaluation)
    found.sort(key=lambda evaluation: -evaluation.metrics.accuracy.value)
    groups = [[each for each in found if bool(each.of) is other] for other in (False, True)]
    return [each for group in groups for each in group[:MOST_EVALUATIONS]], unreadable


def fits_of(series: Series) -> SeriesFits:
    """The laws that fit a series' kind of scaling; points whose ranks shared cores are left out."""
    members = [*([series.baseline] if series.baseline is not None else []), *series.rated]
    runs = {point.ranks: point.totals for point in members if not point.oversubscribed}
    laws: tuple[Law, ...] = ("Amdahl" if series.points[0].scaling == "strong" else "Gustafson", "USL")
    tried = [fit(law, runs) for law in laws]
    return SeriesFits(
        series, [found for found in tried if isinstance(found, Fit)], [word for word in tried if isinstance(word, str)]
    )
