"""Types of the numbers in records: readers refuse what is out of range."""

from typing import Annotated

import msgspec

LARGEST = 2**63 - 1
"""Of a whole number: what readers keep in 64 bits."""

Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=LARGEST)]
Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
