"""The predictions of a study, what they recommend, and what they lack."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from horovod_flowers.config.choices import STRATEGIES
from horovod_flowers.report.analysis.scaling_inputs import ScalingStudy, call_models
from horovod_flowers.report.prediction.options import PredictionConfig
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.scaling_model.algorithms import MessageCost
from horovod_flowers.scaling_model.calibration import Calibration, cycle_seconds
from horovod_flowers.scaling_model.call_model import CallModel
from horovod_flowers.scaling_model.division import CannotDivideError, is_a_mesh_there
from horovod_flowers.scaling_model.hold_out import FEWEST_RANK_COUNTS, HeldOut, errors_of
from horovod_flowers.scaling_model.measured_steps import Setting
from horovod_flowers.scaling_model.network import Link
from horovod_flowers.scaling_model.open_mpi import choice_from_settings
from horovod_flowers.scaling_model.prediction import CallModels, Predicted, Predictor
from horovod_flowers.scaling_model.recommendation import Recommendation, recommend
from horovod_flowers.scaling_model.simgrid.engine import SimulatedCalls
from horovod_flowers.scaling_model.simgrid.replay import find_smpirun
from horovod_flowers.scaling_model.simgrid.topology import topology_named
from horovod_flowers.scaling_model.step_tasks import CallCosts

LARGEST_BY_DEFAULT = 1024
LEAST_LATENCY_SECONDS = 1e-8
"""Below that a fitted latency is none: no network has less than its light takes for three metres."""
GOODPUT = 0.9
"""Of a given rate, that messages get at least: headers of Ethernet, IP and TCP take 6 % of full packets of 1,500
bytes (1,448 of 1,538), and more where packets are not full."""

NOTHING_KNOWN = (
    "no strategy that communicates was run on several ranks, and neither a network nor calls are known: give "
    "--network, such as 100Gbit,2us, or run a study with collectives: true"
)


@dataclass(frozen=True)
class Answer:
    """Everything that the command says."""

    study: ScalingStudy
    predictor: Predictor
    predictions: tuple[Predicted, ...]
    """By setting, then by ranks."""
    left_out: tuple[tuple[Setting, int, str], ...]
    """What does not exist, and why."""
    recommendation: Recommendation
    held_out: tuple[HeldOut, ...]
    lacks: tuple[str, ...]
    """What would narrow the intervals, in sentences."""
    network: str
    """In words."""
    engine: str
    calibration: Calibration | None

    @property
    def images_per_second_alone(self) -> float:
        """Of one rank."""
        return self.predictor.work.rows(1) / self.predictor.baseline.step_seconds

    def speed_up(self, found: Predicted) -> tuple[float, float, float]:
        """Over one rank: estimate, low and high end."""
        alone = self.images_per_second_alone
        seconds = (found.step_seconds, found.high_seconds, found.low_seconds)
        value, low, high = (found.images / each / alone for each in seconds)
        return value, low, high

    def training_hours(self, found: Predicted) -> float | None:
        """Of the whole training that the runs' epochs are."""
        images = self.predictor.work.images
        return None if not images else images / found.images_per_second / 3600

    def nodes(self, ranks: int) -> int:
        """That so many ranks fill."""
        return ceil(ranks / self.predictor.ranks_per_node)


def answer(config: PredictionConfig, study: ScalingStudy) -> Answer:
    """Predict. Raises UserError where the study does not tell what is asked for."""
    accumulate = study.run.config.get("accumulate", 1)
    if accumulate not in (None, 1):
        raise UserError(f"the runs add up gradients over {accumulate} steps, which is not predicted: run accumulate 1")
    counts = _counts(config, study)
    calibration = study.calibration()
    per_node = config.ranks_per_node or study.run.environment.ranks[0].local_size
    calls = _calls(config, study, calibration, per_node, max(counts))
    predictor = replace(
        study.predictor(calls, per_node), calls_of_runs=_calls_of_runs(config, study, calibration, calls)
    )
    if config.engine == "simgrid":
        predictor = replace(predictor, engine=_simulated(config, calls))
    settings = _settings(config, predictor, counts)
    predictions, left_out = [], []
    measured = {step.setting for step in predictor.measured}
    for setting in settings:
        for ranks in counts:
            if setting not in measured and not is_a_mesh_there(setting, ranks):
                continue  # group sizes are proposed for all numbers of ranks together
            try:
                _check_batch(study, ranks)
                predictions.append(predictor.predict(setting, ranks))
            except CannotDivideError as error:
                left_out.append((setting, ranks, str(error)))
    left_out += _no_mesh(config, predictor, counts, predictions, left_out)
    if not predictions:
        reasons = [reason for _, _, reason in left_out]
        raise UserError(f"nothing can be predicted: {reasons[0] if reasons else NOTHING_KNOWN}")
    alone = predictor.baseline.step_seconds / predictor.work.rows(1)
    held_out = study.held_out()
    return Answer(
        study=study,
        predictor=predictor,
        predictions=tuple(predictions),
        left_out=tuple(left_out),
        recommendation=recommend(predictions, alone, config.min_efficiency),
        held_out=tuple(held_out),
        lacks=tuple(_lacks(config, study, predictor, calibration, counts, held_out)),
        network=_network_words(config, calibration),
        engine=config.engine if config.engine == "formula" else f"SimGrid, topology {config.topology}",
        calibration=calibration,
    )


