"""Keras' optimizers as runs use them: two in their fused form, with norms of whole gradients, built over parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from horovod_flowers.config.keras_arguments import OF_WHOLE_WEIGHTS, OPTIMIZER_CLASSES
from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.model.fused_optimizers import FusedAdam, FusedSGD
from horovod_flowers.model.keras_internals import (
    keras_variable,
    learning_rate_of,
    settings_of,
)
from horovod_flowers.runtime.errors import UserError, reason


class MuonOnTensorFlow(keras.optimizers.Muon):
    """Keras' Muon, which asks for the path of the variable that it updates: a tf.Variable, which has none."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable. `variable` is a tf.Variable."""
        super().update_step(gradient, keras_variable(self, variable), learning_rate)


@dataclass(frozen=True)
class Clipping:
    """Gradients shortened to a norm, of all of them together or of each weight's, or cut off element by element, as
    Keras' optimizers define it.

    Theirs would take the norm of what one rank updates: parts of weights under some strategies.
    """

    norm: float
    together: bool
    """Whether one norm is that of all gradients (Pascanu et al. 2013, algorithm 1), or each weight has its own."""
    by_value: bool = False
    """Whether `norm` is no norm but the largest absolute value that an element may have."""

    @staticmethod
    def of(config: OptimizerConfig) -> "Clipping | None":
        """What a run's options ask for."""
        return Clipping.with_norms(config.global_clipnorm, config.clipnorm, config.clipvalue)

    @staticmethod
    def with_norms(
        global_clipnorm: float | None = None, clipnorm: float | None = None, clipvalue: float | None = None
    ) -> "Clipping | None":
        """By the names of Keras' arguments, of which one at most is given."""
        if global_clipnorm:
            return Clipping(float(global_clipnorm), together=True)
        if clipnorm:
            return Clipping(float(clipnorm), together=False)
        return Clipping(float(clipvalue), together=False, by_value=True) if clipvalue else None

    def clip(self, gradients: Sequence[tf.Tensor], squared_norms: tf.Tensor) -> list[tf.Tensor]:
        """The gradients, or their parts, given the squared norm of each whole one."""
        squares = tf.reduce_sum(squared_norms) * tf.ones_like(squared_norms) if self.together else squared_norms
        scales = tf.unstack(self.norm / tf.maximum(tf.sqrt(squares), self.norm))
        return [gradient * tf.cast(scale, gradient.dtype) for gradient, scale in zip(gradients, scales, strict=True)]

    def cut_off(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The gradients, or their parts, where elements are cut off."""
        return [tf.clip_by_value(gradient, -self.norm, self.norm) for gradient in gradients]


_IN_PLACE_OF: dict[Any, Any] = {
    keras.optimizers.Adam: FusedAdam,
    keras.optimizers.AdamW: FusedAdam,
    keras.optimizers.SGD: FusedSGD,
    keras.optimizers.Muon: MuonOnTensorFlow,
}
"""Optimizers of Keras' that have another form here, with the same arguments; AdamW is Adam with weight decay."""


def make_optimizer(config: OptimizerConfig) -> Any:
    """The optimizer of a run; its learning rate is set before every step."""
    kind = getattr(keras.optimizers, OPTIMIZER_CLASSES[config.name])
    arguments = dict(config.options or {})
    if config.name == "sgd":
        arguments["momentum"] = config.momentum
    return _IN_PLACE_OF.get(kind, kind)(config.learning_rate, weight_decay=config.weight_decay or None, **arguments)


_OTHERWISE = {
    "gradient_accumulation_steps": "gradients added up over steps: give --accumulate, and leave "
    "gradient_accumulation_steps out",
    "loss_scale_factor": "a scaled loss: leave loss_scale_factor out; --precision fp16 scales the loss itself",
}
"""Arguments of every optimizer of Keras' for which this suite has options of its own."""
_NOT_THE_USERS = ("builtins", "keras", "tensorflow")
"""Packages of classes that an optimizer of the user's has below its own."""


def optimizer_like(optimizer: Any, weight_decay: float | None, model_name: str) -> Any:
    """A new optimizer of a compiled model's kind and arguments, not built, without clipping and average, in its fused
    form where there is one; its learning rate is set before every step.

    Raises UserError where it asks for what is done otherwise here, or cannot be made anew.
    """
    of = f"model {model_name} is compiled with the optimizer {type(optimizer).__name__}"
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise UserError(
            f"{of}, which scales the loss: compile it with the optimizer inside; --precision fp16 scales the loss "
            "itself"
        )
    for name, instead in _OTHERWISE.items():
        if getattr(optimizer, name, None):
            raise UserError(f"{of} and {name}, {instead}")
    rate = learning_rate_of(optimizer)
    if callable(rate) and not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        raise UserError(
            f"{of} and a function for a learning rate: give it a keras.optimizers.schedules.LearningRateSchedule, or "
            "give --optimizer.learning-rate"
        )
    kind = type(optimizer)
    of_user = [each for each in kind.__mro__ if each.__module__.partition(".")[0] not in _NOT_THE_USERS]
    if any("__init__" in vars(each) and "get_config" not in vars(each) for each in of_user):
        raise UserError(f"{of}, a class with arguments of its own: write its get_config, so that it can be made anew")
    try:
        settings = settings_of(optimizer) | {"weight_decay": weight_decay, "learning_rate": 0.0}
        settings |= {"clipnorm": None, "global_clipnorm": None, "clipvalue": None, "use_ema": False}
        return _IN_PLACE_OF.get(kind, kind).from_config(settings)
    except Exception as error:  # the user's class
        raise UserError(f"{of}, which cannot be made anew from its get_config ({reason(error)})") from error


def acts_on_elements(optimizer: Any) -> bool:
    """Whether an optimizer updates each element of a weight by itself, so that ranks may each update a part.

    Of Keras' own that is known; one of the user's is tried out, on a weight and on its rows.
    """
    kind = type(optimizer)
    own = {here: keras_class.__name__ for keras_class, here in _IN_PLACE_OF.items()}
    keras_class = own.get(kind, kind.__name__)
    if kind in own or kind.__module__.startswith("keras."):
        return keras_class not in {OPTIMIZER_CLASSES[name] for name in OF_WHOLE_WEIGHTS}
    random = np.random.default_rng(0)
    values, *gradients = (random.normal(size=(6, 4)).astype(np.float32) for _ in range(3))

    def updated(rows: slice, flat: bool) -> np.ndarray:
        shape = (-1,) if flat else values[rows].shape
        tried = kind.from_config(settings_of(optimizer) | {"learning_rate": 0.1})
        variable = keras.Variable(values[rows].reshape(shape))
        tried.build([variable])
        for gradient in gradients:
            tried.apply([tf.constant(gradient[rows].reshape(shape))], [variable])
        return np.asarray(variable).reshape(values[rows].shape)

    try:
        whole = updated(slice(6), flat=False)
        parts = np.concatenate([updated(slice(2), flat=True), updated(slice(2, 6), flat=False)])
    except Exception:  # one that takes other weights only
        return False
    return np.allclose(whole, parts, rtol=1e-5, atol=1e-6)


def build_over(
    optimizer: Any,
    variables: Sequence[Any],
    shapes: Sequence[tuple[int, ...]],
    undecayed: Sequence[int] | None = None,
) -> None:
    """Build an optimizer over the variables that this rank updates; `shapes` are those of the whole weights.

    Weight decay is decoupled from the gradient (Loshchilov and Hutter 2019, algorithm 2, with the learning rate for its
    schedule multiplier) and leaves biases and the weights of normalisation alone; or those of the numbers `undecayed`.
    """
    if undecayed is None:
        undecayed = [number for number, shape in enumerate(shapes) if len(shape) < 2]
    if undecayed:
        optimizer.exclude_from_weight_decay(var_list=[variables[number] for number in undecayed])
    optimizer.build(variables)
