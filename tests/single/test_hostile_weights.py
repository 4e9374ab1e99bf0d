"""Weights and models of strangers: nothing in them is run, and no other file is read through them."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from horovod_flowers.inference.export.exported import load_exported
from horovod_flowers.model.registry import build_whole
from horovod_flowers.model.weights import load_weights
from horovod_flowers.runtime.errors import UserError

h5py = pytest.importorskip("h5py")
pytestmark = pytest.mark.timeout(300)


def model(*inner: Any) -> Any:
    """Four inputs to three outputs."""
    import keras

    return keras.Sequential([keras.layers.Input((4,)), *inner, keras.layers.Dense(3, name="last")], name="m")


def save(target: Any, path: Path) -> Path:
    """Whole, or its weights alone, by the ending."""
    target.save_weights(path) if path.name.endswith(".weights.h5") else target.save(path)
    return path


def hostile_lambda(mark: Path) -> Any:
    """A layer whose code, marshalled into the file with the name that it would make."""
    import keras

    name = str(mark)
    # A lambda: of a function with a name only the name is written.
    return keras.layers.Lambda(lambda x: (open(name, "a").write(""), x)[1], output_shape=(4,))


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path, name: str) -> None:
    import keras

    mark = tmp_path / "executed"
    path = save(model(hostile_lambda(mark)), tmp_path / name)
    mark.unlink(missing_ok=True)
    if name == "m.keras":  # the file is what it is meant to be: without safe mode it would run
        keras.models.load_model(path, safe_mode=False)(np.zeros((1, 4), np.float32))
        assert mark.exists()
        mark.unlink()
    weights = model()
    load_weights(weights, 3, path)
    if name == "m.keras":
        with pytest.raises(UserError, match="its Lambda layer holds code, which is not run"):
            build_whole(str(path), 24, 3)
    assert not mark.exists()
    with zipfile.ZipFile(tmp_path / "described.keras", "w") as second, zipfile.ZipFile(tmp_path / "z.keras", "w"):
        if name == "m.keras":
            with zipfile.ZipFile(path) as first:
                for member in first.namelist():
                    second.writestr(member, first.read(member))
        second.writestr("horovod_flowers.json", description())
    with pytest.raises(UserError):
        load_exported(tmp_path / "described.keras")
    assert not mark.exists()


def description() -> bytes:
    """As an export has it."""
    from horovod_flowers.inference.export.exported import FORMAT, SCHEMA, Description, to_json

    return to_json(
        Description(
            format=FORMAT,
            schema=SCHEMA,
            class_names=["a", "b", "c"],
            image_size=24,
            parameters=15,
            model="m",
            run="r",
            checkpoint="best",
            epoch=1,
            validation_accuracy=None,
            data_digest="",
            commit=None,
            versions=None,
            started_utc=None,
            exported_utc="",
            exported_with={},
        )
    )


def external_link(file: Any, name: str, secret: Path) -> None:
    file[name] = h5py.ExternalLink(str(secret), "/secret")


def virtual_data_set(file: Any, name: str, secret: Path) -> None:
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "secret", shape=(4, 3))
    file.create_virtual_dataset(name, layout)


def external_bytes(file: Any, name: str, secret: Path) -> None:
    file.create_dataset(name, (4, 3), "f4", external=[(str(secret), 0, 48)])


def terabytes(file: Any, name: str, secret: Path) -> None:
    file.create_dataset(name, (2**40,), "f4", chunks=(2**20,), compression="gzip")


@pytest.mark.parametrize("name", ["m.weights.h5", "m.h5", "m.keras"])
@pytest.mark.parametrize("put", [external_link, virtual_data_set, external_bytes, terabytes])
def test_no_other_file_and_no_bomb_is_read_through_weights(
    tmp_path: Path, name: str, put: Callable[[Any, str, Path], None]
) -> None:
    path, secret = save(model(), tmp_path / name), tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["secret"] = np.arange(12, dtype="f4").reshape(4, 3)
    inner = path
    if name == "m.keras":
        with zipfile.ZipFile(path) as archive:
            inner = Path(archive.extract("model.weights.h5", tmp_path))
    with h5py.File(inner, "r+") as file:
        found = list[str]()
        file.visititems(lambda n, item: found.append(n) if getattr(item, "shape", None) == (4, 3) else None)
        del file[found[0]]
        put(file, found[0], secret)
    if name == "m.keras":
        members = {}
        with zipfile.ZipFile(path) as archive:
            members = {member: archive.read(member) for member in archive.namelist() if member != inner.name}
        with zipfile.ZipFile(path, "w") as archive:
            for member, contents in members.items():
                archive.writestr(member, contents)
            archive.write(inner, inner.name)
    with pytest.raises(UserError, match="does not hold weights of model m"):
        load_weights(model(), 3, path)
    if name == "m.keras":
        with pytest.raises(UserError, match="model file .* cannot be loaded"):
            build_whole(str(path), 24, 3)


@pytest.mark.parametrize("name", ["m.weights.h5", "m.h5", "m.keras"])
def test_a_damaged_file_of_weights_gets_one_sentence(tmp_path: Path, name: str) -> None:
    path = save(model(), tmp_path / f"whole.{name}")
    whole = path.read_bytes()
    for contents in (b"", whole[: len(whole) // 2], b"\x80\x04pickle", whole[::-1]):
        (tmp_path / name).write_bytes(contents)
        with pytest.raises(UserError) as refused:
            load_weights(model(), 3, tmp_path / name)
        if name == "m.keras":
            with pytest.raises(UserError, match="cannot be loaded"):
                build_whole(str(tmp_path / name), 24, 3)
        assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_zip_bomb_and_paths_that_lead_out_are_refused(tmp_path: Path) -> None:
    path = save(model(), tmp_path / "m.keras")
    bomb = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path) as first, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as second:
        for member in ("metadata.json", "config.json"):
            second.writestr(member, first.read(member))
        with second.open("model.weights.h5", "w") as large:
            for _ in range(300):
                large.write(bytes(2**20))
        second.writestr("horovod_flowers.json", description())
        second.writestr("../../escaped", b"x")
    assert bomb.stat().st_size < 2**20
    with pytest.raises(UserError):
        load_weights(model(), 3, bomb)
    with pytest.raises(UserError):
        load_exported(bomb)
    assert not list(tmp_path.parent.glob("**/escaped"))
