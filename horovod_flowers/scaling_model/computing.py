"""What a rank computes in a step, by its number of rows: interpolated between the batches that were measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from horovod_flowers.runlog.step_profile import ProfiledBatch, ProfiledDense, StepProfile


def batch_at(profile: StepProfile, rows: int) -> ProfiledBatch:
    """The profile of a batch of so many rows.

    Between two that were measured each time is a straight line; beyond them the line through the next two, but never
    less than in proportion to the rows. With one batch, the passes are in proportion to the rows.
    """
    known = {batch.rows: batch for batch in profile.batches}
    if rows in known:
        return known[rows]
    if len(known) == 1:
        (only,) = known.values()
        return _blended(only, only, 0.0, rows / only.rows)
    counts = sorted(known)
    place = int(np.clip(np.searchsorted(counts, rows), 1, len(counts) - 1))
    one, other = known[counts[place - 1]], known[counts[place]]
    share = (rows - one.rows) / (other.rows - one.rows)
    if share < 0:
        least = rows / one.rows
        return _at_least(_blended(one, other, share, 1.0), one, least)
    return _blended(one, other, share, 1.0)


def _blended(one: ProfiledBatch, other: ProfiledBatch, share: float, factor: float) -> ProfiledBatch:
    """Each time of the passes on the line from one to the other, times a factor."""

    def line(first: float, second: float) -> float:
        return max(0.0, first + (second - first) * share) * factor

    dense = [
        ProfiledDense(
            kernel=first.kernel,
            layer=first.layer,
            rows_per_image=first.rows_per_image,
            input_ready_seconds=line(first.input_ready_seconds, second.input_ready_seconds),
            output_ready_seconds=line(first.output_ready_seconds, second.output_ready_seconds),
            output_gradient_ready_seconds=line(
                first.output_gradient_ready_seconds, second.output_gradient_ready_seconds
            ),
            input_gradient_ready_seconds=None
            if first.input_gradient_ready_seconds is None or second.input_gradient_ready_seconds is None
            else line(first.input_gradient_ready_seconds, second.input_gradient_ready_seconds),
        )
        for first, second in zip(one.dense, other.dense, strict=True)
    ]
    ready = zip(one.gradient_ready_seconds, other.gradient_ready_seconds, strict=True)
    gradients = line(one.gradients_seconds, other.gradients_seconds)
    update = max(0.0, one.update_seconds + (other.update_seconds - one.update_seconds) * share)
    passes = gradients / one.gradients_seconds if one.gradients_seconds else 1.0
    return ProfiledBatch(
        rows=one.rows,
        step_seconds=[seconds * passes for seconds in one.step_seconds],
        forward_seconds=line(one.forward_seconds, other.forward_seconds),
        gradient_ready_seconds=[line(first, second) for first, second in ready],
        gradients_seconds=gradients,
        update_seconds=update,
        dense=dense,
    )


def _at_least(batch: ProfiledBatch, measured: ProfiledBatch, share: float) -> ProfiledBatch:
    """The batch, or the measured one's passes times a share where these take longer."""
    if batch.gradients_seconds >= share * measured.gradients_seconds:
        return batch
    smaller = _blended(measured, measured, 0.0, share)
    return msgspec.structs.replace(smaller, update_seconds=batch.update_seconds)


@dataclass(frozen=True)
class PassesByRows:
    """Seconds of the passes as constant + seconds a row."""

    constant_seconds: float
    seconds_per_row: float

    @staticmethod
    def fitted(rows: Sequence[float], seconds: Sequence[float]) -> "PassesByRows":
        """Least squares of the relative error, neither part below zero; with one number of rows in proportion to it."""
        x, y = np.asarray(rows, np.float64), np.asarray(seconds, np.float64)
        if len(np.unique(x)) == 1:
            return PassesByRows(0.0, float(np.mean(y / x)))
        from scipy.optimize import nnls

        (constant, slope), _ = nnls(np.stack([1 / y, x / y], axis=1), np.ones_like(y))
        return PassesByRows(float(constant), float(slope))

    def seconds(self, rows: float) -> float:
        """Of a step with so many rows."""
        return self.constant_seconds + self.seconds_per_row * rows
