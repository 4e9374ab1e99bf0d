"""Predictions from steps that a model of known parts made, and from what is left of them."""

from dataclasses import replace

import numpy as np
import pytest

from horovod_flowers.runlog.step_profile import ProfiledBatch, ProfiledDense, ProfiledWeight, StepProfile
from horovod_flowers.scaling_model.call_model import CallModel
from horovod_flowers.scaling_model.computing import PassesByRows, batch_at
from horovod_flowers.scaling_model.division import CannotDivideError
from horovod_flowers.scaling_model.hold_out import hold_out
from horovod_flowers.scaling_model.measured_steps import MeasuredStep, Setting, Workload
from horovod_flowers.scaling_model.network import parse_network
from horovod_flowers.scaling_model.prediction import CallModels, Predictor
from horovod_flowers.scaling_model.recommendation import recommend

SHAPES = {"conv": [3, 3, 16, 64], "dense/kernel": [20_000, 512], "dense/bias": [512], "out/kernel": [512, 5]}


def batch(rows: int) -> ProfiledBatch:
    """Forward 4 ms a row, backward 8, each with 10 ms besides; an update of 50 ms."""
    forward, backward = 0.010 + 0.004 * rows, 0.010 + 0.008 * rows
    there = [forward + backward * share for share in (1.0, 0.4, 0.15, 0.1)]
    dense = ProfiledDense(
        kernel=1, layer="dense", rows_per_image=1, input_ready_seconds=0.8 * forward,
        output_ready_seconds=0.9 * forward, output_gradient_ready_seconds=forward + 0.12 * backward,
        input_gradient_ready_seconds=forward + 0.25 * backward,
    )  # fmt: skip
    return ProfiledBatch(
        rows=rows, step_seconds=[forward + backward + 0.05] * 9, forward_seconds=forward, gradient_ready_seconds=there,
        gradients_seconds=forward + backward, update_seconds=0.05, dense=[dense],
    )  # fmt: skip


def profile(*rows: int) -> StepProfile:
    weights = [
        ProfiledWeight(path=path, shape=shape, elements=int(np.prod(shape)), dense=path == "dense/kernel")
        for path, shape in SHAPES.items()
    ]
    return StepProfile(
        schema=1, model="m", options={}, classes=5, precision="fp32", threads=1, clips_by_norm=False, synchronised=[],
        weights=weights, non_trainable_elements=0, batches=[batch(each) for each in rows], timestamp_seconds=0.0,
        host="h", cpu_model=None, gpu=None, versions={}, started_utc="", command=[],
    )  # fmt: skip


MODEL = CallModel.of(parse_network("2Gbit,20us"))
CALLS = CallModels(MODEL, MODEL, MODEL)
STRONG = Workload("strong", 64)
ALONE = MeasuredStep(None, 1, 0.838, 0.788, 0.05, 0.0)
SETTINGS = [Setting("allreduce"), Setting("sharded"), Setting("tensor"), Setting("mesh", 2)]


def predictor(**more: object) -> Predictor:
    return replace(Predictor(STRONG, [ALONE], CALLS, profile(64, 32, 16, 8, 4)), **more)  # type: ignore[arg-type]


def as_measured(truth: Predictor, setting: Setting, ranks: int, slower: float = 1.0) -> MeasuredStep:
    """What `truth` predicts, as runs would show it; its communication exposed so many times as long."""
    found = truth.predict(setting, ranks)
    update = 0.01
    return MeasuredStep(
        setting, ranks, found.compute_seconds + found.exposed_seconds * slower, found.compute_seconds - update, update,
        0.0, (), truth.volume(setting, ranks),
    )  # fmt: skip


def test_estimates_lie_between_all_hidden_and_nothing_hidden() -> None:
    found = predictor()
    for setting in SETTINGS:
        for ranks in (4, 16, 64):
            one = found.predict(setting, ranks)
            assert one.all_hidden_seconds - 1e-9 <= one.step_seconds <= one.nothing_hidden_seconds + 1e-9
            assert one.low_seconds < one.step_seconds < one.high_seconds
            assert one.images_per_second * one.step_seconds == pytest.approx(64)


