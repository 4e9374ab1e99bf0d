"""Scaling with the global batch, warm-up, decay."""

from typing import Any

import pytest

from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.training.learning_rate import scale_factor, schedule


@pytest.mark.parametrize(
    ("name", "rule", "factor"),
    [("sgd", "auto", 16), ("adam", "auto", 4), ("adam", "linear", 16), ("sgd", "sqrt", 4), ("adam", "none", 1)],
)
def test_scaling_rules(name: str, rule: str, factor: float) -> None:
    config = OptimizerConfig(name=name, scaling=rule, base_batch=32)  # type: ignore[arg-type]
    assert scale_factor(config, 512) == factor


def test_warm_up_climbs_from_the_unscaled_to_the_scaled_rate() -> None:
    config = OptimizerConfig(name="sgd", learning_rate=0.1, warmup_epochs=2)
    rates = schedule(config, global_batch=128, steps_per_epoch=5, epochs=4)
    assert rates.at(0) == pytest.approx(0.1 + 0.3 / 10)
    assert rates.at(9) == pytest.approx(0.4)
    assert rates.at(19) == pytest.approx(0.4)
    assert all(rates.at(k) < rates.at(k + 1) for k in range(9))


def test_no_warm_up_where_nothing_is_scaled() -> None:
    rates = schedule(OptimizerConfig(warmup_epochs=2), global_batch=32, steps_per_epoch=5, epochs=4)
    assert rates.at(0) == rates.at(10) == 0.001


def test_warm_up_from_zero_at_any_batch() -> None:
    rates = schedule(
        OptimizerConfig(warmup_epochs=2, warmup_from_zero=True), global_batch=32, steps_per_epoch=5, epochs=4
    )
    assert rates.at(0) == pytest.approx(0.0001)
    assert rates.at(9) == rates.at(15) == pytest.approx(0.001)


def test_cosine_falls_to_zero_from_the_end_of_warm_up() -> None:
    config = OptimizerConfig(name="sgd", learning_rate=0.1, warmup_epochs=1, decay="cosine")
    rates = schedule(config, global_batch=64, steps_per_epoch=10, epochs=3)
    assert rates.at(10) == pytest.approx(0.2)
    assert rates.at(20) == pytest.approx(0.1)  # half-way: half the peak
    assert rates.at(29) < 0.01
    assert rates.at(30) == pytest.approx(0.0, abs=1e-12)


def keras_schedules() -> list[tuple[OptimizerConfig, Any]]:
    """Options, and the schedule of Keras' that is the same; of 4 epochs of 5 steps at the base batch."""
    from keras.optimizers import schedules

    def options(**given: Any) -> OptimizerConfig:
        return OptimizerConfig(learning_rate=0.1, **given)

    return [
        (options(decay="polynomial", decay_power=2.0), schedules.PolynomialDecay(0.1, 20, 0.0, power=2)),
        (options(decay="polynomial", decay_end=0.1), schedules.PolynomialDecay(0.1, 20, 0.01)),
        (options(decay="cosine", decay_end=0.2), schedules.CosineDecay(0.1, 20, alpha=0.2)),
        (options(decay="exponential", decay_epochs="2", decay_rate=0.5), schedules.ExponentialDecay(0.1, 10, 0.5)),
        (
            options(decay="piecewise", decay_epochs="1,3", decay_rate=0.5),
            schedules.PiecewiseConstantDecay([4, 14], [0.1, 0.05, 0.025]),  # up to and with a step
        ),
    ]


@pytest.mark.parametrize("number", range(5))
def test_curves_are_those_of_keras(number: int) -> None:
    config, expected = keras_schedules()[number]
    found = schedule(config, global_batch=32, steps_per_epoch=5, epochs=4)
    rates = [found.at(step) for step in range(20)]
    assert rates == pytest.approx([float(expected(step)) for step in range(20)], rel=1e-5, abs=1e-8)


def test_a_curve_begins_after_warm_up() -> None:
    config = OptimizerConfig(learning_rate=0.1, warmup_epochs=1, warmup_from_zero=True, decay="polynomial")
    found = schedule(config, global_batch=32, steps_per_epoch=5, epochs=3)
    assert [found.at(step) for step in (4, 5, 10, 14)] == pytest.approx([0.1, 0.1, 0.05, 0.01])
