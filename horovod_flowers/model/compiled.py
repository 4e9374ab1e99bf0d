"""What a model says of its training that was given to `compile`: optimizer, loss and metrics."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from horovod_flowers.model.keras_internals import compiled_loss, compiled_metrics, compiled_settings, decays
from horovod_flowers.model.loss import labels_as
from horovod_flowers.model.outputs import Ending
from horovod_flowers.runtime.errors import UserError, reason

_LEFT_OUT = {"run_eagerly": True, "jit_compile": True}
"""Of compile's arguments, those that are not followed, by the value that asks for something."""


@dataclass(frozen=True, eq=False)
class Compiled:
    """A compiled model, as its function returned it."""

    name: str
    model: Any
    outputs: np.ndarray
    """float32 [n, units]: what it gave for a few images."""
    ending: Ending
    classes: int

    @property
    def optimizer(self) -> Any:
        """A keras.Optimizer."""
        return self.model.optimizer

    def losses(self) -> list[tuple[Any, float | None]]:
        """Its keras.Loss objects with their weights. Raises UserError where Keras finds that they do not fit."""
        try:
            return compiled_loss(self.model, *self._examples("integers"))
        except Exception as error:  # whatever Keras makes of it
            raise UserError(
                f"model {self.name} is compiled with a loss that does not fit its output ({reason(error)}): compile it "
                "with one loss for one output, or give --loss"
            ) from error

    def metrics(self, labels: Any) -> list[tuple[str, Any, bool]]:
        """Its metrics, as `compiled_metrics`; `labels`: as its loss takes them. Raises UserError likewise."""
        try:
            return compiled_metrics(self.model, *self._examples(labels))
        except Exception as error:  # whatever Keras makes of them
            raise UserError(
                f"model {self.name} is compiled with metrics that do not fit its output ({reason(error)}): leave them "
                "out of compile"
            ) from error

    def _examples(self, form: Any) -> tuple[Any, np.ndarray]:
        labels = (np.arange(len(self.outputs)) % self.classes).astype(np.int32)
        return labels_as(form, self.ending, labels, self.classes), self.outputs

    @property
    def undecayed(self) -> frozenset[int]:
        """The weights that its optimizer's weight decay leaves alone, by their numbers among the model's variables."""
        return frozenset(
            number for number, variable in enumerate(self.model.variables) if not decays(self.optimizer, variable)
        )

    @property
    def left_out(self) -> list[str]:
        """Arguments of compile that training does not follow."""
        settings = compiled_settings(self.model)
        names = [name for name, asked in _LEFT_OUT.items() if settings.get(name) is asked]
        return names + (["steps_per_execution"] if (settings.get("steps_per_execution") or 1) > 1 else [])
