"""Checkpoints: whole or not at all, restored exactly, refused where they do not fit."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from horovod_flowers.checkpoint.format import (
    DamagedError,
    SavedProgress,
    checkpoint_files,
    forget_later,
    load_checkpoint,
    load_newest,
    read_progress,
    save_checkpoint,
)
from horovod_flowers.checkpoint.model_state import ModelState
from horovod_flowers.checkpoint.writer import NICENESS, CheckpointWriter
from horovod_flowers.model.registry import build_model
from horovod_flowers.runtime.errors import UserError
from tests.conftest import clean_environment


def make(image_size: int = 32, seed: int = 0, optimizer: Any = None) -> tuple[Any, Any]:
    keras.utils.set_random_seed(seed)
    model = build_model("flower_cnn", image_size, 5)
    optimizer = optimizer or keras.optimizers.Adam(0.001)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def save(folder: Path, model: Any, optimizer: Any, reached: SavedProgress) -> None:
    tensors = ModelState.on_one_rank(model, optimizer).collect()
    assert tensors is not None
    save_checkpoint(folder, tensors, reached)


def load(path: Path, model: Any, optimizer: Any) -> SavedProgress:
    state = ModelState.on_one_rank(model, optimizer)
    found = load_checkpoint(path, state.shapes)
    state.share(found.tensors)
    return found.progress


def progress(epoch: int, best: int) -> SavedProgress:
    return SavedProgress(
        epochs_done=epoch,
        steps_done=epoch * 7,
        training_seconds=1.5,
        model="flower_cnn",
        class_names=("a", "b", "c", "d", "e"),
        data_digest="digest",
        validation_accuracy=0.5,
        best_validation_accuracy=0.6,
        best_epoch=best,
    )


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

    monkeypatch.setattr("horovod_flowers.checkpoint.format.save_file", half_written)
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
    with pytest.raises(UserError, match="belongs to another model"):
        load(path, other, other_optimizer)
    assert all(np.array_equal(kept, now.numpy()) for kept, now in zip(before, other.weights, strict=True))
    with pytest.raises(UserError, match="belongs to another optimizer"):
        load(path, *make(optimizer=keras.optimizers.SGD(0.1)))
    with pytest.raises(UserError, match="there is no checkpoint"):
        load(tmp_path / "absent.safetensors", model, optimizer)


def test_the_last_ones_are_kept_and_the_newest_sound_one_is_taken(tmp_path: Path) -> None:
    model, optimizer = make()
    state = ModelState.on_one_rank(model, optimizer)
    for epoch in range(1, 6):
        model.weights[0].assign(np.full(model.weights[0].shape, epoch))
        tensors = state.collect()
        assert tensors is not None
        save_checkpoint(tmp_path, tensors, progress(epoch, 1), keep=3)
    steps = progress(1, 1).steps
    names = [f"earlier-{steps * epoch:08d}.safetensors" for epoch in (4, 3)]
    assert [path.name for path in checkpoint_files(tmp_path)] == ["last.safetensors", *names, "best.safetensors"]

    def newest(most_steps: int | None = None) -> tuple[int, list[str]]:
        found = load_newest(tmp_path, state.shapes, most_steps)
        weight, epochs_done = found.tensors["weight.0000"], found.progress.epochs_done
        assert weight.min() == weight.max() == epochs_done
        return epochs_done, list(found.newer_damaged)

    assert newest() == (5, [])
    assert newest(most_steps=4 * steps) == (4, [])
    damage(tmp_path / "last.safetensors", 100_000)
    epoch, (sentence,) = newest()
    assert epoch == 4
    assert "last.safetensors is damaged (its checksum does not match)" in sentence
    (tmp_path / "last.safetensors").unlink()  # as a crash leaves it where there are no hard links
    (tmp_path / names[0]).write_bytes(b"")
    epoch, (sentence,) = newest()
    assert epoch == 3
    assert names[0] in sentence
    forget_later(tmp_path, 2 * steps)
    assert newest() == (1, [])  # the best one
    damage(tmp_path / "best.safetensors", 100_000)
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read: .*best.safetensors is damaged"):
        newest()
    with pytest.raises(UserError, match="there is no checkpoint in"):
        load_newest(tmp_path / "absent", state.shapes)


def damage(path: Path, place: int, bits: int = 0x10) -> None:
    contents = bytearray(path.read_bytes())
    contents[place] ^= bits
    path.write_bytes(contents)


def test_damage_anywhere_is_found(tmp_path: Path) -> None:
    """200 places: the header, the progress in it and the tensors."""
    model, optimizer = make(image_size=24)
    save(tmp_path, model, optimizer, progress(1, 1))
    path = tmp_path / "last.safetensors"
    whole = path.read_bytes()
    shapes = ModelState.on_one_rank(model, optimizer).shapes
    expected = load_checkpoint(path, shapes)
    header = 8 + int.from_bytes(whole[:8], "little")
    random = np.random.default_rng(0)
    places = [*range(8), *random.integers(8, header, 92), *random.integers(header, len(whole), 100)]
    found = []
    for place in places:
        damage(path, int(place), 1 << int(random.integers(8)))
        try:
            again = load_checkpoint(path, shapes)
        except DamagedError as error:
            found.append(str(error))
        else:  # white space in the header, say
            assert again.progress == expected.progress
            assert all(np.array_equal(value, again.tensors[name]) for name, value in expected.tensors.items())
        path.write_bytes(whole)
    assert len(found) >= 195
    assert all(len(sentence.splitlines()) == 1 for sentence in found)


def test_a_writer_writes_beside_and_tells_what_went_wrong(tmp_path: Path) -> None:
    state = ModelState.on_one_rank(*make(image_size=24))
    writer = CheckpointWriter(tmp_path / "checkpoints", 2, state.layout)
    first = writer.buffers()
    tensors = state.collect(first)
    assert tensors is not None
    assert all(tensors[name] is first[name] for name in state.layout)
    writer.begin(tensors, progress(1, 1))
    assert writer.buffers() is first  # waits, and takes the same memory again
    loaded = load_checkpoint(tmp_path / "checkpoints" / "last.safetensors", state.shapes).tensors
    assert all(np.array_equal(value, loaded[name]) for name, value in first.items())
    (thread,) = (thread for thread in threading.enumerate() if thread.name.startswith("checkpoint"))
    assert thread.native_id is not None
    assert os.getpriority(os.PRIO_PROCESS, thread.native_id) - os.getpriority(os.PRIO_PROCESS, 0) == NICENESS

    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").write_text("in the way")
    writer.begin(tensors, progress(2, 1))
    with pytest.raises(OSError, match="checkpoints"):
        writer.finish()
    with pytest.raises(OSError, match="checkpoints"):
        _ = writer.busy


NICED = """
import os, threading
from pathlib import Path
import numpy as np
from horovod_flowers.checkpoint.format import SavedProgress
from horovod_flowers.checkpoint.writer import CheckpointWriter
from horovod_flowers.runlog.training_progress import BEGINNING

