"""A step's seconds at N ranks, with an interval, from what was measured on fewer.

    step = computing + exposed communication + waiting for the slowest rank + waiting for the batch

Exposed communication is what the schedule of the two resources leaves (schedule.py), corrected by what runs on fewer
ranks showed: what they exposed more (or less) than their own schedule, in proportion to all of their communication. The
estimate lies between 'all hidden' and 'nothing hidden'; how far the interval is narrowed within these depends on how
well the model meets the runs that there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from horovod_flowers.config.choices import DIVIDING
from horovod_flowers.runlog.records import CommunicationVolume
from horovod_flowers.runlog.step_profile import StepProfile
from horovod_flowers.scaling_model.call_model import CallModel
from horovod_flowers.scaling_model.computing import PassesByRows, batch_at
from horovod_flowers.scaling_model.division import (
    CannotDivideError,
    calls_of_volume,
    check_group,
    divide,
    gradient_volume,
    profiled_tasks,
    unprofiled_tasks,
    volume_at,
    weights_of,
)
from horovod_flowers.scaling_model.exposure import ExposedByVolume, StepVolume
from horovod_flowers.scaling_model.measured_steps import MeasuredStep, Setting, Workload
from horovod_flowers.scaling_model.schedule import ScheduledStep, schedule
from horovod_flowers.scaling_model.step_tasks import CallCosts, Task
from horovod_flowers.scaling_model.stragglers import straggler_seconds
from horovod_flowers.strategy.step_calls import volume_of

USUAL_ERROR = 0.067
"""Relative error of predictions where no runs on several ranks tell this one's: the mean of a published simulation of
distributed training on up to 64 nodes (arXiv 2401.09877)."""
ERRORS_OF_AN_INTERVAL = 2.0
"""Half of an interval, in root mean squares of the model's relative errors."""
LEAST_PART = 0.1
"""Of an estimate, the low end of its interval at least: a model that is off by half its value or more would have steps
end before they begin."""
PLAIN = ("none", "allreduce")
"""Strategies whose ranks compute as one rank does."""
LEAST_ERROR = 0.02
"""Between repetitions of runs there is as much."""


@dataclass(frozen=True)
class Predicted:
    """A setting on so many ranks; all seconds are of a step."""

    setting: Setting
    ranks: int
    images: int
    """Of a step."""
    step_seconds: float
    low_seconds: float
    high_seconds: float
    compute_seconds: float
    """Passes and update."""
    communication_seconds: float
    """Of all calls, hidden or not, and of what waits for Horovod to look for them."""
    exposed_seconds: float
    straggler_seconds: float
    input_seconds: float
    calls: int
    algorithms: tuple[str, ...] = ()
    """Of each operation, such as 'allreduce rabenseifner'."""

    @property
    def images_per_second(self) -> float:
        """Over all ranks."""
        return self.images / self.step_seconds

    @property
    def nothing_hidden_seconds(self) -> float:
        """If computing and communication took turns."""
        return self._beside + self.compute_seconds + self.communication_seconds

    @property
    def all_hidden_seconds(self) -> float:
        """If the longer of both hid the other."""
        return self._beside + max(self.compute_seconds, self.communication_seconds)

    @property
    def _beside(self) -> float:
        return self.straggler_seconds + self.input_seconds


@dataclass(frozen=True)
class CallModels:
    """What calls cost, at least, probably and at most."""

    low: CallModel
    probable: CallModel
    high: CallModel


@dataclass(frozen=True)
class _Modelled:
    """A setting by the schedule alone."""

    compute: float
    communication: float
    exposed: float
    calls: int
    algorithms: tuple[str, ...] = ()
    exposed_low: float = 0.0
    exposed_high: float = 0.0
    communication_high: float = 0.0


@dataclass(frozen=True)
class _Correction:
    """What runs on fewer ranks showed beside the model."""

    compute_factor: float = 1.0
    exposed_share: float = 0.0
    """More than the schedule exposes, of all communication."""
    hidden_share: float | None = None
    """Seconds of communication that were hidden, of each second computed: what less exposure than the schedule's was
    worth. None where there was none of it."""

    def exposed(self, model: _Modelled, compute: float) -> float:
        """What is exposed beside so much computing: where runs hid more than the schedule, as much of it as they did in
        the same time."""
        found = model.exposed + self.exposed_share * model.communication
        if self.hidden_share is not None:
            found = max(found, min(model.exposed, model.communication - self.hidden_share * compute))
        return min(max(found, 0.0), max(model.communication, model.exposed))


