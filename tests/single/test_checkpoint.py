"""Checkpoints: whole or not at all, restored exactly, refused where they do not fit."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from horovod_flowers import checkpoint
from horovod_flowers.errors import UserError
from horovod_flowers.model import build_model
from horovod_flowers.model_state import ModelState


def make(image_size: int = 32, seed: int = 0, optimizer: Any = None) -> tuple[Any, Any]:
    keras.utils.set_random_seed(seed)
    model = build_model("flower_cnn", image_size, 5)
    optimizer = optimizer or keras.optimizers.Adam(0.001)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def save(folder: Path, model: Any, optimizer: Any, reached: checkpoint.Progress) -> None:
    tensors = ModelState.on_one_rank(model, optimizer).collect()
    assert tensors is not None
    checkpoint.save(folder, tensors, reached)


def load(path: Path, model: Any, optimizer: Any) -> checkpoint.Progress:
    state = ModelState.on_one_rank(model, optimizer)
    tensors, reached = checkpoint.load(path, state.shapes)
    state.share(tensors)
    return reached


def progress(epoch: int, best: int) -> checkpoint.Progress:
    return checkpoint.Progress(epoch, epoch * 7, 1.5, "flower_cnn", ("a", "b", "c", "d", "e"), "digest", 0.5, 0.6, best)


def test_everything_comes_back_exactly(tmp_path: Path) -> None:
    model, optimizer = make()
    optimizer.apply([np.full(v.shape, 0.1, np.float32) for v in model.trainable_variables], model.trainable_variables)
    save(tmp_path / "c", model, optimizer, progress(2, 2))
    other, other_optimizer = make(seed=1)
    assert load(tmp_path / "c" / "last.safetensors", other, other_optimizer) == progress(2, 2)
    for kept, restored in zip(model.weights, other.weights, strict=True):
        assert np.array_equal(kept.numpy(), restored.numpy())
    for kept, restored in zip(optimizer.variables, other_optimizer.variables, strict=True):
        assert np.array_equal(np.asarray(kept), np.asarray(restored))


def test_the_best_stays_when_a_worse_one_follows(tmp_path: Path) -> None:
    model, optimizer = make()
    save(tmp_path, model, optimizer, progress(1, 1))
    best = (tmp_path / "best.safetensors").read_bytes()
    model.trainable_variables[0].assign(np.zeros(model.trainable_variables[0].shape))
    save(tmp_path, model, optimizer, progress(2, 1))
    assert (tmp_path / "best.safetensors").read_bytes() == best
    assert (tmp_path / "last.safetensors").read_bytes() != best
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "last.safetensors"]


def test_a_failed_write_keeps_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = make()
    save(tmp_path, model, optimizer, progress(1, 1))
    before = (tmp_path / "last.safetensors").read_bytes()

    def half_written(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "save_file", half_written)
    with pytest.raises(OSError, match="no space left"):
        save(tmp_path, model, optimizer, progress(2, 2))
    assert (tmp_path / "last.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    model, optimizer = make()
    save(tmp_path, model, optimizer, progress(1, 1))
    path = tmp_path / "last.safetensors"
    other, other_optimizer = make(image_size=48)
    before = [value.numpy() for value in other.weights]
    with pytest.raises(UserError, match="is of another model"):
        load(path, other, other_optimizer)
    assert all(np.array_equal(kept, now.numpy()) for kept, now in zip(before, other.weights, strict=True))
    with pytest.raises(UserError, match="is of another optimizer"):
        load(path, *make(optimizer=keras.optimizers.SGD(0.1)))
    with pytest.raises(UserError, match="there is no checkpoint"):
        load(tmp_path / "absent.safetensors", model, optimizer)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"\x80\x04pickle"])
def test_damaged_files_are_refused(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "last.safetensors"
    path.write_bytes(damage)
    with pytest.raises(UserError, match="is damaged"):
        load(path, *make())


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    model, optimizer = make()
    save(tmp_path, model, optimizer, progress(1, 1))
    path = tmp_path / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged"):
        load(path, model, optimizer)
