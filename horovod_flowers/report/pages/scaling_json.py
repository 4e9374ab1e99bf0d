"""The report as plain values, for scaling.json and scaling.csv. Their schema: docs/report.md."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from horovod_flowers.report.analysis.claims import BeforeAfter, Comparison, Proposal, Side
from horovod_flowers.report.analysis.drift import Drift
from horovod_flowers.report.analysis.evaluation import Evaluation
from horovod_flowers.report.analysis.intervals import Estimate
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.report.analysis.pop import PopEfficiencies
from horovod_flowers.report.analysis.rank_times import RankTimes
from horovod_flowers.report.analysis.run_factors import run_factors_of
from horovod_flowers.report.analysis.scaling_inputs import ScalingStudy
from horovod_flowers.report.analysis.utilisation import Utilisation
from horovod_flowers.report.content import Content
from horovod_flowers.report.pages.answer_words import answer_lines
from horovod_flowers.report.pages.predicted import as_json
from horovod_flowers.report.pages.proposal_values import as_json as proposal_table_json
from horovod_flowers.scaling_model.algorithms import SIZES
from horovod_flowers.scaling_model.calibration import Calibration
from horovod_flowers.scaling_model.hold_out import HeldOut

SCHEMA = 4
COLUMNS = (
    *(
        "scaling",
        "batch",
        "precision",
        "strategy",
        "which",
        "ranks",
        "nodes",
        "ranks_per_node",
        "threads",
        "epochs",
        "runs",
    ),
    *("model", "data", "optimizer", "cpu", "gpu", "mpi", "commit"),
    *("median_step_seconds", "median_step_seconds_low", "median_step_seconds_high", "mean_step_seconds"),
    *("images_per_second", "images_per_second_low", "images_per_second_high"),
    *("speed_up", "speed_up_low", "speed_up_high"),
    *("efficiency", "efficiency_low", "efficiency_high"),
    *("serial_fraction", "serial_fraction_low", "serial_fraction_high"),
    *(
        "no_communication_speed_up",
        "model_communication_seconds",
        "shown_communication_seconds",
        "model_exposed_speed_up",
    ),
    *("model_flops_per_image", "achieved_flops_per_second", "peak_flops_per_second", "compute_unit", "compute_units"),
    *("model_flops_utilisation", "model_flops_utilisation_low", "model_flops_utilisation_high"),
    *("bound_images_per_second", "bound_speed_up"),
    *("input_loss", "imbalance_loss", "communication_loss", "update_loss", "contention_loss", "rest_loss"),
    *("input_wait_share", "compute_share", "communication_share", "update_share"),
    *("step_seconds_p50", "step_seconds_p95", "step_seconds_p99"),
    *("best_validation_accuracy", "oversubscribed", "unlike", "baseline_runs", "run_names"),
)


def row(content: Content, point: Point) -> dict[str, Any]:
    """One point as plain values, None where there is none.

    Factors are those of its first run: `which` and `unlike` tell where others differ.
    """
    factors = run_factors_of(point.runs[0])
    found: dict[str, Any] = {
        "scaling": point.scaling,
        "batch": point.batch,
        "precision": point.precision,
        "strategy": point.strategy,
        "which": point.which,
        "ranks": point.ranks,
        "nodes": factors["nodes"],
        "ranks_per_node": factors["ranks per node"],
        "threads": "/".join(str(threads) for threads in dict(point.work)["threads"]),
        "epochs": point.runs[0].result.progress.epochs_done,
        "runs": len(point.runs),
        "model": factors.get("model.name", f"{point.runs[0].result.parameters} parameters"),
        "data": factors["data hash"],
        "optimizer": factors.get("optimizer.name", ""),
        "cpu": factors["CPU"],
        "gpu": factors["GPU"],
        "mpi": factors["MPI library"],
        "commit": factors["commit"],
    }
    for name, value in (
        ("median_step_seconds", point.step_seconds),
        ("images_per_second", point.images_per_second),
        ("speed_up", point.speed_up),
        ("efficiency", point.efficiency),
        ("serial_fraction", point.serial_fraction),
    ):
        found |= {name: value and value.value, f"{name}_low": value and value.low, f"{name}_high": value and value.high}
    found["mean_step_seconds"] = point.mean_step_seconds
    bounds, losses = content.bounds.get(point), content.efficiency_losses.get(point)
    found["no_communication_speed_up"] = bounds and bounds.no_communication and bounds.no_communication.value
    found["model_communication_seconds"] = bounds and bounds.communication_seconds
    found["shown_communication_seconds"] = bounds and bounds.shown_seconds
    found["model_exposed_speed_up"] = bounds and bounds.exposed
    found |= _utilisation(content.utilisations.get(point))
    for cause in ("input", "imbalance", "communication", "update", "contention", "rest"):
        found[f"{cause}_loss"] = losses and losses.shares[cause]
    found |= {f"{part}_share": share for part, share in point.part_shares.items()}
    times = next((times for times in content.rank_times if times.point is point), None)
    for name in ("p50", "p95", "p99"):
        found[f"step_seconds_{name}"] = times and times.percentiles[name]
    return {
        **{name: _finite(value) for name, value in found.items()},
        "best_validation_accuracy": point.best_validation_accuracy,
        "oversubscribed": point.oversubscribed,
        "unlike": "; ".join(point.unlike),
        "baseline_runs": " ".join(run.name for run in point.baseline.runs) if point.baseline else None,
        "run_names": " ".join(run.name for run in point.runs),
        # Only where runs are: it came later, and a report without is what it was.
        **({"emulated": _emulated(point)} if content.emulated else {}),
    }


def _utilisation(found: Utilisation | None) -> dict[str, Any]:
    share = found and found.share
    return {
        "model_flops_per_image": found and found.flops_per_image,
        "achieved_flops_per_second": found and found.achieved and found.achieved.value,
        "peak_flops_per_second": found and found.peak,
        "compute_unit": found and found.unit,
        "compute_units": found and found.units,
        "model_flops_utilisation": share and share.value,
        "model_flops_utilisation_low": share and share.low,
        "model_flops_utilisation_high": share and share.high,
        "bound_images_per_second": found and found.bound_images_per_second,
        "bound_speed_up": found and found.bound_speed_up,
    }


def _emulated(point: Point) -> str | None:
    emulated = point.runs[0].environment.emulated
    return None if emulated is None else emulated.kind


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _estimate(found: Estimate | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"value": _finite(found.value), "low": _finite(found.low), "high": _finite(found.high)}


def scaling_json(content: Content) -> dict[str, Any]:
    """The whole report."""
    points = []
    for point in content.points:
        runs = [
            {
                "run": run.name,
                "steps": len(run.slowest_seconds),
                "images": run.images,
                "timed_seconds": run.timed_seconds,
                "median_step_seconds": run.median_step_seconds,
                "mean_step_seconds": run.mean_step_seconds,
                "imbalance_seconds": run.imbalance_seconds,
                **{f"{part}_seconds": seconds for part, seconds in run.part_seconds.items()},
                "training_seconds": run.result.progress.training_seconds,
            }
            for run in point.runs
        ]
        refusal = point.refusal or (f"its baseline is missing{point.nearest}" if point.other_work else None)
        bursts = content.bursts.get(point)
        doubts = content.doubts.get(point, [])
        found = {
            **row(content, point),
            "pop": _pop(content.pop.get(point)),
            "no_utilisation": None if point not in content.utilisations else content.utilisations[point].missing,
            "bursts": bursts,
            "doubts": doubts,
            "refusal": refusal,
            "of_runs": runs,
        }
        points.append(found)
    return {
        "schema": SCHEMA,
        "answer": dict(answer_lines(content)),
        "command": shlex.join(content.command),
        "points": points,
        "laws": [
            {
                "series": fits.series.label,
                "law": fit.law,
                "rate_of_one": fit.rate_of_one,
                "parameters": {name: _estimate(value) for name, value in fit.parameters.items()},
                "peak_ranks": _estimate(fit.determined_peak),
                "residual": fit.quality.residual,
                "aicc": fit.quality.information,
                "lack_of_fit_p": fit.quality.lack_of_fit,
                "not_extrapolated": fit.not_extrapolated,
                "rank_counts": list(fit.rank_counts),
            }
            for fits in content.fits
            for fit in fits.fits
        ],
        "laws_refused": [
            {"series": fits.series.label, "reason": reason} for fits in content.fits for reason in fits.refused
        ],
        "collectives": [_call_model(found) for found in content.call_models.values()],
        **({"predicted": as_json(content.predicted)} if content.predicted is not None else {}),
        # Only where three numbers of ranks were measured: it came later, and a report without is what it was.
        **({"held_out": [_held_out(*found) for found in content.held_out]} if content.held_out else {}),
        "ranks": [_rank_times(times) for times in content.rank_times],
        "time_to_accuracy": [
            {
                "run_names": [run.name for run in found.point.runs],
                "accuracy": found.accuracy,
                "runs_that_reached_it": found.runs,
                "median_seconds": found.median_seconds,
            }
            for found in content.reached
        ],
        "proposals": [_proposal(proposal) for proposal in content.proposals],
        "proposal_tables": [proposal_table_json(table) for table in content.proposal_tables],
        "before_after": _before_after(content.before_after),
        "comparison": _comparison(content.comparison),
        "checks": [
            {"check": verdict.check.text, "strict": verdict.strict, "passed": verdict.passed, "reason": verdict.reason}
            for verdict in content.verdicts
        ],
        # Only where runs have some: it came later, and a report without is what it was.
        **({"evaluations": [_evaluation(found) for found in content.evaluations]} if content.evaluations else {}),
        "provenance": {
            "varied": content.provenance.varied,
            "held": content.provenance.held,
            "runs": content.provenance.runs,
            "commands": [
                {"command": found.command, "runs": found.runs, "needs": list(found.needs)}
                for found in content.provenance.commands
            ],
        },
        "drift": _drift(content.drift),
        "left_out": [{"run": name, "reason": reason} for name, reason in content.left_out],
        "failed": [{"point": name, "reason": reason} for name, reason in content.failed],
    }


def _drift(found: Drift | None) -> dict[str, Any] | None:
    if found is None:
        return None
    low, high = found.span if found.span is not None else (None, None)
    return {"change": found.change, "low": low, "high": high, "sentence": found.sentence}


def _call_model(found: Calibration) -> dict[str, Any]:
    model = found.model
    return {
        "ranks": list(found.ranks),
        "calls": found.calls,
        "relative_error": found.relative_error,
        "algorithms": model.choice.words,
        "call_seconds": {operation: model.call_base_seconds(operation) for operation in model.call_seconds_more},
        "call_seconds_per_doubling": model.coordination_seconds_per_doubling if len(found.ranks) > 1 else None,
        **{
            side: {"latency_seconds": cost.latency_seconds, "seconds_per_byte": cost.by_pattern}
            for side, cost in (("between_nodes", model.between_nodes), ("in_node", model.in_node))
            if getattr(found, side)
        },
        "message_bytes": list(SIZES),
        "reduction_seconds_per_byte": model.added_seconds_per_byte,
        "emulated": found.emulated,
    }


def _held_out(study: ScalingStudy, rows: Sequence[HeldOut]) -> dict[str, Any]:
    return {
        "work": study.label,
        "emulated": study.emulated,
        "rows": [
            {
                "strategy": found.setting.label,
                "ranks": found.ranks,
                "from_ranks": list(found.from_ranks),
                "measured_seconds": found.measured_seconds,
                "predicted_seconds": found.predicted and found.predicted.step_seconds,
                "low_seconds": found.predicted and found.predicted.low_seconds,
                "high_seconds": found.predicted and found.predicted.high_seconds,
                "error": found.error,
                "inside": found.inside,
                "reason": found.reason or None,
            }
            for found in rows
        ],
    }


def _evaluation(found: Evaluation) -> dict[str, Any]:
    metrics = found.metrics
    return {
        "run": found.run,
        "of": found.of or "validation",
        "images": metrics.images,
        "accuracy": dict(vars(metrics.accuracy)),
        "top_k": None if metrics.top_k is None else {"k": metrics.top_k.k, **vars(metrics.top_k.accuracy)},
        "log_loss": metrics.log_loss,
        "expected_calibration_error": metrics.calibration.expected_error,
        "calibration_bins": len(metrics.calibration.bins),
        "classes": [
            {**vars(row), "accuracy": None if row.accuracy is None else dict(vars(row.accuracy))}
            for row in metrics.classes
        ],
        "confusion": metrics.confusion.tolist(),
    }


def _rank_times(times: RankTimes) -> dict[str, Any]:
    return {
        "run": times.run.name,
        "ranks": times.point.ranks,
        "strategy": times.point.strategy,
        "percentiles": times.percentiles,
        "slow_ranks": times.straggler_count,
        "slowest": [
            {
                "rank": slow.rank,
                "host": slow.host,
                "cores": slow.cores,
                "excess": slow.excess,
                "last_share": slow.last_share,
            }
            for slow in times.stragglers
        ],
    }


def _proposal(proposal: Proposal) -> dict[str, Any]:
    point = proposal.point
    return {
        "series": proposal.series.label,
        "threshold": proposal.threshold,
        "ranks": None if point is None else point.ranks,
        "efficiency": None if point is None else _estimate(point.efficiency),
        "core_hours": proposal.core_hours,
    }


def _before_after(found: BeforeAfter | None) -> dict[str, Any] | None:
    if found is None:
        return None
    sides = {"before": _side(found.before), "after": _side(found.after)}
    return {**sides, "speed_up": _estimate(found.speed_up), "refusal": found.refusal}


def _side(side: Side | None) -> dict[str, Any] | None:
    return None if side is None else dict(vars(side))


def _comparison(found: Comparison | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "names": list(found.names),
        "runs": list(found.runs),
        "images_per_second": [_estimate(rate) for rate in found.rates],
        "ratio": _estimate(found.ratio),
        "factors": list(found.factors),
        "intervals_apart": found.apart,
        "oversubscribed": found.oversubscribed,
        **({"emulated": True} if found.emulated else {}),
    }


def _pop(found: PopEfficiencies | None) -> dict[str, float | None] | None:
    if found is None:
        return None
    products = {"parallel": found.parallel, "global": found.global_efficiency, "serialisation": found.serialisation}
    return asdict(found) | products
