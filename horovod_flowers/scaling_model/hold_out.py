"""Each measured number of ranks predicted from the smaller ones: how far a prediction of this study can be trusted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from horovod_flowers.scaling_model.division import CannotDivideError
from horovod_flowers.scaling_model.measured_steps import MeasuredStep, Setting
from horovod_flowers.scaling_model.prediction import CallModels, Predicted, Predictor

FEWEST_RANK_COUNTS = 3


@dataclass(frozen=True)
class HeldOut:
    """One measured step, and what was predicted of it."""

    setting: Setting
    ranks: int
    measured_seconds: float
    predicted: Predicted | None
    """None where nothing on fewer ranks tells of it."""
    from_ranks: tuple[int, ...]
    reason: str = ""
    """Why there is no prediction."""

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        return None if self.predicted is None else self.predicted.step_seconds / self.measured_seconds - 1

    @property
    def inside(self) -> bool | None:
        """Whether the measured step lies in the predicted interval."""
        if self.predicted is None:
            return None
        return self.predicted.low_seconds <= self.measured_seconds <= self.predicted.high_seconds


def hold_out(predictor: Predictor, calls_below: Callable[[int, bool], CallModels | None]) -> list[HeldOut]:
    """Every step on several ranks, predicted by all that was measured on fewer. Empty below three numbers of ranks.

    calls_below: what calls over fewer ranks than these say, asked for with whether the ranks are on several nodes;
    None where nothing does. A network that was given says the same at any number.
    """
    counts = sorted({step.ranks for step in predictor.measured})
    if len(counts) < FEWEST_RANK_COUNTS or counts[0] != 1:
        return []
    found = []
    for step in sorted(predictor.several, key=lambda step: (step.ranks, step.setting.label if step.setting else "")):
        assert step.setting is not None
        below: list[MeasuredStep] = [other for other in predictor.measured if other.ranks < step.ranks]
        calls = calls_below(step.ranks, step.several_nodes)
        narrowed = replace(predictor, measured=below, calls=calls)
        from_ranks = tuple(sorted({other.ranks for other in below}))
        predicted, reason = None, "fewer ranks were on one node, and these are on several"
        several = [other for other in below if other.ranks > 1]
        stayed = several and step.several_nodes and not any(other.several_nodes for other in several)
        if calls is not None or not stayed:
            try:
                predicted, reason = narrowed.predict(step.setting, step.ranks), ""
            except CannotDivideError as error:
                reason = str(error)
        found.append(HeldOut(step.setting, step.ranks, step.step_seconds, predicted, from_ranks, reason))
    return found


def errors_of(held_out: Sequence[HeldOut]) -> list[float]:
    """Of those that could be predicted."""
    return [found.error for found in held_out if found.error is not None]
