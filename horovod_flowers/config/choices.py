"""The values that options, records and reports share, each declared once."""

from typing import Literal, get_args

Precision = Literal["fp32", "bf16", "fp16"]
"""Of convolutions and matrix products."""
PrecisionChoice = Literal["auto", Precision]
"""What may be asked for."""

StrategyName = Literal["allreduce", "sharded", "tensor", "mesh", "none"]
"""How ranks divide the work; docs/strategies.md."""
StrategyChoice = Literal[StrategyName, "auto"]
"""What may be asked for."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
PRECISION_CHOICES: tuple[PrecisionChoice, ...] = get_args(PrecisionChoice)
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)
STRATEGY_CHOICES: tuple[StrategyChoice, ...] = get_args(StrategyChoice)

DIVIDE_LAYERS: tuple[StrategyName, ...] = ("tensor", "mesh")
"""Strategies that divide large Dense layers over ranks."""
NO_EXCHANGE: StrategyName = "none"
"""The strategy whose ranks train independently: the ceiling, without a common model."""
