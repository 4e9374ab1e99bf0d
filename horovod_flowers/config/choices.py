"""The values that options, records and reports share, each declared once."""

from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]
"""Of convolutions and matrix products."""
