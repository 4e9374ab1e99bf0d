"""One training step of a rank: gradients combined wherever the optimizer is applied."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import tensorflow as tf

from horovod_flowers.fit.penalties import SharedPenalties
from horovod_flowers.fit.reductions import Reductions
from horovod_flowers.fit.sparse_gradients import of_all_ranks, of_part
from horovod_flowers.model.keras_internals import reduced_losses
from horovod_flowers.model.optimizer_class import Combining, Gradients, Update
from horovod_flowers.recording.step_marks import STEP_MARKS
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.strategy.interface import Strategy
from horovod_flowers.strategy.wide_dense import TakenOver


class RankBatch(NamedTuple):
    """This rank's part of a global batch."""

    data: Any
    """As Keras has it: (x,), (x, y) or (x, y, sample_weight)."""
    share: tf.Tensor
    """fp32 scalar: rows of this rank * ranks / rows of the global batch; 0 where the one row only fills up."""


class SharedStep:
    """What is the same for all steps of one model: how its ranks combine what they compute."""

    def __init__(
        self,
        size: int,
        strategy: Strategy,
        trained: Sequence[Any],
        layers: Sequence[TakenOver],
        reductions: Reductions,
        penalties: SharedPenalties,
    ) -> None:
        """size: ranks that train one model. trained: the model's Keras variables in the order of the strategy's
        `model_variables`. layers: that the strategy has taken over for the time of a step."""
        self.size, self.strategy, self.layers = size, strategy, layers
        self.reductions, self.penalties = reductions, penalties
        self._place = {key_of(variable): number for number, variable in enumerate(strategy.model_variables)}
        self._place |= {key_of(variable): number for number, variable in enumerate(trained)}
        self.updates = 0
        """How often an optimizer was applied in the step being traced."""
        self.share: tf.Tensor | None = None

    @contextmanager
    def training(self, share: tf.Tensor) -> Iterator[None]:
        """While a training step is traced, or computed eagerly."""
        self.updates, self.share = 0, share
        self.strategy.timer.recording = STEP_MARKS.on
        strategy, exchange = self.strategy, self.strategy.exchange
        if exchange is not None:
            exchange.share, exchange.rows_vary = share, True
            exchange.begin_step()
        with ExitStack() as undo:
            undo.enter_context(self.taken_over())
            try:
                with strategy.calling_the_model(share), self.counting(share):
                    yield
            finally:
                self.share = None
                if exchange is not None:
                    exchange.share = None

    @contextmanager
    def taken_over(self) -> Iterator[None]:
        """The model has the layers that the strategy has taken over; outside of this it has its own."""
        with ExitStack() as undo:
            for layer in self.layers:
                undo.enter_context(layer.again())
            yield

    @contextmanager
    def counting(self, share: tf.Tensor) -> Iterator[None]:
        """While losses are computed of rows that count by this share."""
        self.reductions.begin(share)
        try:
            with reduced_losses(self.reductions.scaled):
                yield
        finally:
            self.reductions.begin(None)

    def combined(self, gradients: Gradients, places: Sequence[int]) -> list[Any]:
        """Those of the global batch, one for each of the weights at these places; None where this rank's is None."""
        self.updates += 1
        strategy = self.strategy
        own: list[Any] = [None] * len(strategy.model_variables)
        rows: dict[int, tf.IndexedSlices] = {}
        for place, gradient in zip(places, gradients, strict=True):
            if isinstance(gradient, tf.IndexedSlices) and strategy.trains_one_model:
                rows[place] = _with_values(gradient, self.by_share(gradient.values, place))
            elif gradient is not None:
                own[place] = self.by_share(tf.convert_to_tensor(gradient), place)
        whole = [
            tf.zeros(variable.shape, variable.dtype) if gradient is None else gradient
            for gradient, variable in zip(own, strategy.model_variables, strict=True)
        ]
        STEP_MARKS.computed([*whole, *rows.values()], self._waited_ns(whole))
        strategy.left_out = frozenset(rows)
        combined = list(strategy.reduce_gradients(whole))
        for place, gradient in rows.items():
            combined[place] = self._rows_of_all_ranks(gradient, place)
        combined = list(STEP_MARKS.combined(combined))
        return [None if own[place] is None and place not in rows else combined[place] for place in places]

    def _rows_of_all_ranks(self, gradient: tf.IndexedSlices, place: int) -> tf.IndexedSlices:
        """What this rank needs to update its part of the weight."""
        everywhere = of_all_ranks(gradient, self.size, f"fit.rows.{place}")
        part = self.strategy.parts[place]
        return everywhere if part.slices is None else of_part(everywhere, part, self.strategy.groups.members.rank)

    def _waited_ns(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor | None:
        """How long the passes waited for other ranks; None where no step is recorded."""
        timer = self.strategy.timer
        if not timer.recording:
            return None
        timer.recording = False
        others = [each for place, each in enumerate(gradients) if place not in self.strategy.combined_early]
        return timer.collect(timer.after(others or gradients))

    def by_share(self, gradient: tf.Tensor, place: int) -> tf.Tensor:
        """This rank's gradient of the mean over its rows, scaled for the mean over ranks."""
        share = self.share
        if share is None or place in self.strategy.shared_early:
            return gradient
        if not self.strategy.trains_one_model:
            return tf.where(share > 0, gradient, tf.zeros_like(gradient))
        return tf.where(share > 0, gradient * tf.cast(share, gradient.dtype), tf.zeros_like(gradient))

    def place_of(self, variable: Any) -> int:
        """Of a trained weight, among the strategy's."""
        place = self._place.get(key_of(variable))
        if place is None:
            raise UserError(
                f"the optimizer was applied to {getattr(variable, 'path', variable.name)}, which is no trainable "
                "weight of the distributed model: create all weights before fit, and compile again after changing "
                "which of them are trainable"
            )
        return place


def _with_values(gradient: tf.IndexedSlices, values: tf.Tensor) -> tf.IndexedSlices:
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)


def key_of(variable: Any) -> str:
    """The identity of a variable, the same of a Keras variable and of the tf.Variable in it."""
    value = variable.value if hasattr(variable, "value") and not callable(variable.value) else variable
    return str(value._unique_id)


class OverRanks(Combining):
    """Around the updates of a distributed model's optimizer."""

    def __init__(self, step: SharedStep) -> None:
        self._step = step

    def apply(self, optimizer: Any, gradients: Gradients, variables: Sequence[Any], update: Update) -> None:
        """Combine the gradients, and update all weights with them."""
        places = [self._step.place_of(variable) for variable in variables]
        update(self._step.combined(gradients, places), variables)
        STEP_MARKS.updated(variables)


@contextmanager
def put_back(share: tf.Tensor, variables: Sequence[Any]) -> Iterator[None]:
    """Leave variables as they were by a step whose row only filled up (share 0)."""
    before = [tf.identity(variable.value) for variable in variables]
    yield
    for variable, value in zip(variables, before, strict=True):
        variable.value.assign(tf.where(share > 0, variable.value, value))
