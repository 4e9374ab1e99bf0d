"""The record of a script's own fit: what its marks make of a step, and the files that a fit leaves."""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from horovod_flowers.config.command_line import to_yaml
from horovod_flowers.config.script import RECORD_VARIABLE, ScriptConfig
from horovod_flowers.launch.job_environment import SINGLE
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.single_process import SingleProcess
from horovod_flowers.recording import of_fit
from horovod_flowers.recording.of_fit import record_every_fit, record_fits_of, recorder_of_process
from horovod_flowers.recording.recorder import RunRecorder, StepTimes, over_ranks
from horovod_flowers.recording.step_marks import STEP_MARKS, StepMarks
from horovod_flowers.runlog.environment import Parallelism
from horovod_flowers.runlog.json_lines import read_json, read_lines
from horovod_flowers.runlog.model_flops import ModelFlops
from horovod_flowers.runlog.reading.run import RecordedRun, read_run
from horovod_flowers.runlog.records import Environment, Header, StepRecord
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.script_folder import waiting_result
from horovod_flowers.runtime.errors import UserError

ALONE = Ranks(0, 1, 0, 1, SINGLE, SingleProcess())
UNDIVIDED = Parallelism("one rank", [], [], "fp32", [])


class Heard:
    """In place of a recorder: keeps what the marks say."""

    def __init__(self, warmup_steps: int = 0) -> None:
        self.config = ScriptConfig(warmup_steps=warmup_steps)
        self.steps: list[tuple[StepTimes, int, float | None, bool]] = []

    def step(self, times: StepTimes, images: int, loss: float | None, warmup: bool) -> None:
        self.steps.append((times, images, loss, warmup))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Readings that the marks take one after the other."""
    readings: list[int] = []
    monkeypatch.setattr(time, "monotonic_ns", lambda: readings.pop(0))
    yield readings
    assert readings == []


def started(heard: Heard) -> StepMarks:
    marks = StepMarks()
    marks.start(heard)  # type: ignore[arg-type]
    return marks


def test_the_time_before_a_mark_belongs_to_the_part_that_it_ends(clock: list[int]) -> None:
    heard, gradient, variable = Heard(), tf.ones([3]), keras.Variable([1.0])
    marks = started(heard)
    clock += [100, 130, 200, 260, 280, 310, 315]
    marks.begin_epoch()
    marks.batch_arrived((tf.ones([4, 2]), None))
    marks.computed([gradient, None], waited_ns=tf.constant(5, tf.int64))
    combined = marks.combined([gradient, None])
    marks.updated([variable, tf.Variable([1.0])])
    marks.gathered([variable])
    marks.step_ended({"loss": tf.constant(1.0)}, 4, [variable], loss=0.5)
    assert combined[1] is None
    assert np.array_equal(combined[0], [1, 1, 1])
    ((times, images, loss, warmup),) = heard.steps
    assert (images, loss, warmup) == (4, 0.5, False)
    record = times.record(1, 0, warmup, images, loss)
    parts = (record.input_wait_ns, record.compute_ns, record.communication_ns, record.update_ns, record.total_ns)
    # Waited within the passes: 5. Computed after the last mark: 5.
    assert parts == (30, 70 - 5 + 5, 5 + 60 + 30, 20, 215)
    assert sum(parts[:4]) == parts[4]


def test_an_optimizer_that_is_applied_twice_has_its_parts_added_up(clock: list[int]) -> None:
    heard = Heard()
    marks = started(heard)
    clock += [0, 1, 11, 14, 16, 36, 37, 41, 42]
    marks.begin_epoch()
    marks.batch_arrived(tf.ones([2]))
    for _ in range(2):
        marks.computed([tf.ones([1])])
        marks.combined([tf.ones([1])])
        marks.updated([])
    marks.step_ended([], 2)
    record = heard.steps[0][0].record(1, 0, False, 2, None)
    assert (record.compute_ns, record.communication_ns, record.update_ns) == (10 + 20 + 1, 3 + 1, 2 + 4)


def test_marks_in_a_graph_tell_the_same_also_from_a_branch() -> None:
    heard, milliseconds = Heard(), 1_000_000
    marks = started(heard)

    def after(seconds: float, tensor: Any) -> Any:
        def slept(value: np.ndarray) -> np.ndarray:
            time.sleep(seconds)
            return value

        return tf.ensure_shape(tf.numpy_function(slept, [tensor], tf.float32), tensor.shape)

    @tf.function
    def step(batch: tf.Tensor, updates: tf.Tensor) -> tf.Tensor:
        marks.batch_arrived(batch)
        gradient = after(0.02, batch)
        marks.computed([gradient], waited_ns=tf.constant(5 * milliseconds, tf.int64))

        def update() -> tf.Tensor:
            (combined,) = marks.combined([after(0.03, gradient)])
            new = after(0.01, combined)
            marks.updated([new])
            return new

        new = tf.cond(updates, update, lambda: gradient)
        marks.step_ended(new, tf.shape(batch)[0])
        return new

    marks.begin_epoch()
    for updates in (True, False, True):
        time.sleep(0.015)
        step(tf.ones([4]), tf.constant(updates))
    for (times, images, _, _), updates in zip(heard.steps, (True, False, True), strict=True):
        record = times.record(1, 0, False, images, None)
        assert record.input_wait_ns >= 15 * milliseconds
        # A mark may come late where threads have to wait for a core, but not too early.
        assert record.compute_ns + record.communication_ns >= (50 if updates else 20) * milliseconds
        assert record.communication_ns >= 5 * milliseconds
        assert record.update_ns >= 10 * milliseconds if updates else record.update_ns == 0
        parts = (record.input_wait_ns, record.compute_ns, record.communication_ns, record.update_ns)
        assert sum(parts) == record.total_ns
        assert images == 4
    assert heard.steps[1][0].communication_ns == 5 * milliseconds  # the branch of the step before counts nothing


def test_warmup_is_so_many_steps_of_a_fit_and_each_that_waits_for_its_graph() -> None:
    heard = Heard(warmup_steps=2)
    marks = started(heard)

    @tf.function
    def step(batch: tf.Tensor) -> None:
        marks.batch_arrived(batch)
        marks.step_ended(batch, tf.shape(batch)[0])

    marks.begin_epoch()
    for rows in (4, 4, 4, 4, 3, 4):
        step(tf.ones([rows, 2]))
    assert [warmup for *_, warmup in heard.steps] == [True, True, False, False, True, False]
    assert [images for _, images, *_ in heard.steps] == [4, 4, 4, 4, 3, 4]
    assert all(loss is None for _, _, loss, _ in heard.steps)
    marks.start(None)
    step(tf.ones([4, 2]))
    assert len(heard.steps) == 6


def test_without_a_recorder_nothing_is_traced() -> None:
    marks, gradients = StepMarks(), [tf.ones([2])]

    @tf.function
    def step() -> Any:
        marks.batch_arrived(gradients)
        marks.computed(gradients)
        assert marks.combined(gradients) is gradients
        marks.updated([])
        marks.step_ended(gradients, 2)
        return gradients[0]

    kinds = {op.type for op in step.get_concrete_function().graph.get_operations()}
    assert not kinds & {"PyFunc", "Timestamp"}


def test_values_of_all_ranks_are_means_over_samples_or_left_out() -> None:
    one = {"loss": 1.0, "accuracy": 0.5, "auc": 0.9, "val_loss": 2.0, "lr": 0.1, "nan": math.nan}
    other = {"loss": 2.0, "accuracy": 0.25, "auc": 0.8, "val_loss": 2.0 + 1e-7, "lr": 0.1, "nan": math.nan}
    found = over_ranks([(30, one), (10, other)])
    assert found == {"loss": 1.25, "accuracy": 0.4375, "val_loss": 2.0, "lr": 0.1}


# Fits of a real model


def make_model(**compiled: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], **compiled)
    return model


X = np.random.default_rng(0).random((50, 8), np.float32)
Y = np.random.default_rng(1).integers(0, 3, 50)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RunFolder]]:
    """recorded(global_batch=16): what a study writes for a run of this process."""
    fit = keras.Model.fit

    def begin(**given: Any) -> RunFolder:
        options: dict[str, Any] = {"global_batch": 16, "runs_dir": str(tmp_path), **given}
        config = ScriptConfig(command="python s.py", name="r", **options)
        file = tmp_path / ".study" / "r.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(to_yaml(config))
        monkeypatch.setenv(RECORD_VARIABLE, str(file))
        recorder_of_process.cache_clear()
        return RunFolder(tmp_path / "r")

    yield begin
    STEP_MARKS.start(None)
    keras.Model.fit = fit
    recorder_of_process.cache_clear()


def read(folder: RunFolder) -> RecordedRun:
    waiting_result(folder).rename(folder.result)
    return read_run(folder.path)


def steps_of(folder: RunFolder) -> list[StepRecord]:
    return [record for record in read_lines(folder.steps(0), Header | StepRecord) if isinstance(record, StepRecord)]


def test_a_fit_leaves_a_run_that_the_report_can_read(recorded: Callable[..., RunFolder]) -> None:
    folder = recorded(warmup_steps=1)
    model = make_model()
    expected = make_model().fit(X, Y, batch_size=16, epochs=3, validation_split=0.1, shuffle=False, verbose=0).history
    record_fits_of(model, ALONE, lambda: UNDIVIDED)
    history = model.fit(X, Y, 16, 3, 0, validation_split=0.1, shuffle=False).history
    assert history == expected  # recording changes nothing
    assert "train_step" not in vars(model)
    run = read(folder)
    assert (run.environment.world_size, run.environment.global_batch, run.environment.strategy) == (1, 16, "one rank")
    assert [(epoch.epoch, epoch.steps, epoch.images) for epoch in run.epochs] == [(1, 3, 45), (2, 3, 45), (3, 3, 45)]
    assert [epoch.training_loss for epoch in run.epochs] == pytest.approx(history["loss"])
    assert [epoch.training_accuracy for epoch in run.epochs] == pytest.approx(history["accuracy"])
    assert [epoch.validation_accuracy for epoch in run.epochs] == pytest.approx(history["val_accuracy"])
    assert run.epochs[2].training_metrics == pytest.approx({"accuracy": history["accuracy"][2]})
    assert run.epochs[2].validation_metrics == pytest.approx({"accuracy": history["val_accuracy"][2]})
    assert [epoch.learning_rate for epoch in run.epochs] == pytest.approx([0.001] * 3)
    progress = run.result.progress
    assert (progress.epochs_done, progress.steps_done) == (3, 9)
    assert progress.best_validation_loss == pytest.approx(min(history["val_loss"]))
    assert (run.result.parameters, run.result.data_digest) == (8 * 16 + 16 + 16 * 3 + 3, None)
    assert run.result.optimizer_bytes[0] >= 2 * 4 * run.result.parameters
    taken = run.result.resources
    assert taken is not None
    assert taken.wall_seconds is not None
    assert taken.wall_seconds[0] > progress.training_seconds
    assert (taken.checkpoints, taken.data_bytes) == (None, None)  # only the script knows
    assert run.steps.tolist() == list(range(1, 9))  # the first is warm-up
    assert all(step.update_ns > 0 and step.compute_ns > 0 for step in steps_of(folder))
    assert all(step.communication_ns == 0 for step in steps_of(folder))
    # Validation is between epochs, and in no step.
    assert sum(step.total_ns for step in steps_of(folder)) / 1e9 == pytest.approx(progress.training_seconds)


@pytest.mark.parametrize("compiled", [{"steps_per_execution": 2}, {"run_eagerly": True}], ids=["two a call", "eager"])
def test_steps_are_told_apart_however_keras_runs_them(
    recorded: Callable[..., RunFolder], compiled: dict[str, Any]
) -> None:
    folder = recorded(warmup_steps=1)
    model = make_model(**compiled)
    record_fits_of(model, ALONE, lambda: UNDIVIDED)
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    steps = steps_of(folder)
    assert [step.images for step in steps] == [16, 16, 16, 2] * 2
    assert [step.epoch for step in steps] == [1] * 4 + [2] * 4
    assert all(before.start_ns + before.total_ns <= after.start_ns for before, after in itertools.pairwise(steps))
    assert len(read(folder).steps) >= 4


def test_fits_of_one_model_are_one_run_and_another_model_is_left_out(
    recorded: Callable[..., RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    """As a script of Horovod's has it: all fits are recorded, whichever model they are of."""
    folder = recorded(warmup_steps=1)
    record_every_fit(ALONE, lambda _: UNDIVIDED)
    record_every_fit(ALONE, lambda _: UNDIVIDED)  # once is enough
    model, other = make_model(), make_model()
    model.train_on_batch(X[:16], Y[:16])  # builds a graph without marks
    model.fit(X, Y, batch_size=16, verbose=0, callbacks=keras.callbacks.LambdaCallback())
    for _ in range(2):
        other.fit(X, Y, batch_size=16, verbose=0)
    model.fit(X, Y, batch_size=16, verbose=0)
    run = read(folder)
    assert [(epoch.epoch, epoch.steps) for epoch in run.epochs] == [(1, 4), (2, 4)]
    assert run.result.progress.steps_done == 8
    assert not [step for step in steps_of(folder) if step.step == 4 and not step.warmup]  # warm-up of the second fit
    said = "run r records the model that the script trained first; the fit of another one is left out: start one"
    assert capsys.readouterr().err.count(said) == 1


