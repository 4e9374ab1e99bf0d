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

PRECISION_CHOICES: tuple[PrecisionChoice, ...] = get_args(PrecisionChoice)
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)
STRATEGY_CHOICES: tuple[StrategyChoice, ...] = get_args(StrategyChoice)

DIVIDING: tuple[StrategyName, ...] = ("tensor", "mesh")
"""Those that divide large Dense layers over ranks."""
DIVIDING_WEIGHTS: tuple[StrategyName, ...] = ("sharded", *DIVIDING)
"""Those whose ranks update parts of weights."""
INDEPENDENT: StrategyName = "none"
"""The one whose ranks train independently: no communication, no common model. It shows what the others
lose to communication."""