def write(folder):
    # Returns the niceness of the thread that wrote it.
    before = threading.enumerate()
    writer = CheckpointWriter(Path(folder), 2, {"weight.0000": ((3,), np.dtype(np.float32))})
    reached = SavedProgress.of(BEGINNING.after_epoch(7, 1.5), model="m", class_names=("a",), data_digest="d")
    writer.begin(writer.buffers(), reached)
    writer.finish()
    (thread,) = (thread for thread in threading.enumerate() if thread not in before)
    return os.getpriority(os.PRIO_PROCESS, thread.native_id)

if os.geteuid() == 0:  # who may lower a niceness: become somebody who may not
    write("as-root")  # imports all that there is: this Python may lie where others cannot read
    os.setgid(65534)
    os.setuid(65534)
os.nice(15)
print(write("checkpoints"))
"""


def test_a_process_that_is_niced_already_writes_its_checkpoint() -> None:
    with tempfile.TemporaryDirectory() as folder:  # not below tmp_path, which nobody else may enter
        Path(folder).chmod(0o777)
        words = [sys.executable, "-c", NICED]
        ended = subprocess.run(
            words, cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False
        )
        assert (ended.returncode, ended.stdout) == (0, "19\n"), ended.stderr
        assert read_progress(Path(folder) / "checkpoints" / "last.safetensors").epochs_done == 1


def test_a_system_that_refuses_niceness_costs_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: int) -> None:
        raise PermissionError("refused")

    monkeypatch.setattr(os, "setpriority", refused)
    writer = CheckpointWriter(tmp_path, 2, {"weight.0000": ((3,), np.dtype(np.float32))})
    writer.begin(writer.buffers(), progress(1, 1))
    writer.finish()
    assert read_progress(tmp_path / "last.safetensors").epochs_done == 1


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
