"""Exports: the same answers as the run's, at any size; whole or not at all; nothing of a stranger's is run."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from horovod_flowers.data import synthetic
from horovod_flowers.data.decoding import decode_photo
from horovod_flowers.export import export as export_run
from horovod_flowers.export import main
from horovod_flowers.inference.export import load_back
from horovod_flowers.inference.export.exported import MEMBER, load_exported, sha256
from horovod_flowers.inference.trained_model import TrainedModel, load_run, read_run_config
from horovod_flowers.model.registry import build_model
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.training.initial_weights import start_from
from tests.single import own_models
from tests.single.trained_runs import CLASSES, make_run

pytestmark = pytest.mark.slow
ZOO = "tests.single.trained_runs"
SHAPES = ("", "model.keras", "saved_model")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that has been exported."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "small")
    export_run(folder, read_run_config(folder), "best", folder.path / "export")
    return folder


@pytest.fixture(scope="module")
def trained(run: RunFolder) -> TrainedModel:
    """The run's model."""
    return load_run(run, "best", read_run_config(run))


@pytest.fixture(scope="module")
def served(run: RunFolder) -> Any:
    """The functions of the SavedModel."""
    import tensorflow as tf

    return tf.saved_model.load(str(run.path / "export" / "saved_model")).signatures


@pytest.fixture
def export(run: RunFolder, tmp_path: Path) -> Path:
    """A copy of the export, elsewhere, to do harm to."""
    return shutil.copytree(run.path / "export", tmp_path / "copy")


def drawn(size: int) -> np.ndarray:
    return np.stack([synthetic.draw(3, number, size) for number in range(10)])


def encoded(image: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    contents = io.BytesIO()
    Image.fromarray(image).save(contents, kind, **options)
    return contents.getvalue()


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_each_artefact_answers_as_the_run_does(run: RunFolder, trained: TrainedModel, tmp_path: Path) -> None:
    """Each on its own, moved away from the others."""
    images = drawn(32)
    expected = trained.probabilities(images)
    assert np.ptp(expected, axis=0).max() > 0.05  # the images differ enough to tell models apart
    photos = drawn(72)[:, :50]
    resized = np.stack([decode_photo(encoded(photo), 32) for photo in photos])
    for number, name in enumerate(SHAPES):
        source = run.path / "export" / name
        copy = tmp_path / f"{number}-{Path(name).name}"
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy)
        loaded = load_exported(copy)
        assert loaded.class_names == CLASSES
        assert loaded.image_size == 32
        np.testing.assert_allclose(loaded.probabilities(images), expected, atol=1e-5)
        # Prepared pixels are rounded, these are not: half a level of 255 makes little difference.
        np.testing.assert_allclose(loaded.probabilities(photos), trained.probabilities(resized), atol=0.02)


def test_logits_of_a_loaded_keras_file_are_those_of_the_run(run: RunFolder, trained: TrainedModel) -> None:
    images = drawn(32).astype(np.float32)
    logits = load_exported(run.path / "export" / "model.keras").keras_model(images)
    np.testing.assert_allclose(logits, trained.keras_model(images), rtol=1e-4, atol=1e-4)


def test_a_run_starts_from_an_export(run: RunFolder, trained: TrainedModel) -> None:
    expected = trained.keras_model(drawn(32).astype(np.float32))
    for source in (run.path / "export", run.path / "export" / "model.keras"):
        model = build_model("flower_cnn", 32, len(CLASSES))
        start_from(model, source, CLASSES)
        np.testing.assert_array_equal(model(drawn(32).astype(np.float32)), expected)


def test_the_description_is_whole_and_goes_with_each_artefact(run: RunFolder) -> None:
    folder = run.path / "export"
    described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    wanted = {"class_names": list(CLASSES), "image_size": 32, "model": "flower_cnn", "run": "small", "epoch": 4}
    wanted |= {"checkpoint": "best", "validation_accuracy": 0.75, "data_digest": "0123abcd", "parameters": 357443}
    assert described | wanted == described
    files = {path: sha256(folder / path) for path in listing(folder) if (folder / path).is_file()}
    files.pop("model.json")
    assert described["files"] == files
    assert described["checked"]["native"] <= 1e-5
    assert described["checked"]["other_sizes"] <= 1e-5
    assert described["checked"]["resized_levels"] <= 1.1
    bare = described | {"files": None, "checked": None}
    with zipfile.ZipFile(folder / "model.keras") as archive:
        assert json.loads(archive.read(MEMBER)) == bare
    assert json.loads((folder / "saved_model" / "assets.extra" / MEMBER).read_text(encoding="utf-8")) == bare


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_encoded_photos_are_turned_upright(
    trained: TrainedModel, served: Any, orientation: int, byte_order: str
) -> None:
    """By EXIF, as prepare does; 0: a file that says nothing."""
    import tensorflow as tf

    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    exif.endian = byte_order
    photo = encoded(drawn(72)[1][:40], "JPEG", quality=95, **({"exif": exif} if orientation else {}))
    answer = served["photos"](photos=tf.constant([photo]))
    expected = trained.probabilities(decode_photo(photo, 32)[None])
    np.testing.assert_allclose(answer["probabilities"], expected, atol=0.03)
    assert answer["class_name"].numpy()[0].decode() == CLASSES[int(expected.argmax())]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA"])
