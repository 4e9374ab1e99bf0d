"""Any document as options, job file or record of a run: read, or refused in one sentence, soon and in little memory."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from horovod_flowers.checkpoint.format import read_progress
from horovod_flowers.config.command_line import parse
from horovod_flowers.config.run import RunConfig
from horovod_flowers.inference.evaluation.record import read_evaluation
from horovod_flowers.inference.trained_model import read_run_config
from horovod_flowers.runlog.json_lines import read_json
from horovod_flowers.runlog.reading.run import RecordedRun, read_run
from horovod_flowers.runlog.records import Environment, Result
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.study.file import read_study
from horovod_flowers.study.points import points_of
from horovod_flowers.train import main as train
from horovod_flowers.training.resume import read_config
from tests.single.recorded_runs import write_run

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]
SAME_EVERY_TIME = settings(
    derandomize=True,
    database=None,
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
OPTIONS = ["data", "model", "optimizer", "horovod", "name", "epochs", "data.path", "config", "help"]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS | st.sampled_from(OPTIONS), inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.sampled_from(OPTIONS) | st.text(max_size=9), VALUES, max_size=4) | VALUES
TEXTS = st.text(st.sampled_from("ab:-[]{}&*!?|>'\"%@`#,\n\t 1.\\\0\x1b\u2028é"), max_size=60).map(str.encode)
CONTENTS = st.one_of(
    st.binary(max_size=60),
    TEXTS,
    DOCUMENTS.map(lambda value: yaml.safe_dump(value).encode("utf-8", "surrogatepass")),
    DOCUMENTS.map(lambda value: json.dumps(value, default=str, skipkeys=True).encode()),
)


def as_config(path: Path) -> Any:
    return parse(RunConfig, "horovod_flowers.train", "", ["--config", str(path)])


def as_study(path: Path) -> Any:
    return points_of(read_study(path), path, "runs")


def as_options_of_a_study(path: Path) -> Any:
    text = path.read_bytes().decode("utf-8", "replace")
    path.write_text("name: s\nranks: [1]\noptions:\n" + "".join(f"  {line}\n" for line in text.split("\n")))
    return as_study(path)


READERS = (as_config, as_study, as_options_of_a_study)


def bomb(depth: int) -> bytes:
    """Ten lines that stand for 9**depth values."""
    lines = (f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, depth))
    return ("a0: &a0 [x]\n" + "".join(lines)).encode()


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        (bomb(9), "it stands for more than 20000 values"),
        (b"seed: &a [*a]\n", "an alias stands for itself"),
        (b"seed: " + b"[" * 20_000, "cannot be read"),
        (b"a" * 2**21, "it has more than"),
        (b"seed: 2026-99-99\n", "cannot be read (month must be in 1..12)"),
        (b"seed: " + b"9" * 5000, "cannot be read"),
        (b"a: !!python/object/apply:os.system ['touch executed']\n", "could not determine a constructor"),
        (b"\0", "cannot be read"),
        (b"config: other.yaml\n", "config"),
        (b"help: true\n", "help"),
    ],
    ids=lambda value: value[:16] if isinstance(value, str) else "",
)
def test_hostile_documents_get_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], Any], contents: bytes, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.yaml"
    path.write_bytes(contents)
    with pytest.raises(UserError) as refused:
        read(path)
    assert sentence in str(refused.value)
    assert len(str(refused.value)) < 600
    assert os.listdir() == ["file.yaml"]


def test_aliases_are_read_where_they_are_few(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("name: s\nranks: &few [1, 2]\nseeds: *few\n")
    assert read_study(path).seeds == (1, 2)


@pytest.mark.parametrize("read", READERS)
@SAME_EVERY_TIME
@given(contents=CONTENTS)
def test_any_document_is_options_or_a_mistake(tmp_path: Path, read: Callable[[Path], Any], contents: bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(contents)
    with suppress(UserError):
        assert isinstance(read(path), RunConfig | list)


# Runs of others

FILES = ("config.yaml", "environment.json", "result.json", "epochs.jsonl", "steps/rank-00001.jsonl")


@pytest.mark.parametrize("name", FILES)
@SAME_EVERY_TIME
@given(contents=CONTENTS)
def test_any_record_is_a_run_or_left_out_with_a_reason(tmp_path: Path, name: str, contents: bytes) -> None:
    folder = RunFolder(tmp_path / "r")
    if not folder.path.exists():
        write_run(folder.path, 2, [[9, 9], [100, 300], [200, 100]])
    whole = (folder.path / name).read_bytes()
    (folder.path / name).write_bytes(contents)
    try:
        with suppress(UserError):
            assert isinstance(read_run(folder.path), RecordedRun)
    finally:
        (folder.path / name).write_bytes(whole)


@SAME_EVERY_TIME
@given(contents=CONTENTS)
def test_any_config_and_evaluation_of_a_run_are_read_or_refused(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(contents)
    for read in (lambda: read_run_config(RunFolder(tmp_path)), lambda: read_evaluation(tmp_path / "config.yaml")):
        with suppress(UserError):
            read()


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        (b"seed: [", "config.yaml cannot be read (expected the node content, but found '<stream end>'): restore it"),
        (b"seed: 1\nseed: 2\n", "config.yaml cannot be read (an option given twice): restore it"),
        (b"a: &a 1\nb: *a\n", "config.yaml cannot be read (an alias): restore it"),
        (b"\xff\xfe\x00", "config.yaml cannot be read ("),
        (b"- 1\n", "config.yaml does not hold options: restore it, or start another run"),
        (None, None),
    ],
)
def test_every_reader_of_a_runs_options_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: bytes | None, sentence: str | None
) -> None:
    """Where a run is resumed, stands for a point of a study, or is evaluated."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text("name: s\nranks: [2]\nrepetitions: 1\noptions: {global_batch: 64}\n")
    (point,) = as_study(tmp_path / "s.yaml")
    folder = write_run(tmp_path / "runs" / point.name, 2, [[9, 9], [100, 300]])
    (folder.checkpoints / "last.safetensors").parent.mkdir(exist_ok=True)
    (folder.checkpoints / "last.safetensors").touch()
    if contents is None:
        folder.config.unlink()
    else:
        folder.config.write_bytes(contents)
    readers = (
        lambda: read_config(["--resume", "--name", point.name], 0),
        lambda: point.finished(tmp_path / "runs"),
        lambda: read_run_config(folder),
    )
    told = []
    for read in readers:
        with pytest.raises(UserError) as refused:
            read()
        told.append(str(refused.value))
        assert "\n" not in told[-1]
    assert sentence is None or all(sentence in each for each in told)


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_nobody_waits_for_a_pipe_in_a_run(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run is resumed, evaluated, exported or predicts."""
    folder = RunFolder(tmp_path / "runs" / "r")
    make = os.mkfifo if kind == "pipe" else os.mkdir
    folder.checkpoints.mkdir(parents=True)
    for path in (folder.config, folder.environment, folder.result, folder.checkpoints / "last.safetensors"):
        make(path)
    with pytest.raises(UserError, match="is not a file"):
        read_run_config(folder)
    for read, record in ((folder.environment, Environment), (folder.result, Result)):
        with pytest.raises(UserError, match="is not a file"):
            read_json(read, record)
    with pytest.raises(UserError, match=r"last.safetensors is not a file"):
        read_progress(folder.checkpoints / "last.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        train(["--resume", "--name", "r"])
    assert ended.value.code == 2
