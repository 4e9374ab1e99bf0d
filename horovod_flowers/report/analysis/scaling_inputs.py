"""What a prediction of scaling starts from, out of a report's points: the runs of one work with their baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from horovod_flowers.config.choices import StrategyName
from horovod_flowers.config.run import RunConfig
from horovod_flowers.config.script import is_script
from horovod_flowers.report.analysis.allocation import cores_of
from horovod_flowers.report.analysis.call_costs import alike, calibrations_of, network_of
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.report.analysis.run_factors import cpu_models_of, work_of
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.runlog.collectives import Collectives
from horovod_flowers.runlog.step_profile import StepProfile
from horovod_flowers.scaling_model.calibration import Calibration
from horovod_flowers.scaling_model.hold_out import HeldOut, hold_out
from horovod_flowers.scaling_model.measured_steps import MeasuredStep, Scaling, Setting, Workload
from horovod_flowers.scaling_model.prediction import CallModels, Predictor


@dataclass(frozen=True, eq=False)
class ScalingStudy:
    """Points of one work that share a baseline of one rank, and what was measured beside them."""

    baseline: Point
    points: tuple[Point, ...]
    """On several ranks; of one kind, emulated or not, and with cores of their own."""
    scaling: Scaling
    records: tuple[Collectives, ...]
    """Of measured calls on such ranks."""
    profile: StepProfile | None
    left_out: tuple[str, ...] = ()
    """What was measured beside the runs and does not fit them, in sentences."""

    @property
    def emulated(self) -> bool:
        """Whether the runs slept for what others would compute."""
        return any(is_emulated(run) for point in (self.baseline, *self.points) for run in point.runs)

    @property
    def label(self) -> str:
        """Such as 'strong scaling, batch 64, fp32'."""
        point = self.points[0] if self.points else self.baseline
        batch = self.workload.batch
        each = "" if self.scaling == "strong" else " a rank"
        return f"{self.scaling} scaling, batch {batch}{each}, {point.precision}"

    @property
    def counts(self) -> list[int]:
        """The numbers of ranks that were measured."""
        return sorted({self.baseline.ranks, *(point.ranks for point in self.points)})

    @property
    def run(self) -> RunSummary:
        """One of the runs that show best how ranks are placed and divided."""
        return max(self.points, key=lambda point: point.ranks, default=self.baseline).runs[0]

    @property
    def workload(self) -> Workload:
        """What is computed, whatever the number of ranks."""
        run = self.run
        environment, config = run.environment, run.config
        batch = environment.global_batch // (1 if self.scaling == "strong" else environment.world_size)
        layers = config.get("shard_layers")
        # The part of every rank of cores and GPUs, and the images of the whole training.
        gpus = sum(rank.gpu is not None for rank in environment.ranks)
        trained = [sum(epoch.images for epoch in run.epochs) for run in self.baseline.runs]
        return Workload(
            scaling=self.scaling,
            batch=batch,
            precision=environment.precision,
            shard_above=int(config.get("shard_above", 1_000_000)),
            shard_layers=tuple(name.strip() for name in layers.split(",")) if layers else None,
            fuses_tensors=_fuses(config),
            parameters=run.result.parameters,
            images=None if self.emulated else float(np.median(trained)),
            cores_per_rank=cores_of(run) / run.ranks,
            gpus_per_rank=gpus / run.ranks,
        )

    def predictor(self, calls: CallModels | None, ranks_per_node: int | None = None) -> Predictor:
        """Of steps of this work. calls: None where no network is known."""
        steps = [measured_step(point) for point in (self.baseline, *self.points)]
        per_node = self.run.environment.ranks[0].local_size if ranks_per_node is None else ranks_per_node
        return Predictor(self.workload, steps, calls, self.profile, per_node)

    def calibration(self, below: int | None = None) -> Calibration | None:
        """The model of the measured calls, of those over fewer ranks than `below`; None where there are none."""
        found = calibrations_of([record for record in self.records if below is None or record.world_size < below])
        return max(found.values(), key=lambda model: model.calls, default=None)

    def held_out(self) -> list[HeldOut]:
        """Each number of ranks predicted from the smaller ones."""

        def calls_below(ranks: int, several_nodes: bool) -> CallModels | None:
            found = self.calibration(ranks)
            return None if found is None or several_nodes > found.between_nodes else call_models(found)

        return hold_out(self.predictor(None), calls_below)


def call_models(found: Calibration) -> CallModels:
    """The three that a prediction takes."""
    return CallModels(found.low, found.model, found.high)


def is_emulated(run: RunSummary) -> bool:
    """Whether what the run took is no measurement of this machine."""
    return run.environment.emulated is not None


def _fuses(config: Mapping[str, Any]) -> bool:
    horovod = config.get("horovod") or {}
    return horovod.get("fusion_threshold_mb") is not None


def setting_of(run: RunSummary) -> Setting | None:
    """How its ranks divided the work; None on one rank, and of a script's run, whose strategy is its own."""
    strategy = run.environment.strategy
    if run.ranks == 1 or strategy not in get_args(StrategyName):
        return None
    config = run.config
    return Setting(
        strategy,  # type: ignore[arg-type]
        _group_of(run) if strategy == "mesh" else None,
        config.get("dense_gradients", "auto") if strategy in ("allreduce", "sharded") else "auto",
        config.get("compression", "none") if strategy == "allreduce" else "none",
    )