def test_photos_of_every_kind_are_read(mode: str) -> None:
    import tensorflow as tf

    from horovod_flowers.inference.export.served import decode_upright

    contents = io.BytesIO()
    image = Image.fromarray(drawn(40)[2]).convert(mode)
    image.save(contents, "PNG")
    assert np.array_equal(decode_upright(tf.constant(contents.getvalue())), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("model", [f"{ZOO}:of_any_size", "tests.single.test_model:regularised"])
def test_users_models_are_exported(tmp_path: Path, model: str) -> None:
    folder = make_run(tmp_path / "runs" / "own", model, image_size=40)
    export_run(folder, read_run_config(folder), "last", tmp_path / "out")
    expected = load_run(folder, "last", read_run_config(folder)).probabilities(drawn(40))
    for name in SHAPES:
        loaded = load_exported(tmp_path / "out" / name)
        np.testing.assert_allclose(loaded.probabilities(drawn(40)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "classes", "atol"),
    [("softmax_layer", 3, 1e-5), ("sigmoid_unit_of_a_layer", 2, 1e-5), ("mixed_bfloat16", 3, 2e-2)],
)
def test_models_that_end_in_probabilities_are_exported_as_they_answer(
    tmp_path: Path, model: str, classes: int, atol: float
) -> None:
    """What the user's own network with the run's weights gives, of softmax once."""
    folder = make_run(tmp_path / "runs" / "own", f"{own_models.__name__}:{model}", classes=CLASSES[:classes])
    export_run(folder, read_run_config(folder), "last", tmp_path / "out")
    network = getattr(own_models, model)(32, classes)
    stored = load_file(folder.checkpoints / "last.safetensors")
    network.set_weights([value for name, value in sorted(stored.items()) if name.startswith("weight.")])
    expected = np.asarray(keras.ops.cast(network(drawn(32).astype(np.float32)), "float32"))
    if classes == 2:
        expected = np.concatenate([1 - expected, expected], axis=1)
    assert np.ptp(expected, axis=0).max() > 2 * atol
    for name in SHAPES:
        answer = load_exported(tmp_path / "out" / name).probabilities(drawn(32))
        np.testing.assert_allclose(answer, expected, atol=atol)
        np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("with_lambda", "does not load without its own code (ValueError: "),
        ("with_own_layer", "does not load without its own code (TypeError: "),
        ("that_cannot_be_described", "build it from Keras's own layers"),
    ],
)
def test_models_with_code_of_their_own_are_refused_and_nothing_is_left(
    tmp_path: Path, model: str, sentence: str
) -> None:
    folder = make_run(tmp_path / "runs" / "own", f"{ZOO}:{model}")
    before = listing(tmp_path)
    with pytest.raises(UserError) as error:
        export_run(folder, read_run_config(folder), "best", folder.path / "export")
    assert sentence in str(error.value)
    assert listing(tmp_path) == before


