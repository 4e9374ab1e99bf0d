"""The double of a measured model: the parts of its steps, its shapes, and the processor that sleeps."""

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from horovod_flowers.config.data import DataConfig
from horovod_flowers.config.emulate import EmulateConfig
from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.config.run import ModelConfig, RunConfig
from horovod_flowers.double import virtual_core
from horovod_flowers.double.shrunk import ShrunkDense, shrunk
from horovod_flowers.double.timeline import timeline
from horovod_flowers.double.virtual_core import VirtualCore
from horovod_flowers.runlog.step_profile import StepProfile, write_step_profile
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.training.emulation import check_room, emulation_of
from tests.single.step_profiles import profile

BATCH = profile().batches[0]
LARGE, SMALL = BATCH.dense


def test_a_step_is_cut_where_layers_may_be_divided() -> None:
    found = timeline(BATCH, [LARGE])
    assert [part.seconds for part in found.forward] == pytest.approx([0.07, 0.03])
    (around,) = found.backward
    assert [each.weight for each in around.before] == [5, 4]
    assert [each.computation.seconds for each in around.before] == pytest.approx([0.01, 0.002])
    assert around.upstream.seconds == pytest.approx(0.008)
    assert [each.weight for each in around.beside] == [3]
    assert around.inputs is not None
    assert around.inputs.seconds == pytest.approx(0.015)
    assert [each.weight for each in found.rest] == [2, 1, 0]
    assert [each.computation.seconds for each in found.rest] == pytest.approx([0.03, 0.11, 0.01])
    assert found.kernels[2].seconds == pytest.approx(0.03)
    assert found.end.seconds == pytest.approx(0.01)
    parts = [*found.forward, around.upstream, around.inputs, found.end]
    parts += [each.computation for each in (*around.before, *around.beside, *found.rest)]
    assert sum(part.seconds for part in parts) == pytest.approx(BATCH.gradients_seconds)
    assert sorted(part.place for part in parts) == list(range(len(parts)))


def test_a_step_without_such_layers_is_one_piece() -> None:
    found = timeline(BATCH, [])
    assert [part.seconds for part in found.forward] == pytest.approx([0.1])
    assert found.backward == []
    assert [each.weight for each in found.rest] == [5, 4, 3, 2, 1, 0]


def test_medians_in_another_order_than_the_layers_are_put_right() -> None:
    """A layer whose timestamps came late: nothing takes less than no time."""
    late = msgspec.structs.replace(SMALL, output_gradient_ready_seconds=0.11, input_gradient_ready_seconds=0.13)
    found = timeline(msgspec.structs.replace(BATCH, dense=[LARGE, late]), [LARGE, late])
    parts = [each for around in found.backward for each in (around.upstream, around.inputs) if each is not None]
    assert [part.seconds >= 0 for part in parts] == [True] * 4
    assert [part.place for part in parts] == sorted(part.place for part in parts)


@pytest.mark.parametrize(
    ("rows", "shrink", "expected"),
    [
        (8, 1.0, ShrunkDense(8, None, 4096, 256)),
        (8, 4.0, ShrunkDense(4, None, 2048, 128)),
        (32, 16.0, ShrunkDense(8, None, 1024, 64)),
        (8, 20.0, ShrunkDense(2, None, 819, 64)),
        (1, 16.0, ShrunkDense(1, None, 256, 256)),
    ],
)
def test_kernel_and_inputs_shrink_by_the_factor(rows: int, shrink: float, expected: ShrunkDense) -> None:
    found = ShrunkDense.of(profile().weights[2], LARGE, rows, shrink)
    assert found == expected
    assert found.inputs * found.units == pytest.approx(4096 * 256 / shrink, rel=2e-3)
    assert found.rows * found.inputs == pytest.approx(rows * 4096 / shrink, rel=2e-3)


def test_positions_of_a_sequence_shrink_with_the_rows() -> None:
    dense = msgspec.structs.replace(LARGE, rows_per_image=50)
    found = ShrunkDense.of(profile().weights[2], dense, 8, 16.0)
    assert found.input_shape == (2, 50, 1024)
    assert (shrunk(1, 100.0), shrunk(100, 16.0)) == (1, 6)


class Clock:
    """In place of `time`: what sleeps takes no time, and the first one waits until two others want to compute."""

    def __init__(self, core: VirtualCore) -> None:
        self.now, self.slept, self._core = 100.0, list[float](), core

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        while not self.slept and len(self._core._waiting) < 2:
            time.sleep(0.001)
        self.slept.append(seconds)
        self.now += seconds + 0.001  # woken late


def test_a_virtual_core_computes_one_thing_after_the_other_without_adding_up_delays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = VirtualCore()
    clock = Clock(core)
    monkeypatch.setattr(virtual_core, "time", clock)
    core.begin()
    ended: dict[int, float] = {}

    def compute(place: int) -> None:
        core.compute(place, 0.05, after_others=False)
        ended[place] = clock.now

    threads = [threading.Thread(target=compute, args=(place,)) for place in (0, 2, 1)]
    threads[0].start()
    while not core._busy:
        time.sleep(0.001)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(60)
    # Of those that wait the lower place is next, whoever came first.
    assert list(ended.values()) == pytest.approx([100.051, 100.101, 100.151])
    assert list(ended) == [0, 1, 2]
    clock.now += 0.05
    core.compute(3, 0.02, after_others=False)  # late, and so at once
    assert len(clock.slept) == 3
    core.compute(4, 0.03, after_others=True)  # from when it could begin
    assert clock.slept[-1] == pytest.approx(0.03)


