"""What each option means is declared with it: for resuming, for a study and for what the report compares."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from horovod_flowers.config.choices import STRATEGY_CHOICES
from horovod_flowers.config.data import DataConfig
from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.config.options import Effect, Option, flat_options, names_of, option, options_of
from horovod_flowers.config.run import HorovodConfig, ModelConfig, RunConfig
from horovod_flowers.report.__main__ import main
from horovod_flowers.report.analysis.learning import reached_by
from horovod_flowers.report.analysis.points import Point, points_of
from horovod_flowers.report.analysis.run_factors import run_factors_of
from horovod_flowers.report.analysis.run_summary import RunSummary, summarise
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.study.points import SET_BY_STUDY
from tests.single.recorded_runs import write_run

OPTIONS = options_of(RunConfig)


def test_every_option_of_a_run_says_what_it_means() -> None:
    assert list(OPTIONS) == list(flat_options(dataclasses.asdict(RunConfig())))
    assert [name for name, found in OPTIONS.items() if found.declared_effect is None] == []


def test_nobody_declares_for_resuming_what_the_effect_says_already() -> None:
    """An exception is one: what goes on longer is the same training as far as it was."""
    declared = {name for name, found in OPTIONS.items() if found.declared_resumable is not None}
    assert declared == {"epochs", "early_stopping", "early_stopping_on"}
    for name, found in OPTIONS.items():
        trained = found.effect in (Effect.WORK, Effect.RECIPE, Effect.REPETITION)
        assert found.resumable is (not trained or name in declared), name


def test_options_of_a_strategy_are_those_that_others_refuse() -> None:
    for name, found in OPTIONS.items():
        assert set(found.strategies) <= set(STRATEGY_CHOICES), name
        assert not found.strategies or found.effect is Effect.STRATEGY, name
        assert not found.strategies or found.resumable, name  # another strategy starts without it


def test_what_decides_the_work_is_declared_as_decided() -> None:
    """A change here changes which runs are compared: it is one of docs/report.md, too."""
    assert set(names_of(RunConfig, Effect.WORK)) == {
        *("model.name", "optimizer.name", "optimizer.momentum", "optimizer.weight_decay", "accumulate"),
        *("optimizer.global_clipnorm", "optimizer.clipnorm", "optimizer.clipvalue", "optimizer.options"),
        *("loss", "loss_options", "model.options", "model.freeze", "model.overrides"),
        *("label_smoothing", "average_decay", "data.image_size", "data.augment", "data.smallest_crop", "data.stretch"),
        *("data.rotation_degrees", "data.recolour", "data.erase", "data.crop_size", "emulate.profile"),
    }
    assert set(names_of(RunConfig, Effect.SPEED)) == {
        *("warmup_steps", "bind", "elastic", "commit_steps", "horovod.fusion_threshold_mb", "horovod.cycle_time_ms"),
        "emulate.shrink",
    }
    assert set(names_of(RunConfig, Effect.STRATEGY)) == {
        *("compression", "dense_gradients", "model_parallel_size", "shard_layers", "shard_above"),
    }
    assert set(names_of(RunConfig, Effect.RESOLVED)) == {
        *("strategy", "precision", "global_batch", "per_rank_batch", "threads"),
    }
    assert {"strategy", "precision", "seed", "name", "runs_dir"} < set(SET_BY_STUDY)


def test_an_option_that_nobody_has_classified_is_other_work_and_stays_as_it_is_on_resume() -> None:
    @dataclasses.dataclass(frozen=True)
    class Later:
        surprise: int = option(0, "an option of the future")

    found = options_of(Later)["surprise"]
    assert (found.declared_effect, found.effect, found.resumable) == (None, Effect.WORK, False)


# Recorded runs

BASE = RunConfig(global_batch=64, threads=1, warmup_steps=1)


def with_options(**options: Any) -> RunConfig:
    return dataclasses.replace(BASE, **options)


def summaries(folder: Path, one: RunConfig, two: RunConfig) -> list[RunSummary]:
    write_run(folder / "one", 1, [[1], [400]], config=one)
    write_run(folder / "two", 2, [[1, 1], [100, 100]], config=two)
    return [summarise(read_run(folder / name)) for name in ("one", "two")]


def two_ranks(folder: Path, one: RunConfig, two: RunConfig) -> Point:
    (point,) = (point for point in points_of(summaries(folder, one, two)) if point.ranks == 2)
    return point


AUGMENTED = with_options(data=DataConfig(augment=True))
OTHER_WORK = [
    (AUGMENTED, with_options(data=DataConfig(augment=True, crop_size=64)), "data.crop_size: 64 against not set"),
    (BASE, with_options(average_decay=0.99), "average_decay: 0.99 against 0"),
    (BASE, with_options(label_smoothing=0.1), "label_smoothing: 0.1 against 0"),
    (BASE, AUGMENTED, "data.augment: yes against no"),
    (AUGMENTED, with_options(data=DataConfig(augment=True, erase=0.5)), "data.erase: 0.5 against 0"),
    (BASE, with_options(data=DataConfig(image_size=96)), "data.image_size: 96 against 180"),
    (BASE, with_options(optimizer=OptimizerConfig(name="sgd")), "optimizer.name: sgd against adam"),
    (BASE, with_options(optimizer=OptimizerConfig(weight_decay=0.1)), "optimizer.weight_decay: 0.1 against 0"),
    (BASE, with_options(accumulate=2), "accumulate: 2 against 1"),
    (BASE, with_options(model=ModelConfig(name="a.b:c")), "model: a.b:c against flower_cnn"),
    (BASE, with_options(loss="mse"), "loss: mean_squared_error against crossentropy"),
    (
        with_options(model=ModelConfig(name="a.b:c", options={"width": 8})),
        with_options(model=ModelConfig(name="a.b:c", options={"width": 16, "deep": True})),
        "model.options: {deep: true, width: 16} against {width: 8}",
    ),
]


@pytest.mark.parametrize(("one", "two", "difference"), OTHER_WORK, ids=[words for _, _, words in OTHER_WORK])
def test_runs_of_other_work_have_no_speed_up_and_are_told_apart(
    tmp_path: Path, one: RunConfig, two: RunConfig, difference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for config in (two, one):  # the same work has a speed-up
        point = two_ranks(tmp_path / f"same-{config is two}", config, config)
        assert point.speed_up is not None
        assert point.speed_up.value == pytest.approx(4)
    point = two_ranks(tmp_path / "runs", one, two)
    assert (point.speed_up, point.efficiency, point.other_work) == (None, None, (difference,))
    main(["--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path / "report"), "--format", "json,html"])
    said = f"its one-rank baseline is missing (the nearest did other work: {difference}); run: mpirun -np 1 "
    assert said in capsys.readouterr().out
    assert difference in (tmp_path / "report" / "index.html").read_text()
    assert difference in (tmp_path / "report" / "scaling.json").read_text()


def test_rows_of_other_work_say_which_they_are(tmp_path: Path) -> None:
    smaller = with_options(data=DataConfig(augment=True, crop_size=64))
    points = points_of(summaries(tmp_path / "a", AUGMENTED, smaller) + summaries(tmp_path / "b", smaller, AUGMENTED))
    assert sorted((point.ranks, point.which) for point in points) == [
        *((ranks, f"data.crop_size {size}") for ranks in (1, 2) for size in ("64", "not set")),
    ]
    assert [point.speed_up.value for point in points if point.speed_up] == pytest.approx([1, 4, 1, 4])


def test_runs_that_differ_in_an_unclassified_option_have_no_speed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = with_options(stall_seconds=60)
    assert two_ranks(tmp_path / "a", BASE, other).speed_up is not None
    unclassified: Option = dataclasses.replace(OPTIONS["stall_seconds"], declared_effect=None)
    monkeypatch.setitem(OPTIONS, "stall_seconds", unclassified)
    point = two_ranks(tmp_path / "b", BASE, other)
    assert (point.speed_up, point.other_work) == (None, ("stall_seconds: 60 against 120",))


@pytest.mark.parametrize(
    "other",
    [
        with_options(optimizer=OptimizerConfig(learning_rate=0.1)),
        with_options(epochs=3),
        with_options(early_stopping=2),
        with_options(early_stopping=2, early_stopping_on="loss"),
        with_options(optimizer=OptimizerConfig(plateau_epochs=2)),
        with_options(data=DataConfig(validation_fraction=0.3)),
        with_options(model=ModelConfig(weights="w.h5")),
    ],
)
def test_another_recipe_costs_the_same_and_has_a_row_of_its_own(tmp_path: Path, other: RunConfig) -> None:
    runs = summaries(tmp_path, BASE, other)
    write_run(tmp_path / "more", 2, [[1, 1], [200, 200]], config=BASE)
    points = [point for point in points_of([*runs, summarise(read_run(tmp_path / "more"))]) if point.ranks == 2]
    assert sorted(point.speed_up.value for point in points if point.speed_up) == pytest.approx([2, 4])
    assert all(point.which for point in points)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (with_options(horovod=HorovodConfig(cycle_time_ms=5.0)), "horovod.cycle_time_ms: 5 against not set"),
        (with_options(bind="none"), "bind: none against auto"),
        (with_options(warmup_steps=0), "warmup_steps: 0 against 1"),
        (with_options(commit_steps=2), "commit_steps: 2 against 10"),
    ],
)
def test_what_may_change_the_time_of_a_step_is_told_beside_the_ranks(
    tmp_path: Path, other: RunConfig, difference: str
) -> None:
    point = two_ranks(tmp_path, BASE, other)
    assert (point.speed_up, point.refusal) == (None, f"they differ in more than the ranks ({difference})")


def test_what_is_beside_the_steps_changes_no_ratio(tmp_path: Path) -> None:
    data = DataConfig(prepared_dir="elsewhere", tfds_dir="there")
    other = with_options(data=data, validate=False, checkpoint=False, tensorboard=True, seed=7, preset="accurate")
    point = two_ranks(tmp_path, BASE, other)
    assert point.speed_up is not None
    assert point.speed_up.value == pytest.approx(4)
    assert not {"name", "runs_dir", "tensorboard", "data.prepared_dir"} & run_factors_of(point.runs[0]).keys()


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({"strategy": "tensor", "shard_layers": "head"}, "tensor head"),
        ({"strategy": "tensor", "shard_above": 500}, "tensor above 500"),
        ({"strategy": "none", "shard_above": 500}, "none"),
        ({"strategy": "mesh"}, "mesh of nodes"),
        ({"strategy": "mesh", "model_parallel_size": 2}, "mesh of 2"),
        ({"compression": "fp16"}, "allreduce fp16"),
        ({"strategy": "sharded", "dense_gradients": "factors"}, "sharded factors"),
    ],
)
def test_options_of_a_strategy_stand_after_its_name(tmp_path: Path, options: dict[str, Any], label: str) -> None:
    point = two_ranks(tmp_path, BASE, with_options(**options))
    assert point.strategy == label
    assert point.speed_up is not None


def test_an_accuracy_in_common_is_of_runs_that_learn_from_the_same(tmp_path: Path) -> None:
    smoothed = with_options(label_smoothing=0.1)
    for name, config, accuracy in (("a", BASE, 0.7), ("b", smoothed, 0.4)):
        write_run(tmp_path / name, 1, [[100], [400]], config=config, validation=[accuracy], accuracy=accuracy)
    runs = [summarise(read_run(path)) for path in sorted(tmp_path.iterdir())]
    assert sorted(found.accuracy for found in reached_by(points_of(runs), None)) == [0.4, 0.7]