def test_a_step_on_one_node_of_an_infinite_network_is_computing_alone() -> None:
    fast = CallModel.of(parse_network("1000000Tbit,0ns"))
    fast = replace(fast, cycle_seconds=0.0)
    one = predictor(calls=CallModels(fast, fast, fast)).predict(Setting("tensor"), 8)
    share = 1 - 20_000 * 512 * (7 / 8) / sum(np.prod(shape) for shape in SHAPES.values())
    assert one.step_seconds == pytest.approx(0.020 + 0.012 * 8 + 0.05 * share)


def test_what_runs_exposed_more_is_carried_on_in_proportion_to_communication() -> None:
    truth = predictor()
    for setting in SETTINGS:
        counts = [ranks for ranks in (2, 4) if (setting.group or 1) < ranks]
        runs = [ALONE, *(as_measured(truth, setting, ranks, slower=1.3) for ranks in counts)]
        plain, corrected = truth.predict(setting, 8), predictor(measured=runs).predict(setting, 8)
        assert corrected.exposed_seconds > plain.exposed_seconds
        expected = plain.compute_seconds + 1.3 * plain.exposed_seconds
        assert corrected.step_seconds == pytest.approx(expected, rel=0.15)


def test_without_a_profile_runs_alone_tell_with_a_wider_interval() -> None:
    truth = predictor()
    for setting in (Setting("allreduce", dense_gradients="reduced"), *SETTINGS[1:]):
        runs = [ALONE, *(as_measured(truth, setting, ranks) for ranks in (2, 4) if (setting.group or 1) < ranks)]
        known = predictor(measured=runs).predict(setting, 16)
        blind = predictor(measured=runs, profile=None).predict(setting, 16)
        assert blind.step_seconds == pytest.approx(known.step_seconds, rel=0.1)
        assert blind.low_seconds < known.step_seconds < blind.high_seconds


def test_each_number_of_ranks_is_predicted_from_the_smaller_ones() -> None:
    truth = predictor()
    runs = [ALONE, *(as_measured(truth, SETTINGS[0], ranks) for ranks in (2, 4, 8))]
    found = hold_out(predictor(measured=runs), lambda *_: CALLS)
    assert [(each.ranks, each.from_ranks) for each in found] == [(2, (1,)), (4, (1, 2)), (8, (1, 2, 4))]
    assert all(each.error == pytest.approx(0, abs=0.01) and each.inside for each in found)
    assert hold_out(predictor(measured=runs[:2]), lambda *_: CALLS) == []
    blind = hold_out(predictor(measured=runs, profile=None), lambda *_: None)
    assert blind[0].predicted is None
    assert "neither calls nor a network are known" in blind[0].reason
    assert [each.predicted is not None for each in blind] == [False, True, True]


def test_what_stayed_within_a_node_tells_nothing_of_several() -> None:
    truth = predictor()
    inside = [replace(as_measured(truth, SETTINGS[0], ranks), ranks_per_node=4) for ranks in (2, 4, 8)]
    asked = []

    def calls_below(ranks: int, several_nodes: bool) -> None:
        asked.append((ranks, several_nodes))

    found = hold_out(predictor(measured=[ALONE, *inside], profile=None), calls_below)
    assert asked == [(2, False), (4, False), (8, True)]
    assert [each.predicted is not None for each in found] == [False, True, False]
    assert found[2].reason == "fewer ranks were on one node, and these are on several"


def test_a_divided_layer_is_divided_once_where_calls_of_the_runs_are_unknown() -> None:
    """With a given network and runs within a node, computing is compared with what the profile says of it."""
    truth, setting = predictor(work=Workload("weak", 64)), Setting("tensor")
    runs = [ALONE, replace(as_measured(truth, setting, 4), ranks_per_node=4)]
    found = replace(truth, measured=runs, calls_of_runs=None).predict(setting, 16)
    assert found.compute_seconds == pytest.approx(truth.predict(setting, 16).compute_seconds, rel=1e-6)