def _counts(config: PredictionConfig, study: ScalingStudy) -> list[int]:
    most = max(study.counts)
    if config.counts is None:
        counts = [most * 2**power for power in range(1, 31) if most * 2**power <= LARGEST_BY_DEFAULT]
        return counts or [2 * most]
    for ranks in config.counts:
        if ranks < most:
            raise UserError(
                f"ranks names {ranks}, and up to {most} were measured: the report tells what these take; give {most} "
                "or more"
            )
    if config.counts == [1]:
        raise UserError("ranks names 1 alone, which is what was measured: give more")
    return [ranks for ranks in config.counts if ranks > 1]


def _calls(
    config: PredictionConfig, study: ScalingStudy, calibration: Calibration | None, per_node: int, most: int
) -> CallModels | None:
    """What calls cost: on a network that is given, or as they were measured; None where only steps tell."""
    between, inner = config.networks
    if between is not None:
        base = _unmeasured(study, between.between_nodes) if calibration is None else calibration.model
        measured_inside = calibration is not None and calibration.in_node
        inside = base.in_node if inner is None and measured_inside else MessageCost.of((inner or between).between_nodes)
        return _given(between.between_nodes, base, inside, per_node)
    if calibration is None and not study.points:
        raise UserError(
            "neither a network nor calls are known: give --network, such as 100Gbit,2us, or run a study with "
            "collectives: true"
        )
    crossed = calibration.between_nodes if calibration is not None else _nodes(study) > 1
    if most > per_node and not crossed:
        what = "calls were measured" if calibration is not None else "ranks ran"
        raise UserError(
            f"{what} within one node only, and {most} ranks at {per_node} a node need {ceil(most / per_node)}: give "
            "--network, such as 100Gbit,2us, or --ranks-per-node"
        )
    if calibration is None:
        return None
    found = call_models(calibration)
    return CallModels(*(replace(each, ranks_per_node=per_node) for each in (found.low, found.probable, found.high)))


def _calls_of_runs(
    config: PredictionConfig, study: ScalingStudy, calibration: Calibration | None, calls: CallModels | None
) -> CallModels | None:
    """What calls cost where the runs ran, which need not be where they are to run: None where nobody knows."""
    if calibration is not None:
        return call_models(calibration)
    given = config.network is not None
    return calls if study.points and (not given or _nodes(study) > 1) else None


def _unmeasured(study: ScalingStudy, link: Link) -> CallModel:
    """Without measured calls: algorithms and cycle as the runs had them, nothing for what else Horovod adds."""
    environment = study.run.environment
    return replace(
        CallModel.of_link(link),
        choice=choice_from_settings(environment.mpi_settings),
        cycle_seconds=cycle_seconds(environment.horovod_settings),
    )


def _given(link: Link, base: CallModel, inside: MessageCost, per_node: int) -> CallModels:
    """A given network between nodes, under Horovod's own costs: a real one, whatever the calls were measured on."""
    probable = replace(base, between_nodes=MessageCost.of(link), in_node=inside, ranks_per_node=per_node, shrink=1.0)
    slow = MessageCost.of(Link(link.latency_seconds, link.bytes_per_second * GOODPUT))
    return CallModels(probable, probable, replace(probable, between_nodes=slow))


def _nodes(study: ScalingStudy) -> int:
    return max(len(point.runs[0].environment.hosts) for point in study.points)


def _simulated(config: PredictionConfig, calls: CallModels | None) -> CallCosts:
    find_smpirun()
    if calls is None:
        raise UserError("engine is simgrid, and no network is known: give --network, such as 100Gbit,2us")
    return SimulatedCalls(calls.probable, topology_named(config.topology))