def _group_of(run: RunSummary) -> int:
    """Ranks of a mesh that divide one copy of the layers: those that were asked for, or of a node as far as they divide
    all ranks."""
    given = run.config.get("model_parallel_size")
    per_node = min(rank.local_size for rank in run.environment.ranks)
    return int(given) if given else RunConfig(strategy="mesh").model_parallel_size_for(run.ranks, per_node)


def measured_step(point: Point) -> MeasuredStep:
    """The medians of a point's runs. The parts are shares of the ranks' time, of its median step."""
    run, shares = point.runs[0], point.part_shares
    seconds = point.step_seconds.value
    work = np.concatenate([each.work_quantile_seconds for each in point.runs])
    return MeasuredStep(
        setting=setting_of(run),
        ranks=point.ranks,
        step_seconds=seconds,
        compute_seconds=shares["compute"] * seconds,
        update_seconds=shares["update"] * seconds,
        input_seconds=shares["input_wait"] * seconds,
        work_seconds=tuple(work.tolist()),
        volume=run.environment.communication_volume,
        ranks_per_node=run.environment.ranks[0].local_size,
    )


def studies_of(
    points: Sequence[Point], records: Sequence[Collectives], profiles: Sequence[StepProfile] = ()
) -> list[ScalingStudy]:
    """Points on several ranks by their baseline and kind of scaling. Left out: those whose ranks shared cores, unless
    emulated, those of resumed runs, whose times are of several jobs, and those of scripts, whose calls are their own.
    """
    groups: dict[tuple[int, str, bool], list[Point]] = {}
    for point in points:
        baseline = point.baseline
        if baseline is None or baseline.ranks != 1 or point.ranks == 1 or is_script(point.runs[0].config):
            continue
        if usable(point) and not was_resumed(point) and not was_resumed(baseline):
            groups.setdefault((id(baseline), point.scaling, is_emulated(point.runs[0])), []).append(point)
    found = []
    for members in groups.values():
        assert members[0].baseline is not None
        found.append(study_of(members, members[0].baseline, records, profiles))
    return found


def was_resumed(point: Point) -> bool:
    """Whether a run of it was: its times are of several jobs."""
    return any(run.starts > 1 for run in point.runs)


def usable(point: Point) -> bool:
    """Whether its times are a measure of speed: with cores of their own, or emulated and within the gauge."""
    runs = point.runs
    if any(is_emulated(run) for run in runs):
        return all(run.result.core_gauge is None or run.result.core_gauge.problem is None for run in runs)
    return not point.oversubscribed


def study_of(
    members: Sequence[Point], baseline: Point, records: Sequence[Collectives], profiles: Sequence[StepProfile]
) -> ScalingStudy:
    """Points on several ranks, none or more, with their baseline, and of these measurements what fits them."""
    first = members[0] if members else baseline
    scaling: Scaling = "strong" if first.scaling == "strong" else "weak"
    fitting = tuple(record for record in records if of_the_same_kind(record, first))
    profile = next((profile for profile in profiles if profile_fits(profile, first)), None)
    left_out = []
    if records and not fitting:
        left_out.append(
            f"collective calls were measured in {len(records)} place(s), none on the runs' kind of processor, threads "
            "and network with cores of their own: they are left out"
        )
    kinds = calibrations_of(fitting)
    if len(kinds) > 1:
        left_out.append(f"calls were measured under {len(kinds)} settings: the one with the most calls is taken")
    elif fitting and not kinds:
        left_out.append(
            "the measured calls could not be fitted (too few sizes, or algorithms that the model does not know): they "
            "are left out"
        )
    if profiles and profile is None:
        left_out.append(
            f"{len(profiles)} step profile(s) are of other work, threads or processor than the runs: they are left out"
        )
    return ScalingStudy(baseline, tuple(members), scaling, fitting, profile, tuple(left_out))


def of_the_same_kind(record: Collectives, point: Point) -> bool:
    """Whether calls were measured on this point's kind of CPU, threads a rank and network, with cores of their own."""
    work, run = dict(point.work), point.runs[0]
    emulated = run.environment.emulated
    if (record.emulated is None) is not (emulated is None):
        return False
    if emulated is not None:  # ranks that sleep have whatever threads they stand for
        judged = record.core_gauge is None or record.core_gauge.problem is None
        return judged and emulated.network is not None and alike(network_of(record), emulated.network)
    cpu_models = tuple(sorted({model or "" for model in record.cpu_models}))
    return not record.oversubscribed and (cpu_models, (record.threads,)) == (cpu_models_of(run), work["threads"])


def profile_fits(profile: StepProfile, point: Point) -> bool:
    """Whether a profile is of this point's work: every option that both know, model and precision; of runs that are
    not emulated, their threads and processor, too."""
    work = {name: value for name, value in work_of(point.runs[0]) if name not in ("scaling", "global_batch")}
    on_gpus = any(rank.gpu is not None for rank in point.runs[0].environment.ranks)
    if not point.emulated and (profile.gpu is not None) is not on_gpus:
        return False
    if profile.model != work.get("model") or profile.precision != work["precision"]:
        return False
    of_machine = ((profile.threads,), (profile.cpu_model or "",))
    if not point.emulated and of_machine != (work["threads"], cpu_models_of(point.runs[0])):
        return False
    # An emulated run has the file that it slept for, which it would not do if that were of other work.
    told = (name for name in profile.options if name in work and name not in ("model.name", "emulate.profile"))
    known = {name: profile.options[name] for name in told}
    return all(str(work[name]) == str(value) for name, value in known.items())