def test_an_export_that_answers_otherwise_is_not_announced(
    run: RunFolder, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are changed after they were written, as a defect would: an earlier export stays."""
    before = {name: sha256(export / name) for name in listing(export) if (export / name).is_file()}
    load_apart = load_back._load_apart

    def change_then_load(folder: Path, trial: Path, name: str) -> None:
        shutil.copy(trial / "images-1.npy", trial / "images-2.npy")
        load_apart(folder, trial, name)

    monkeypatch.setattr(load_back, "_load_apart", change_then_load)
    with pytest.raises(UserError, match="the exported files do not reproduce"):
        export_run(run, read_run_config(run), "best", export)
    assert {name: sha256(export / name) for name in before} == before
    assert listing(export.parent) == sorted(["copy", *(f"copy/{name}" for name in listing(export))])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--output", "{export}"], "copy exists already: choose another --output, or add --overwrite"),
        (["--output", "{runs}", "--overwrite"], "is not an export (no model.json), so it is not overwritten"),
        (["--output", "/proc/x/export"], "cannot write in /proc/x"),
        (["--checkpoint", "first"], "allowed is one of 'best', 'last'"),
        (["--threads", "-1"], "threads is -1: give 0 or a positive whole number"),
        (["{runs}"], "2 runs are given"),
    ],
)
def test_wrong_use_gets_one_sentence(
    run: RunFolder, export: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.format(export=export, runs=run.path.parent) for word in words]
    with pytest.raises(SystemExit) as ended:
        main([str(run.path), *given])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_a_byte(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)


def without_description(path: Path) -> None:
    """A .keras file of somebody else's."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name != MEMBER}
    with zipfile.ZipFile(path, "w") as archive:
        for name, contents in members.items():
            archive.writestr(name, contents)


def of_another_version(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace('"schema": 1', '"schema": 9'), encoding="utf-8")


@pytest.mark.parametrize(
    ("loaded", "harmed", "harm", "sentence"),
    [
        ("", "model.keras", change_a_byte, "model.keras is damaged (its SHA-256"),
        ("", "model.keras", Path.unlink, "holds no model.keras"),
        ("", "model.json", Path.unlink, "model.json in "),
        ("", "model.json", truncate, "does not describe an exported model"),
        ("", "model.json", of_another_version, "schema 9, and this version reads"),
        ("model.keras", "model.keras", truncate, "is damaged or no .keras file"),
        ("model.keras", "model.keras", without_description, "names no classes (it has no member horovod_flowers.json)"),
        ("model.json", "", lambda path: None, "is damaged or no .keras file"),
        ("nowhere", "", lambda path: None, "there is no exported model"),
        ("saved_model", "saved_model/saved_model.pb", truncate, "cannot be loaded"),
        ("saved_model", "saved_model/variables/variables.index", truncate, "cannot be loaded"),
        ("saved_model", f"saved_model/assets.extra/{MEMBER}", Path.unlink, f"{MEMBER} in "),
    ],
)
def test_damaged_and_foreign_files_get_one_sentence(
    export: Path, loaded: str, harmed: str, harm: Callable[[Path], None], sentence: str
) -> None:
    harm(export / harmed)
    with pytest.raises(UserError) as error:
        load_exported(export / loaded)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_keras_file_with_code_inside_is_not_run(export: Path) -> None:
    import keras

    images = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Lambda(lambda pixels: pixels / 2)(images))
    hostile = export / "hostile.keras"
    keras.Model(images, keras.layers.Softmax()(pooled)).save(hostile)
    with zipfile.ZipFile(export / "model.keras") as source, zipfile.ZipFile(hostile, "a") as archive:
        archive.writestr(MEMBER, source.read(MEMBER))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_exported(hostile)


def test_a_saved_model_that_writes_files_is_not_loaded(export: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    harm = tmp_path / "harm"

    class Hostile(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32, "images")])
        def classify(self, images: Any) -> dict[str, Any]:
            tf.io.write_file(str(harm), "done")
            return {"probabilities": tf.reduce_mean(images, axis=(1, 2))}

    hostile = Hostile()
    tf.saved_model.save(hostile, str(tmp_path / "hostile"), signatures={"serving_default": hostile.classify})
    shutil.copytree(export / "saved_model" / "assets.extra", tmp_path / "hostile" / "assets.extra")
    with pytest.raises(UserError, match=r"has the operation WriteFile \(in .*classify"):
        load_exported(tmp_path / "hostile")
    assert not harm.exists()


def test_writing_weights_is_not_lent_to_others(run: RunFolder) -> None:
    """The functions that store weights write files: neither the model's functions nor its objects may use them."""
    from tensorflow.core.protobuf import saved_model_pb2

    from horovod_flowers.inference.export.operations import refused_operation

    program = (run.path / "export" / "saved_model" / "saved_model.pb").read_bytes()
    assert refused_operation(program) is None

    def changed(change: Callable[[Any], None]) -> str | None:
        saved = saved_model_pb2.SavedModel.FromString(program)
        change(saved.meta_graphs[0])
        return refused_operation(saved.SerializeToString())

    def functions(graph: Any, stores: bool) -> list[Any]:
        every = graph.graph_def.library.function
        return [one for one in every if ("traced_save" in one.signature.name) == stores]

    def call(graph: Any) -> None:
        node = functions(graph, False)[0].node_def.add(op="PartitionedCall")
        node.attr["f"].func.name = functions(graph, True)[0].signature.name

    def branch(graph: Any) -> None:
        node = functions(graph, False)[0].node_def.add(op="Case")
        node.attr["branches"].list.func.add().name = functions(graph, True)[0].signature.name

    assert "PartitionedCall (in " in str(changed(call))
    assert "Case (in " in str(changed(branch))
    hold = changed(lambda g: g.object_graph_def.concrete_functions[functions(g, True)[0].signature.name].SetInParent())
    assert "as a function of the model" in str(hold)
    assert "PyFunc (at top level)" in str(changed(lambda graph: graph.graph_def.node.add(op="PyFunc")))
    assert changed(lambda graph: graph.ClearField("object_graph_def")) == "graph of TensorFlow 1"