@pytest.mark.parametrize(
    ("setting", "ranks", "reason"),
    [
        (Setting("mesh", 4), 6, "groups of 4 do not divide 6 ranks"),
        (Setting("mesh", 8), 8, "groups of 8 do not divide 8 ranks into several"),
        (Setting("tensor"), 128, "a batch of 64 has no image for each of 128 ranks"),
    ],
)
def test_what_does_not_exist_is_told(setting: Setting, ranks: int, reason: str) -> None:
    with pytest.raises(CannotDivideError, match=reason):
        predictor().predict(setting, ranks)


def test_layers_that_are_too_small_or_too_few_are_told() -> None:
    weak = predictor(work=Workload("weak", 64))
    with pytest.raises(CannotDivideError, match="dense has 20000 inputs, too few to divide over 32768 ranks"):
        weak.predict(Setting("tensor"), 32_768)
    with pytest.raises(CannotDivideError, match="no Dense layer of 99,000,000 weights or more to divide"):
        predictor(work=replace(STRONG, shard_above=99_000_000)).predict(Setting("tensor"), 4)
    assert Setting("tensor") not in predictor(work=replace(STRONG, shard_above=99_000_000)).settings([64])
    assert Setting("mesh", 32) in predictor().settings([64])


def test_a_thousand_ranks_and_all_strategies() -> None:
    found = predictor(work=Workload("weak", 16))
    settings = found.settings([1024])
    assert len(settings) == 12  # allreduce, sharded, tensor, and meshes of 2 to 512
    ones = [
        found.predict(setting, ranks) for setting in settings for ranks in (64, 1024) if (setting.group or 1) < ranks
    ]
    advice = recommend(ones, 0.838 / 64, 0.5)
    assert set(advice.best) == {64, 1024}
    assert all(one.step_seconds >= advice.best[one.ranks].step_seconds for one in ones)
    assert "ranks" in advice.sentence


def test_the_recommendation_names_where_a_strategy_ends_and_where_waiting_begins() -> None:
    truth = predictor(work=Workload("weak", 16))
    tensor, mesh = (truth.predict(Setting("tensor"), 16), truth.predict(Setting("mesh", 8), 128))
    ones = [
        replace(tensor, step_seconds=1.0, ranks=8), replace(tensor, step_seconds=1.1, ranks=16),
        replace(mesh, step_seconds=1.2, ranks=128, images=16 * 128), replace(mesh, step_seconds=9.0, ranks=512),
    ]  # fmt: skip
    advice = recommend([replace(one, images=16 * one.ranks) for one in ones], 1 / 16, 0.75)
    assert advice.sentence == (
        "tensor up to 16 ranks, (mesh, G=8) beyond; beyond 128 ranks you pay for waiting (efficiency below 0.75)"
    )


def test_batches_between_the_profiled_ones_lie_on_a_line() -> None:
    found = batch_at(profile(8, 32), 16)
    assert found.gradients_seconds == pytest.approx(batch(16).gradients_seconds)
    assert found.gradient_ready_seconds == pytest.approx(batch(16).gradient_ready_seconds)
    assert batch_at(profile(32), 16).gradients_seconds == pytest.approx(batch(32).gradients_seconds / 2)
    smallest = batch_at(profile(16, 32), 1)
    assert smallest.gradients_seconds == pytest.approx(batch(1).gradients_seconds)


def test_seconds_by_rows_are_a_line() -> None:
    fit = PassesByRows.fitted([64, 32, 16], [0.1 + 0.01 * rows for rows in (64, 32, 16)])
    assert fit.seconds(8) == pytest.approx(0.18)
    assert PassesByRows.fitted([32, 32], [1.0, 1.0]).seconds(16) == pytest.approx(0.5)