def test_a_fit_that_raises_leaves_no_result_and_what_was_recorded(recorded: Callable[..., RunFolder]) -> None:
    folder = recorded(warmup_steps=1)
    model = make_model()
    record_fits_of(model, ALONE, lambda: UNDIVIDED)
    model.fit(X, Y, batch_size=16, verbose=0)
    assert waiting_result(folder).exists()

    def fail(batch: int, logs: Any) -> None:
        if batch == 1:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        model.fit(X, Y, batch_size=16, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=fail)])
    assert not waiting_result(folder).exists()  # that of the fit before says nothing of all steps
    assert [step.step for step in steps_of(folder)] == list(range(6))
    assert "train_step" not in vars(model)


def test_another_batch_than_the_study_asks_for_is_told_after_an_epoch(recorded: Callable[..., RunFolder]) -> None:
    folder = recorded(global_batch=32)
    model = make_model()
    record_fits_of(model, ALONE, lambda: UNDIVIDED)
    with pytest.raises(UserError, match="asks for: its global batch was 16, and the job file says 32 at 1 ranks: hand"):
        model.fit(X, Y, batch_size=16, epochs=1000, verbose=0)
    assert not waiting_result(folder).exists()


def test_without_a_study_fit_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RECORD_VARIABLE, raising=False)
    recorder_of_process.cache_clear()
    before, model = keras.Model.fit, make_model()
    record_every_fit(ALONE, lambda _: UNDIVIDED)
    record_fits_of(model, ALONE, lambda: UNDIVIDED)
    assert keras.Model.fit is before
    assert "fit" not in vars(model)
    assert of_fit.recording_callback(ALONE, lambda: UNDIVIDED) is None


