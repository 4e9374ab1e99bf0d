"""Folders that are no whole run, by accident or by intent: each is left out with a sentence, none becomes a figure."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from horovod_flowers.runlog.reading import run as recorded_run
from horovod_flowers.runlog.reading.folders import LeftOut, runs_in
from horovod_flowers.runlog.reading.run import RecordedRun, check_of_run, read_run
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.training_progress import BEGINNING
from horovod_flowers.runtime.errors import UserError
from tests.single.recorded_runs import write_run

STEPS = [[9, 9], [100, 300], [200, 100]]
# Nothing here may wait, for a pipe or for memory.
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with one good run, 'good'."""
    write_run(tmp_path / "runs" / "good", 2, STEPS)
    return tmp_path / "runs"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A good run to damage."""
    return write_run(tmp_path / "r", 2, STEPS)


def left_out(*folders: Path) -> dict[str, str]:
    """Reasons by name; 'good', and nothing else, must be read."""
    found = list(runs_in(folders))
    assert [item.name for item in found if isinstance(item, RecordedRun)] == ["good"]
    return {item.name: item.reason for item in found if isinstance(item, LeftOut)}


def change(path: Path, **fields: Any) -> None:
    """Change fields of a JSON file; some of a group where a dictionary is given."""
    there = json.loads(path.read_text())
    for name, value in fields.items():
        there[name] = (there[name] or {}) | value if isinstance(value, dict) else value
    path.write_text(json.dumps(there))


def refusal(folder: RunFolder) -> str:
    """The sentence that refuses the run: one line."""
    with pytest.raises(UserError) as refused:
        read_run(folder.path)
    return str(refused.value)


# Files that are not what they seem.


@pytest.mark.parametrize(
    "name", ["config.yaml", "environment.json", "result.json", "epochs.jsonl", "steps/rank-00001.jsonl"]
)
@pytest.mark.parametrize("kind", ["pipe", "link out", "loop", "folder", "socket"])
def test_what_is_no_file_is_neither_followed_nor_waited_for(
    folder: RunFolder, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder.path / name
    moved = folder.path.with_name("moved")
    path.rename(moved)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link out":
        path.symlink_to(moved)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    else:
        monkeypatch.chdir(path.parent)  # the path of a socket has at most 107 bytes
        socket.socket(socket.AF_UNIX).bind(path.name)
    kinds = {"pipe": "a named pipe", "folder": "a folder", "socket": "a device or socket"}
    assert refusal(folder) == f"{path} is {kinds.get(kind, 'a symbolic link')}, not a file"


def test_a_device_is_not_read(folder: RunFolder) -> None:
    folder.config.unlink()
    try:
        os.mknod(folder.config, 0o20666, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("only root makes device files")
    assert refusal(folder) == f"{folder.config} is a device or socket, not a file"


def test_step_files_of_another_run_are_not_borrowed(folder: RunFolder, tmp_path: Path) -> None:
    steps = folder.steps(0).parent
    steps.rename(tmp_path / "elsewhere")
    steps.symlink_to(tmp_path / "elsewhere")
    assert refusal(folder) == f"{steps} is a symbolic link, not a folder"


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "result.json", "epochs.jsonl"])
def test_a_file_of_a_terabyte_is_not_read(folder: RunFolder, name: str) -> None:
    with open(folder.path / name, "ab") as file:
        file.truncate(2**40)
    assert f"{name} has {2**40} bytes: at most" in refusal(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_told(folder: RunFolder) -> None:
    folder.result.chmod(0)
    assert refusal(folder).startswith("unreadable (")


# config.yaml


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("seed: 0", "seed: .nan", "seed is 'nan', which is not of that option's type"),
        ("seed: 0", "seed: true", "seed is 'True', which is not of that option's type"),
        ("seed: 0", "seed: '0'", "seed is '0', which is not of that option's type"),
        ("seed: 0", f"seed: {10**40}", "seed is 1000"),
        ("seed: 0", f"seed: {'9' * 5000}", "unreadable ("),
        ("seed: 0", "seed: 2026-99-99", "unreadable ("),
        ("seed: 0", "seed: !!python/object/apply:os.system [true]", "unreadable ("),
        ("seed: 0", "seed: 0\nseed: 1", "an option given twice"),
        ("seed: 0", "seed: 0\n'<b>': 1", "there is no option <b>"),
        ("seed: 0", "seed: 0\n[1]: 1", "unreadable ("),
        ("seed: 0", f"seed: {'[' * 50_000}", "unreadable ("),
        ("seed: 0", "seed: -1", "seed is -1: give 0 or a positive whole number"),
        (
            "learning_rate: 0.001",
            "learning_rate: .inf",
            "optimizer.learning_rate is 'inf', which is not of that option's type",
        ),
        ("learning_rate: 0.001", "learning_rate: 1.0e+308", "optimizer.learning_rate is 1e+308: give"),
        ("strategy: allreduce", "strategy: '[red]x'", "strategy is '[red]x', which is not of that option's type"),
        ("global_batch: 64", "global_batch: 32", "asks for a global batch of 32, environment.json has 64"),
        ("global_batch: 64\n", "", "global_batch is missing: the file is half-written or from another version"),
        ("name: adam", "name: 1", "optimizer.name is '1', which is not of that option's type"),
    ],
)
def test_a_wrong_option_refuses_the_run(folder: RunFolder, old: str, new: str, sentence: str) -> None:
    text = folder.config.read_text()
    assert old in text
    folder.config.write_text(text.replace(old, new, 1))
    assert sentence in refusal(folder)


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        (b"", "config.yaml does not hold options"),
        (b"- 1\n", "config.yaml does not hold options"),
        (b"\xff\xfe", "unreadable ("),
        (b"a: [", "unreadable ("),
        (b"data: 1\n", "config.yaml: name is missing"),
    ],
)
def test_a_file_without_options_is_told(folder: RunFolder, contents: bytes, sentence: str) -> None:
    folder.config.write_bytes(contents)
    assert sentence in refusal(folder)


def test_a_config_cut_at_any_line_is_refused(folder: RunFolder) -> None:
    lines = folder.config.read_text().splitlines(keepends=True)
    for count in range(len(lines)):
        folder.config.write_text("".join(lines[:count]))
        with pytest.raises(UserError):
            read_run(folder.path)


def test_aliases_that_multiply_are_refused(folder: RunFolder) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))
    folder.config.write_text(bomb)
    assert refusal(folder) == f"unreadable ({folder.config}: an alias)"


# environment.json, result.json, epochs.jsonl


RESOURCES: dict[str, Any] = {"wall_seconds": [9.0, 8.0], "steps_before": 0, "gpu_peak_bytes": None}
HOSTILE_RESOURCES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"wall_seconds": [9.0]}, "result.json has resources of 1 of 2 ranks"),
    ({"gpu_peak_bytes": [1, 2, 3]}, "result.json has resources of 3 of 2 ranks"),
    ({"wall_seconds": [9.0, 1e300]}, "result.json is damaged or from another version"),
    ({"wall_seconds": [9.0, -1.0]}, "result.json is damaged or from another version"),
    ({"checkpoint_bytes": 10**40}, "result.json is damaged or from another version"),
    ({"surprise": 1}, "result.json is damaged or from another version"),
)


@pytest.mark.parametrize(
    ("name", "fields", "sentence"),
    [
        ("environment.json", {"world_size": 3}, "does not describe each of its 3 ranks once"),
        ("environment.json", {"world_size": 10**40}, "environment.json is damaged or from another version"),
        ("environment.json", {"ranks": []}, "does not describe each of its 2 ranks once"),
        ("environment.json", {"hosts": []}, "the hosts of environment.json do not have 2 ranks together"),
        ("environment.json", {"global_batch": 2**62}, "environment.json has a global batch of"),
        ("environment.json", {"schema": 4}, "has run-log schema 4, this version reads 2 to 3"),
        ("environment.json", {"<script>": 1}, "environment.json is damaged or from another version"),
        (
            "result.json",
            {"progress": {"steps_done": 4}},
            "step records have gaps: [3] steps on the ranks, 4 in the result",
        ),
        ("result.json", {"progress": {"steps_done": 2**62}}, "step records have gaps: [3] steps on the ranks"),
        ("result.json", {"progress": {"steps_done": 10**40}}, "result.json is damaged or from another version"),
        (
            "result.json",
            {"progress": {"training_seconds": float("nan")}},
            "result.json is damaged or from another version",
        ),
        (
            "result.json",
            {"progress": {"best_validation_accuracy": 1e308}},
            "result.json is damaged or from another version",
        ),
        ("result.json", {"progress": {"surprise": 1}}, "result.json is damaged or from another version"),
        ("result.json", {"optimizer_bytes": [1]}, "result.json has memory of 1 of 2 ranks"),
        ("result.json", {"peak_memory_bytes": [1, 10**40]}, "result.json is damaged or from another version"),
        *(("result.json", {"resources": RESOURCES | fields}, sentence) for fields, sentence in HOSTILE_RESOURCES),
        ("epochs.jsonl", {"training_loss": float("inf")}, "epochs.jsonl, line 1, is damaged or from another version"),
        ("epochs.jsonl", {"learning_rate": None}, "epochs.jsonl has no learning_rate of epoch 1, though the run is of"),
        ("epochs.jsonl", {"training_accuracy": None}, "epochs.jsonl has no training_accuracy of epoch 1"),
        ("epochs.jsonl", {"training_metrics": [1]}, "epochs.jsonl, line 1, is damaged or from another version"),
        ("result.json", {"data_digest": None}, "result.json has no data_digest, though the run is of train"),
        ("result.json", {"training_images": None}, "result.json has no training_images, though the run is of train"),
    ],
)
def test_records_that_contradict_the_run_refuse_it(
    folder: RunFolder, name: str, fields: dict[str, Any], sentence: str
) -> None:
    path = folder.path / name
    change(path, **fields)
    path.write_text(path.read_text() + "\n")
    assert sentence in refusal(folder)


def test_the_ranks_of_the_environment_are_told_apart(folder: RunFolder) -> None:
    ranks = json.loads(folder.environment.read_text())["ranks"]
    for wrong in ([ranks[0], ranks[0]], [ranks[1], ranks[0]]):
        change(folder.environment, ranks=wrong)
        assert "does not describe each of its 2 ranks once" in refusal(folder)
    change(folder.environment, ranks=[ranks[0], ranks[1] | {"host": "elsewhere"}])
    assert "a rank on a host that it does not describe" in refusal(folder)


def test_a_result_of_another_training_refuses_the_run(folder: RunFolder) -> None:
    """As two jobs left it that both replaced the run: the options and epochs of one, the result of the other."""
    change(folder.result, progress={"training_seconds": 0.5})
    assert refusal(folder) == "result.json has 0.500 s of training, epochs.jsonl 0.409 s: they are of two trainings"
    change(folder.result, progress={"training_seconds": 0.409})
    line = folder.epochs.read_text()
    folder.epochs.write_text(line + line)
    assert refusal(folder) == "epochs.jsonl has an epoch twice: two jobs wrote into it at once"
    folder.epochs.write_text("")  # version 0.1.0 could lose it
    assert read_run(folder.path).epochs == []
    folder.epochs.write_text(line)
    folder.config.write_text(folder.config.read_text().replace("epochs: 1\n", "epochs: 2\n", 1))
    assert refusal(folder) == "config.yaml asks for 2 epochs, result.json has 1: they are of two trainings"
    change(folder.result, stopped_early=True)
    assert read_run(folder.path).images == 2 * 64


def test_a_checkpoint_of_another_training_is_not_evaluated(folder: RunFolder) -> None:
    checkpoint = folder.checkpoints / "best.safetensors"
    progress = msgspec.structs.replace(BEGINNING, epochs_done=1, training_seconds=0.409)
    check_of_run(folder, checkpoint, progress)
    for seconds in (0.4, 0.6):
        with pytest.raises(UserError, match=r"best\.safetensors is of another training than .*epochs\.jsonl, of"):
            check_of_run(folder, checkpoint, msgspec.structs.replace(progress, training_seconds=seconds))
    folder.epochs.unlink()  # nothing to compare
    check_of_run(folder, checkpoint, progress)


@pytest.mark.parametrize("name", ["environment.json", "result.json"])
def test_a_half_written_file_is_damaged(folder: RunFolder, name: str) -> None:
    path = folder.path / name
    contents = path.read_bytes()
    for contents_left in (b"", contents[: len(contents) // 2], contents.replace(b"a", b"\xff", 1)):
        path.write_bytes(contents_left)
        assert f"{name} is damaged or from another version" in refusal(folder)


# Folders


def test_whole_and_other_folders_in_one(runs: Path, tmp_path: Path) -> None:
    (runs / "empty").mkdir()
    (runs / ".hidden").mkdir()
    (runs / "a-note.txt").write_text("x")
    (runs / "nowhere").symlink_to(tmp_path / "missing")
    (runs / "loop").symlink_to(runs / "loop")
    (runs / "up").symlink_to(runs)
    (runs / "same").symlink_to(runs / "good")
    write_run(runs / "unfinished", 2, STEPS).result.unlink()
    assert left_out(runs) == {
        "empty": "no config.yaml",
        "nowhere": "unreadable (No such file or directory)",
        "loop": "unreadable (Too many levels of symbolic links)",
        "up": "no config.yaml",
        "same": "the same folder as good",
        "unfinished": "unfinished",
    }


def test_a_linked_run_and_one_given_by_itself_are_read(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "good").symlink_to(runs / "good")
    assert left_out(tmp_path / "links") == {}
    assert left_out(runs / "good") == {}
    monkeypatch.chdir(runs / "good")
    assert left_out(Path()) == {}


def test_a_run_counts_once(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "good", runs / "later")
    shutil.copytree(runs / "good", tmp_path / "more" / "good")
    assert left_out(runs) == {"later": "a copy of good"}
    assert left_out(runs / "good", tmp_path / "more") == {"good": "a copy of good"}
    assert left_out(runs / "good", runs / "good") == {"good": "the same folder as good"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"<img src=x onerror=alert(1)>", r"\x3cimg src=x onerror=alert(1)>"),
        (b"[bold red]x[", r"\x5bbold red]x["),
        (b"a\nleft out: b", r"a\nleft out: b"),
        (b"\x1b[31mred", r"\x1b[31mred"),
        (b"\xff\xfe", r"\udcff\udcfe"),
        ("\u202eevil".encode(), r"\u202eevil"),
        (b"&lt;", r"\x26lt;"),
        (b"a\\nb", r"a\\nb"),
        (b"-rf", "-rf"),
        (b"x" * 200, "x" * 200),
    ],
)
def test_a_name_that_no_run_has_is_left_out_and_shown_harmlessly(runs: Path, name: bytes, shown: str) -> None:
    os.rename(write_run(runs / "odd", 1, [[1], [400]]).path, os.fsencode(runs) + b"/" + name)
    assert left_out(runs) == {shown: "train --name takes no such name: rename the folder"}
    console = Console(width=1000, force_terminal=False)
    with console.capture() as shown_by_rich:
        console.print(shown)
    assert shown_by_rich.get() == f"{shown}\n"


def test_what_a_file_says_is_shown_harmlessly(runs: Path) -> None:
    folder = write_run(runs / "odd", 1, [[1], [400]])
    key = "<script>[red]\x1b\n" + "x" * 900
    folder.config.write_text(folder.config.read_text() + json.dumps(key) + ": 1\n")
    reason = left_out(runs)["odd"]
    assert reason.startswith(r"config.yaml: there is no option \x3cscript>\x5bred]\x1b\nxxx")
    assert len(reason) == 400
    assert reason.isprintable()


def test_a_run_that_vanishes_while_it_is_read_is_left_out(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(runs / "going", 2, STEPS)
    read_steps = recorded_run.read_steps

    def vanish(folder: RunFolder, *numbers: int) -> Any:
        if folder.path.name == "going":
            shutil.rmtree(folder.path)
        return read_steps(folder, *numbers)

    monkeypatch.setattr(recorded_run, "read_steps", vanish)
    assert left_out(runs) == {"going": "step records of 0 of 2 ranks"}


def test_a_step_file_that_vanishes_is_left_out(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(runs / "going", 2, STEPS)

    def vanish(folder: RunFolder) -> list[Path]:
        files = sorted((folder.path / "steps").glob("rank-*.jsonl"))
        if folder.path.name == "going":
            files[1].unlink()
        return files

    monkeypatch.setattr(RunFolder, "step_files", vanish)
    assert left_out(runs) == {"going": "no rank-00001.jsonl"}


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        list(runs_in([tmp_path / "missing"]))


# Anything else


@pytest.mark.parametrize(
    "name", ["config.yaml", "environment.json", "result.json", "epochs.jsonl", "steps/rank-00001.jsonl"]
)
def test_no_damage_of_a_byte_is_more_than_a_refusal(folder: RunFolder, name: str) -> None:
    """Whatever byte changes or is cut off, the run is refused, or read as a whole run whose parts add up.

    A changed digit can make another valid record: equal numbers cannot be asked for, but where they differ the damage
    lay in a step record. Of a step itself only its parts can change together, which no single byte does.
    """
    random = np.random.default_rng(sum(name.encode()))
    whole = read_run(folder.path)
    path = folder.path / name
    contents = path.read_bytes()
    refused = 0
    for _ in range(200):
        place = int(random.integers(len(contents)))
        if random.random() < 0.3:
            damaged = contents[:place]
        else:
            damaged = contents[:place] + bytes([int(random.integers(256))]) + contents[place + 1 :]
        path.write_bytes(damaged)
        try:
            run = read_run(folder.path)
        except UserError:
            refused += 1
            continue
        assert np.array_equal(run.step_ns, whole.step_ns)
        assert np.array_equal(run.part_ns, whole.part_ns)
        if not name.startswith("steps"):
            assert np.array_equal(run.start_ns, whole.start_ns)
            assert np.array_equal(run.clock_offset_seconds, whole.clock_offset_seconds)
            assert run.images == whole.images
    assert refused > 20


@pytest.mark.parametrize(
    "cut", [lambda text: text[: len(text) // 2], lambda text: text + text, lambda text: text[::-1]]
)
@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "result.json", "steps/rank-00000.jsonl"])
def test_halves_doubles_and_reversals_are_refused(folder: RunFolder, name: str, cut: Callable[[bytes], bytes]) -> None:
    path = folder.path / name
    path.write_bytes(cut(path.read_bytes()))
    if name.startswith("steps") and path.read_bytes().count(b'"header"') == 2:
        assert read_run(folder.path).images == 2 * 64  # as a resumed run repeats all of its steps
    else:
        refusal(folder)
