"""The shapes of a model's double: all that ranks send is smaller by one factor.

Where links are slower by the same factor, ideal times stay as they are. A Dense layer on R rows has three sizes that
count, each a product of two of rows, inputs and units: of its kernel, its inputs and its outputs. Each is 1/F of what
it was where each of the three is divided by the square root of F.
"""

import math
from dataclasses import dataclass

from horovod_flowers.runlog.step_profile import ProfiledDense, ProfiledWeight


def shrunk(elements: int, shrink: float) -> int:
    """What becomes of so many elements: one at least."""
    return max(1, round(elements / shrink))


@dataclass(frozen=True)
class ShrunkDense:
    """What a Dense layer of the double works on."""

    rows: int
    """Of its inputs, in place of the images of a rank."""
    positions: int | None
    """Of a sequence in each; None where inputs are vectors."""
    inputs: int
    units: int

    @staticmethod
    def of(weight: ProfiledWeight, dense: ProfiledDense, images: int, shrink: float) -> "ShrunkDense":
        """Of a kernel, for so many images a rank.

        Rows are whole and may be few, so that they are not quite divided by the square root: kernel and inputs then
        still shrink by the factor, and outputs a little more or less.
        """
        inputs, units = weight.shape
        rows = shrunk(images, math.sqrt(shrink))
        positions = (
            shrunk(images * dense.rows_per_image, math.sqrt(shrink) * rows) if dense.rows_per_image > 1 else None
        )
        divisor = images * dense.rows_per_image / (rows * (positions or 1))
        few_inputs = shrunk(inputs, shrink / divisor)
        return ShrunkDense(rows, positions, few_inputs, shrunk(inputs * units, shrink * few_inputs))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of its inputs on a rank."""
        return (self.rows, self.inputs) if self.positions is None else (self.rows, self.positions, self.inputs)
