"""Dropout that differs between ranks: with equal seeds all ranks would drop the same units."""

from typing import Any

import numpy as np


class DropoutSeeds:
    """The states of Keras' seed generators in a built model.

    [seed, count] each: what a model that was not compiled has in `variables` but not in `weights`.
    """

    def __init__(self, model: Any) -> None:
        weights = {id(weight) for weight in model.weights}
        self._states = [state for state in model.variables if id(state) not in weights]
        self._offset = 0

    def offset(self, offset: int) -> None:
        """Set all seeds so far above those of the model, which checkpoints hold: a rank's number."""
        for state in self._states:
            seed, count = np.asarray(state)
            state.assign(np.array([int(seed) + offset - self._offset, count], np.asarray(state).dtype))
        self._offset = offset
