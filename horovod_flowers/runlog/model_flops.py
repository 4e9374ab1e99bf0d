"""The record of what a step of a model takes in floating-point operations. No TensorFlow here; docs/run-log.md."""

from typing import Annotated

import msgspec

from horovod_flowers.runlog.field_types import Positive

Flops = Annotated[float, msgspec.Meta(ge=0)]


class ModelFlops(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one step over all ranks: matrix products and convolutions, a multiply-add as two; recomputation left out."""

    images: Positive
    """Of the step that was counted."""
    forward: Flops | None
    """Null, with the next one, where something could not be counted."""
    backward: Flops | None
    not_counted: list[str] = []
    """What it was, in words."""

    @property
    def per_image(self) -> float | None:
        """Forward and backward."""
        if self.forward is None or self.backward is None:
            return None
        return (self.forward + self.backward) / self.images
