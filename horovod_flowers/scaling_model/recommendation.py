"""Which strategy on how many ranks, in one sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from horovod_flowers.scaling_model.prediction import Predicted


@dataclass(frozen=True)
class Recommendation:
    """The fastest setting at each number of ranks, and how far more ranks are worth it."""

    best: Mapping[int, Predicted]
    """By the number of ranks."""
    efficiencies: Mapping[int, float]
    """Of these."""
    least_efficiency: float
    most_ranks: int | None
    """The most ranks at which the best setting still has that efficiency; None where none has."""

    @property
    def sentence(self) -> str:
        """Such as 'tensor up to 16 ranks, mesh, G=8 beyond; beyond 128 ranks you pay for waiting'."""
        spans: list[list[int]] = []
        for ranks in sorted(self.best):
            if spans and self.best[spans[-1][0]].setting == self.best[ranks].setting:
                spans[-1].append(ranks)
            else:
                spans.append([ranks])
        told = []
        for number, span in enumerate(spans):
            label = self.best[span[0]].setting.label
            label = f"({label})" if "," in label else label
            if len(self.best) == 1:
                told.append(f"{label} at {span[0]:,} ranks")
            elif len(spans) == 1:
                told.append(f"{label} at any of these numbers of ranks")
            elif number == len(spans) - 1:
                told.append(f"{label} beyond")
            else:
                told.append(f"{label} up to {span[-1]:,} ranks")
        return f"{', '.join(told)}; {self._waiting()}"

    def _waiting(self) -> str:
        largest = max(self.best)
        if self.most_ranks is None:
            return (
                f"already at {min(self.best):,} ranks less than {self.least_efficiency:.0%} of the time is work: "
                "you pay for waiting"
            )
        if self.most_ranks == largest:
            return f"up to {largest:,} ranks at least {self.least_efficiency:.0%} of the time is work"
        return f"beyond {self.most_ranks:,} ranks you pay for waiting (efficiency below {self.least_efficiency:.2f})"


def recommend(predictions: Sequence[Predicted], seconds_an_image: float, least_efficiency: float) -> Recommendation:
    """From predictions of several settings and numbers of ranks. seconds_an_image: on one rank."""
    best: dict[int, Predicted] = {}
    for found in predictions:
        if found.ranks not in best or found.step_seconds < best[found.ranks].step_seconds:
            best[found.ranks] = found
    efficiencies = {ranks: found.images_per_second * seconds_an_image / ranks for ranks, found in sorted(best.items())}
    most = None
    for ranks in sorted(best):
        if efficiencies[ranks] < least_efficiency:
            break
        most = ranks
    return Recommendation(best, efficiencies, least_efficiency, most)