SLEPT = RunConfig(per_rank_batch=8, steps=3, warmup_steps=0, emulate=EmulateConfig(profile="p.json"))


def emulated(folder: Path, size: int = 4, record: StepProfile | None = None, **options: Any) -> Any:
    write_step_profile(folder / "p.json", record or profile())
    emulate = EmulateConfig(profile=str(folder / "p.json"), shrink=options.pop("shrink", None))
    network = options.pop("network_shrink", None)
    return emulation_of(dataclasses.replace(SLEPT, emulate=emulate, **options), size, network)


def test_a_run_that_sleeps_has_neither_checkpoints_nor_validation_nor_cores() -> None:
    assert (SLEPT.checkpoint, SLEPT.validate, SLEPT.bind) == (False, False, "none")
    assert emulation_of(RunConfig(), 4, 4.0) is None


def test_what_it_stands_for(tmp_path: Path) -> None:
    found = emulated(tmp_path, strategy="tensor")
    assert (found.precision, found.shrink, found.batch) == ("fp32", 1.0, BATCH)
    assert emulated(tmp_path, network_shrink=4.0).shrink == 4.0
    assert emulated(tmp_path, network_shrink=4.0, shrink=4.0).shrink == 4.0
    assert emulated(tmp_path, shrink=2.0).shrink == 2.0
    prepared, images = found.images(SLEPT, 4)
    assert (len(images.training), prepared.image_size, len(prepared.class_names)) == (3 * 32, 1, 5)
    config = dataclasses.replace(SLEPT, strategy="tensor")
    assert [layer.layer for layer in found.layers(config, "tensor", 4)] == ["large"]
    named = dataclasses.replace(config, shard_layers="small, large")
    assert [layer.layer for layer in found.layers(named, "tensor", 4)] == ["large", "small"]
    assert found.layers(dataclasses.replace(config, shard_above=2_000_000), "allreduce", 4) == []
    with pytest.raises(UserError, match="no Dense layer of at least 2,000,000 weights to divide"):
        found.layers(dataclasses.replace(config, shard_above=2_000_000), "tensor", 4)
    with pytest.raises(UserError, match=r"shard_layers names 'other': .* large \(1,048,576 weights\)"):
        found.layers(dataclasses.replace(config, shard_layers="other"), "mesh", 4)
    with pytest.raises(UserError, match="has 2 inputs left, too few to divide over 4 ranks: choose a smaller shrink"):
        check_room(found, [LARGE], [2], 4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"per_rank_batch": 4}, "a rank of this run has 4 images a step, and step profile .* is of 8: measure it"),
        ({"precision": "bf16"}, "was measured with precision fp32, and the run has bf16"),
        ({"threads": 2}, "was measured with threads 1, and the run has 2"),
        ({"model": ModelConfig(name="flower_resnet")}, "was measured with model.name flower_cnn, and the run has"),
        ({"optimizer": OptimizerConfig(name="sgd")}, "was measured with optimizer.name adam, and the run has sgd"),
        ({"data": DataConfig(image_size=64)}, "was measured with data.image_size 180, and the run has 64"),
        ({"shrink": 2.0, "network_shrink": 4.0}, "emulate.shrink is 2, and the emulated network is 1/4"),
        ({"data": DataConfig(source="tf_flowers"), "steps": None}, "does not look at the photos, .* add --steps"),
        ({"record": profile(synchronised=["bn"])}, "bn normalises over the images of all ranks"),
    ],
)
def test_a_profile_of_other_work_is_refused(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        emulated(tmp_path, **options)


def test_a_profile_that_is_not_there_is_told_with_what_makes_it(tmp_path: Path) -> None:
    config = dataclasses.replace(SLEPT, emulate=EmulateConfig(profile=str(tmp_path / "none.json")))
    with pytest.raises(UserError, match=r"there is no step profile .*none.json: measure one with python -m"):
        emulation_of(config, 4, None)
    folder = dataclasses.replace(SLEPT, emulate=EmulateConfig(profile=str(tmp_path)))
    with pytest.raises(UserError, match="cannot be read"):
        emulation_of(folder, 4, None)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"resume": True, "name": "r"}, "resume"),
        ({"accumulate": 2}, "accumulate"),
        ({"elastic": True}, "elastic"),
        ({"early_stopping": 2}, "early_stopping"),
        ({"checkpoint_steps": 2}, "checkpoint_steps"),
        ({"tensorboard": True}, "tensorboard"),
        ({"average_decay": 0.9}, "average_decay"),
        ({"model": ModelConfig(weights="w.h5")}, "model.weights"),
        ({"optimizer": OptimizerConfig(plateau_epochs=2)}, "optimizer.plateau_epochs"),
    ],
)
def test_what_needs_weights_or_images_is_refused(options: dict[str, Any], name: str) -> None:
    with pytest.raises(UserError, match=f"^{name} and emulate.profile are both given"):
        dataclasses.replace(SLEPT, **options)


def test_a_shrink_alone_is_refused() -> None:
    with pytest.raises(UserError, match="emulate.shrink is given without --emulate.profile"):
        EmulateConfig(shrink=2.0)
    with pytest.raises(UserError, match=r"emulate.shrink is 0.5: give a number from 1 to 10000"):
        EmulateConfig(profile="p.json", shrink=0.5)


def test_a_run_of_which_nothing_would_be_timed_is_refused() -> None:
    with pytest.raises(UserError, match=r"^steps is 3, of which the first 3 are not timed"):
        dataclasses.replace(SLEPT, warmup_steps=3, epochs=1)
    assert dataclasses.replace(SLEPT, warmup_steps=3, epochs=2).epochs == 2