def _settings(config: PredictionConfig, predictor: Predictor, counts: Sequence[int]) -> list[Setting]:
    known = predictor.settings(counts)
    if config.strategy_names is None:
        return known
    wanted = []
    for name in STRATEGIES:
        if name in config.strategy_names:
            wanted += [setting for setting in known if setting.strategy == name] or [Setting(name)]
    return list(dict.fromkeys(wanted))


def _check_batch(study: ScalingStudy, ranks: int) -> None:
    """Raise CannotDivideError where training would refuse to divide the global batch (RunConfig.global_batch_for)."""
    batch = study.workload.batch
    uneven = study.scaling == "strong" and batch > ranks and batch % ranks
    if uneven and not study.run.config.get("elastic"):
        raise CannotDivideError(f"a batch of {batch} cannot be divided equally over {ranks} ranks")


def _no_mesh(
    config: PredictionConfig,
    predictor: Predictor,
    counts: Sequence[int],
    predictions: Sequence[Predicted],
    left_out: Sequence[tuple[Setting, int, str]],
) -> list[tuple[Setting, int, str]]:
    """Numbers of ranks on which --strategies asks for a mesh, none is there, and nothing has told of it yet."""
    if "mesh" not in (config.strategy_names or ()):
        return []
    told = {one.ranks for one in predictions if one.setting.strategy == "mesh"}
    told |= {ranks for setting, ranks, _ in left_out if setting.strategy == "mesh"}
    if predictor.profile is None or predictor.calls is None:
        reason = "it was not run on several ranks in such groups, which takes a step profile, and a network or calls"
    else:
        reason = "no Dense layer is large enough to divide, or no group of 2, 4, 8, ... divides the ranks into several"
    return [(Setting("mesh"), ranks, reason) for ranks in counts if ranks not in told]


def _lacks(
    config: PredictionConfig,
    study: ScalingStudy,
    predictor: Predictor,
    calibration: Calibration | None,
    counts: Sequence[int],
    held_out: Sequence[HeldOut],
) -> list[str]:
    """What is assumed because nobody measured it."""
    found = list(study.left_out)
    library = study.run.environment.mpi_library or ""
    if predictor.calls is not None and library and not library.startswith("Open MPI"):
        found.append(
            f"the runs' MPI is {library.split(',')[0]}, which chooses its algorithms by other rules than Open MPI's, "
            "by which calls are predicted: compare the hold-out table"
        )
    profile = predictor.profile
    if profile is None:
        found.append(
            "no step profile: gradients are taken to be ready evenly over the backward pass, and only strategies that "
            "were run can be predicted (measure one with python -m horovod_flowers.step_profile)"
        )
    else:
        rows = [predictor.work.rows(ranks) for ranks in counts]
        known = [batch.rows for batch in profile.batches]
        if min(rows) < min(known):
            found.append(
                f"the step profile has batches of {', '.join(map(str, sorted(known)))} images, and a rank will have "
                f"{min(rows)}: computing is extrapolated (profile that batch too)"
            )
        if profile.synchronised:
            found.append(
                f"the calls of {len(profile.synchronised)} synchronised layer(s) of batch normalisation are left out"
            )
    if config.network is not None:
        found.append("the network is given, not measured: contention with other jobs is not in it")
    elif calibration is not None:
        found += calibration.lacks
    else:
        found.append("no collective calls were measured: communication is fitted to what whole steps showed")
    if not predictor.several:
        found.append("no runs on several ranks: nothing corrects the model's own estimate of what is hidden")
    if not errors_of(held_out):
        few = len(study.counts) < FEWEST_RANK_COUNTS
        why = "fewer than three numbers of ranks were measured" if few else "nothing on fewer ranks tells of any run"
        found.append(f"{why}, so that no prediction could be checked against a run")
    return found


def _latency_words(seconds: float) -> str:
    """Of a message; a fit may find none, where the time of a call before its first message has all of it."""
    return f"{seconds * 1e6:.3g} us" if seconds >= LEAST_LATENCY_SECONDS else "no latency a message to be seen"


def _network_words(config: PredictionConfig, calibration: Calibration | None) -> str:
    if config.network is not None:
        inside = "" if config.in_node is None else f", within a node {config.in_node}"
        return f"{config.network}{inside}, given"
    if calibration is None:
        return "as whole steps showed it"
    link = calibration.model.network.between_nodes if calibration.between_nodes else calibration.model.network.in_node
    assert link is not None
    where = "" if calibration.between_nodes else " within a node"
    return (
        f"fitted to {calibration.calls:,} calls over {', '.join(map(str, calibration.ranks))} ranks{where}: "
        f"{link.bytes_per_second * 8 / 1e9:.3g} Gbit/s, {_latency_words(link.latency_seconds)}"
    )