def test_a_folder_of_another_run_and_a_missing_file_are_refused(recorded: Callable[..., RunFolder]) -> None:
    folder = recorded()
    folder.path.mkdir()
    folder.epochs.write_text("somebody's\n")
    model = make_model()
    record_fits_of(model, ALONE, lambda: UNDIVIDED)
    with pytest.raises(UserError, match=r"r has epochs.jsonl and no config.yaml, so it is no run of a script"):
        model.fit(X, Y, verbose=0)
    assert folder.epochs.read_text() == "somebody's\n"
    missing = folder.path / "missing.yaml"
    with pytest.raises(UserError, match=f"FLOWERS_RECORD is {missing}, which is not there on {os.uname().nodename}"):
        RunRecorder(missing)


def test_a_record_has_what_a_step_takes(recorded: Callable[..., RunFolder]) -> None:
    folder = recorded()
    model = make_model()
    record_fits_of(model, ALONE, lambda: UNDIVIDED)
    model.fit(X, Y, 16, 2, 0, class_weight={0: 1.0, 1: 2.0, 2: 3.0})
    flops = read(folder).environment.model_flops
    first, second = 2 * 16 * 8 * 16, 2 * 16 * 16 * 3
    assert flops == ModelFlops(images=16, forward=first + second, backward=first + 2 * second)
    assert flops.per_image == (2 * first + 3 * second) / 16