@dataclass(eq=False)
class Predictor:
    """Predicts steps of one workload from what was measured.

    measured: of any settings, one rank among them. calls: None where no network is known: then only settings that were
    measured on several ranks can be predicted, from what their steps exposed. profile: None where nobody measured when
    gradients are there. engine: tells the seconds of calls instead of the formulas of `calls`.
    """

    work: Workload
    measured: Sequence[MeasuredStep]
    calls: CallModels | None = None
    profile: StepProfile | None = None
    ranks_per_node: int = 1
    engine: CallCosts | None = None
    calls_of_runs: CallModels | Literal["same"] | None = "same"
    """What calls cost where the runs ran, if that is another network than that of `calls`; None: nobody knows."""
    _modelled: dict[tuple[Setting, int, bool], _Modelled] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def baseline(self) -> MeasuredStep:
        """The steps on one rank."""
        return next(step for step in self.measured if step.ranks == 1)

    @cached_property
    def several(self) -> list[MeasuredStep]:
        """The steps on several ranks, of strategies that communicate."""
        return [step for step in self.measured if step.ranks > 1 and step.setting and step.setting.strategy != "none"]

    def predict(self, setting: Setting, ranks: int) -> Predicted:
        """Raises CannotDivideError where this setting does not exist for so many ranks, or nothing tells of it."""
        if self.work.scaling == "strong" and self.work.batch < ranks:
            raise CannotDivideError(f"a batch of {self.work.batch} has no image for each of {ranks} ranks")
        model, correction = self._model(setting, ranks), self._correction(setting)
        compute = model.compute * correction.compute_factor
        exposed = correction.exposed(model, compute)
        waiting, batch = self.straggling(ranks), self._input_seconds(ranks)
        if not self._overlap_is_known:
            exposed = (model.exposed + model.communication) / 2
        step = compute + exposed + waiting + batch
        low, high = self._interval(step, compute + waiting + batch, exposed, model)
        return Predicted(
            setting, ranks, self.work.images_of_step(ranks), step, low, high, compute, model.communication, exposed,
            waiting, batch, model.calls, model.algorithms,
        )  # fmt: skip

    def _interval(self, step: float, beside: float, exposed: float, model: _Modelled) -> tuple[float, float]:
        """From 'all hidden' to 'nothing hidden' at most; narrower as the model meets runs and calls."""
        error = ERRORS_OF_AN_INTERVAL * self.relative_error
        low_part = max(LEAST_PART, 1 - error)
        least = beside + max(0.0, model.communication - beside)
        most = beside + max(model.communication_high, exposed)
        if not self._overlap_is_known:
            return min(step, beside + model.exposed_low), max(step, most)
        low = min(beside + model.exposed_low, beside + exposed, step * low_part)
        high = max(beside + model.exposed_high, beside + exposed, step * (1 + error))
        # Computing and waiting are uncertain, too: bounds of what is hidden are no bounds of these.
        return max(low, min(step, least) * low_part), min(high, max(step, most) * (1 + error))

    @property
    def _overlap_is_known(self) -> bool:
        """Whether anything tells how much of the communication is hidden: a profile, or runs on several ranks."""
        return self.profile is not None or bool(self.several)

    def straggling(self, ranks: int) -> float:
        """Seconds of a step that wait for the slowest of so many ranks."""
        samples = [step.work_seconds for step in self.measured if len(step.work_seconds)]
        if not samples and self.profile is not None:
            samples = [batch.step_seconds for batch in self.profile.batches]
        if not samples:
            return 0.0
        relative = [np.asarray(sample) / np.median(sample) for sample in samples]
        return straggler_seconds(np.concatenate(relative).tolist(), ranks) * self._work_seconds(ranks)

    def _work_seconds(self, ranks: int) -> float:
        """A rank's own work of a step, roughly: to carry its variation to another batch."""
        passes, update = self._alone(self.work.rows(ranks))
        return passes + update

    def _input_seconds(self, ranks: int) -> float:
        return self.baseline.input_seconds * self.work.rows(ranks) / self.work.rows(1)

    def _alone(self, rows: int) -> tuple[float, float]:
        """Seconds of passes and update of so many rows on one rank that does not communicate."""
        if self.profile is not None:
            batch = batch_at(self.profile, rows)
            return batch.gradients_seconds, batch.update_seconds
        return self._passes_by_rows.seconds(rows), self.baseline.update_seconds

    @cached_property
    def _passes_by_rows(self) -> PassesByRows:
        """From one rank, and from several where their batches differ: strong scaling measures these on the way, best
        with strategies that compute as one rank does."""
        usable = self.measured if self.work.scaling == "strong" else [self.baseline]
        plain = [step for step in usable if step.setting is None or step.setting.strategy in PLAIN]
        found = plain if len({step.ranks for step in plain}) > 1 else usable
        return PassesByRows.fitted(
            [self.work.rows(step.ranks) for step in found], [step.compute_seconds for step in found]
        )

    def _model(self, setting: Setting, ranks: int, of_runs: bool = False) -> _Modelled:
        """Where ranks are to run, or where they ran."""
        key = (setting, ranks, of_runs)
        if key not in self._modelled:
            calls = self._run_calls if of_runs else self.calls
            self._modelled[key] = (
                self._by_volume(setting, ranks)
                if calls is None
                else self._schedule(setting, ranks, calls, None if of_runs else self.engine)
            )
        return self._modelled[key]

    @property
    def _run_calls(self) -> CallModels | None:
        return self.calls if self.calls_of_runs == "same" else self.calls_of_runs

    def _schedule(self, setting: Setting, ranks: int, models: CallModels, engine: CallCosts | None) -> _Modelled:
        """By the schedule of the two resources."""
        tasks = self._tasks(setting, ranks)
        ends = [self._scheduled(tasks, ranks, model) for model in (models.low, models.high)]
        probable = self._scheduled(tasks, ranks, models.probable, engine)
        calls = [task.call for task in tasks if task.call is not None]
        named = {f"{call.operation} {models.probable.algorithm(call)}" for call in calls}
        return _Modelled(
            compute=probable.compute_seconds,
            communication=max(probable.communication_seconds, probable.exposed_seconds),
            exposed=probable.exposed_seconds,
            calls=len(calls),
            algorithms=tuple(sorted(named)),
            exposed_low=ends[0].exposed_seconds,
            exposed_high=ends[1].exposed_seconds,
            communication_high=max(ends[1].communication_seconds, ends[1].exposed_seconds),
        )

    @staticmethod
    def _scheduled(
        tasks: Sequence[Task], ranks: int, model: CallModel, engine: CallCosts | None = None
    ) -> ScheduledStep:
        calls = [task.call for task in tasks if task.call is not None]
        seconds = iter((engine or model).call_seconds(calls, ranks))
        each = [0.0 if task.call is None else next(seconds) for task in tasks]
        return schedule(tasks, each, model.coordination(ranks))

    def _tasks(self, setting: Setting, ranks: int) -> list[Task]:
        rows = self.work.rows(ranks)
        if self.profile is not None:
            batch = batch_at(self.profile, rows)
            return profiled_tasks(divide(setting, ranks, self.work, self.profile), self.profile, batch)
        entries = calls_of_volume(setting, ranks, self.volume(setting, ranks))
        return unprofiled_tasks(setting, entries, self._passes_by_rows.seconds(rows), self._update(setting, ranks))

    def _update(self, setting: Setting, ranks: int) -> float:
        """Seconds of the optimizer without a profile: the part that is divided falls with the ranks that divide it."""
        known, alone = self._largest(setting), self.baseline.update_seconds
        if known is None or alone <= 0:
            return alone
        before, now = (
            count if setting.strategy == "sharded" else setting.group_of(count) for count in (known.ranks, ranks)
        )
        if before in (now, 1):
            return known.update_seconds
        divided = float(np.clip((1 - known.update_seconds / alone) / (1 - 1 / before), 0.0, 1.0))
        return alone * (1 - divided * (1 - 1 / now))

    def _largest(self, setting: Setting) -> MeasuredStep | None:
        """The step of a setting on the most ranks."""
        found = [step for step in self.several if step.setting == setting]
        return max(found, key=lambda step: step.ranks, default=None)

    def _by_volume(self, setting: Setting, ranks: int) -> _Modelled:
        known = sorted((step for step in self.several if step.setting == setting), key=lambda step: step.ranks)
        if not known:
            raise CannotDivideError("it was not run on several ranks, and neither calls nor a network are known")
        check_group(setting, ranks)
        volumes = [self._volume(step, step.ranks, step.ranks_per_node) for step in known]
        fit = ExposedByVolume.fitted(volumes, [step.exposed_seconds for step in known])
        exposed = fit.seconds(self._volume(known[-1], ranks, self.ranks_per_node))
        rows = self.work.rows(ranks)
        compute = self._passes_by_rows.seconds(rows) + self._update(setting, ranks)
        return _Modelled(compute, exposed, exposed, 0, (), exposed, exposed, exposed)

    def _volume(self, step: MeasuredStep, ranks: int, ranks_per_node: int) -> StepVolume:
        if step.volume is None:  # nobody recorded it: what is exposed grows with the ranks, whatever is sent
            return StepVolume(ranks, ranks_per_node, 0.0)
        return StepVolume.of(volume_at(step, ranks, self.work), ranks, ranks_per_node)

    def _correction(self, setting: Setting) -> _Correction:
        """From the largest number of ranks on which the setting was run: how its computing and exposure differ."""
        step = self._largest(setting)
        if step is None:
            return _Correction()
        try:
            model = self._model(setting, step.ranks, of_runs=True)
        except CannotDivideError:
            return _Correction()
        expected = model.compute if self.profile is None else self._profiled_compute(setting, step.ranks)
        factor = (step.compute_seconds + step.update_seconds) / expected if expected else 1.0
        if self._run_calls is None or not model.communication:
            return _Correction(factor)
        beyond = step.exposed_seconds - self.straggling(step.ranks) - model.exposed
        hidden = max(0.0, model.communication - step.exposed_seconds) / (step.compute_seconds + step.update_seconds)
        return _Correction(factor, beyond / model.communication, hidden if beyond < 0 else None)

    def _profiled_compute(self, setting: Setting, ranks: int) -> float:
        """Seconds that a profile says so many ranks compute, on any network."""
        return sum(task.seconds for task in self._tasks(setting, ranks))

    @cached_property
    def relative_error(self) -> float:
        """Root mean square of (predicted / measured - 1) over the runs on several ranks, each predicted without what
        it corrects; USUAL_ERROR counts as one of them."""
        errors = [USUAL_ERROR]
        told = self.several if self._run_calls is not None or self.calls is None else []
        for step in told:
            assert step.setting is not None
            try:
                model = self._model(step.setting, step.ranks, of_runs=True)
            except CannotDivideError:
                continue
            seconds = model.compute + model.exposed + self.straggling(step.ranks) + self._input_seconds(step.ranks)
            errors.append(seconds / step.step_seconds - 1)
        return max(LEAST_ERROR, float(np.sqrt(np.mean(np.square(errors)))))

    def volume(self, setting: Setting, ranks: int) -> list[CommunicationVolume]:
        """What each rank sends in a step. Raises CannotDivideError where nothing tells."""
        if self.profile is not None:
            return volume_of(divide(setting, ranks, self.work, self.profile).calls)
        known = self._largest(setting)
        if known is not None:
            return volume_at(known, ranks, self.work)
        if setting == Setting("allreduce") and self.work.parameters is not None:
            return gradient_volume(self.work.parameters, self.work.call_bytes, ranks)
        raise CannotDivideError("it was not run on several ranks, and there is no step profile to tell its calls")

    def settings(self, ranks: Sequence[int]) -> list[Setting]:
        """Those that are worth predicting: all that were run, and with a profile every strategy that divides the model
        and every mesh of a power of two."""
        found = list(dict.fromkeys(step.setting for step in self.several if step.setting is not None))
        if self.profile is not None and self.calls is not None:
            found += [Setting("allreduce"), Setting("sharded"), Setting("tensor")]
            most = max(ranks) // 2
            found += [Setting("mesh", 2**power) for power in range(1, most.bit_length()) if 2**power <= most]
        elif self.calls is not None and self.work.parameters is not None:
            found.append(Setting("allreduce"))
        if self.profile is not None and not self._divisible:
            found = [setting for setting in found if setting.strategy not in DIVIDING]
        return list(dict.fromkeys(found))

    @property
    def _divisible(self) -> bool:
        assert self.profile is not None
        if self.work.shard_layers is not None:
            return any(dense.layer in self.work.shard_layers for dense in self.profile.batches[0].dense)
        weights = weights_of(self.profile)
        return any(weight.layer is not None and weight.elements >= self.work.shard_above for weight in weights)