class OwnStep(keras.Sequential):
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


class OwnLoss(keras.Sequential):
    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        return super().compute_loss(x, y, y_pred, sample_weight) + keras.ops.mean(x @ keras.ops.transpose(x))


@pytest.mark.parametrize(
    ("kind", "batches", "forward", "why"),
    [
        (OwnStep, [(X[:16], Y[:16])] * 2, None, "a train_step of the model's own"),
        (OwnLoss, [(X[:16], Y[:16])] * 2, 2 * 16 * 8 * 3 + 2 * 16 * 8 * 16, ""),
        (keras.Sequential, [(X[:16], Y[:16]), (X[:9], Y[:9])], 2 * 16 * 8 * 3, ""),
        (
            keras.Sequential,
            [(np.ones((4, n, 8)), np.ones((4, n))) for n in (2, 3)],
            None,
            "batches whose shapes differ",
        ),
    ],
)
def test_what_is_not_counted_is_named(
    recorded: Callable[..., RunFolder], kind: Any, batches: Any, forward: int | None, why: str
) -> None:
    x, y = batches[0]
    folder = recorded(global_batch=len(x))
    model = kind([keras.layers.Dense(3)])
    model.build((None,) * (x.ndim - 1) + (8,))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    record_fits_of(model, ALONE, lambda: UNDIVIDED)
    data = tf.data.Dataset.from_generator(
        lambda: iter(batches),
        output_signature=(tf.TensorSpec((None,) * (x.ndim - 1) + (8,)), tf.TensorSpec((None,) * y.ndim)),
    )
    model.fit(data, epochs=1, verbose=0)
    flops = read_json(folder.environment, Environment).model_flops
    assert flops is not None
    assert flops.forward == forward
    assert (flops.not_counted or [""])[0].startswith(why)
