"""The README's commands as typed."""

import json
import re
import shlex
from pathlib import Path

import pytest

from horovod_flowers.runlog.json_lines import read_lines
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.records import EpochRecord
from tests.conftest import BIN, PROJECT, Workplace, run_command


def blocks() -> list[str]:
    return re.findall(r"```(?:bash|sh)\n(.*?)```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_first_screen_holds_exactly_two_commands() -> None:
    first_screen = "\n".join((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()[:30])
    commands = [
        line.split("#")[0].split()
        for block in re.findall(r"```(?:bash|sh)\n(.*?)```", first_screen, re.DOTALL)
        for line in block.splitlines()
    ]
    assert commands == [["./flowers", "study"], ["./flowers", "test"]]


def test_every_option_in_the_readme_exists() -> None:
    """Each `python -m horovod_flowers.X --flags` in the documents parses, so that no document outlives an option."""
    found = []
    documents = (
        *("run-log.md", "strategies.md", "batch-jobs.md", "report.md", "export.md", "accuracy.md", "evaluate.md"),
        *("reliability.md", "elastic.md", "security.md"),
    )
    for document in ("README.md", *(f"docs/{name}" for name in documents)):
        text = (PROJECT / document).read_text(encoding="utf-8").replace("\\\n", " ")
        found += re.findall(r"python -m horovod_flowers\.(\w+)((?:[ \t]+[^\s`|#&;)]+)*)", text)
    assert len(found) > 5
    words = [str(BIN / "python"), "-m"]
    known = {
        command: run_command([*words, f"horovod_flowers.{command}", "--help"], PROJECT).stdout
        for command in {command for command, _ in found}
    }
    for command, options in found:
        for flag in (word for word in shlex.split(options) if word.startswith("--")):
            assert flag in known[command], f"{command} {flag}"


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first command's job, as typed, in an empty folder: 3,670 drawn flowers at 180 pixels, one and two ranks."""
    folder = tmp_path_factory.mktemp("study")
    ended = run_command(["bash", PROJECT / "jobs" / "small_study.sh"], folder, timeout=1500)
    (folder / "output").write_text(ended.output)
    assert ended.status == 0, ended.output
    return folder


def test_the_study_ends_with_a_trained_model_and_a_speed_up(studied: Path) -> None:
    output = (studied / "output").read_text()
    assert re.search(r"2 ranks \(allreduce\) against one rank: speed-up \d+\.\d\d, parallel efficiency", output)
    one, two = json.loads((studied / "report" / "scaling.json").read_text())["points"]
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert one["speed_up"] == 1
    assert two["speed_up"] > 0
    for run in (studied / "runs").iterdir():
        assert {"best.safetensors", "last.safetensors"} == {path.name for path in (run / "checkpoints").iterdir()}
    assert (studied / "report" / "pictures" / "speed-up-strong.png").stat().st_size > 10_000
    assert "interval not available: fewer than 6 runs" in output


def test_the_drawn_flowers_are_worth_learning(studied: Path) -> None:
    """After one epoch well above chance (0.2) and well below 1; the same work at one and at two ranks."""
    runs = sorted((read_run(path) for path in (studied / "runs").iterdir()), key=lambda run: run.ranks)
    one, two = (run.result for run in runs)
    assert one.training_images == 3120
    for result in (one, two):
        assert result.progress.best_validation_accuracy is not None
        assert 0.35 < result.progress.best_validation_accuracy < 0.9
    assert one.data_digest == two.data_digest


def test_eight_ranks_run_anywhere_and_are_marked_where_oversubscribed(studied: Path) -> None:
    before = {path.name for path in (studied / "runs").iterdir()}
    words = ["horovodrun", "-np", "8", "python", "-m", "horovod_flowers.train"]
    ended = run_command(words, studied, timeout=1500)
    assert ended.status == 0, ended.output
    (name,) = {path.name for path in (studied / "runs").iterdir()} - before
    run = read_run(studied / "runs" / name)
    cores = {core for rank in run.environment.ranks for core in rank.cores}
    assert run.ranks == 8
    assert run.environment.oversubscribed == (len(cores) < 8)
    assert ("oversubscribed: 8 ranks share" in ended.output) == run.environment.oversubscribed
    (epoch,) = read_lines(studied / "runs" / name / "epochs.jsonl", EpochRecord)
    assert epoch.images == 3120
    reported = run_command(["python", "-m", "horovod_flowers.report"], studied)
    assert reported.status == 0, reported.output
    assert ("oversubscribed" in reported.stdout) == run.environment.oversubscribed


def test_the_bench_measures_strategies_and_communication(studied: Path) -> None:
    options = ["--ranks", "1,2", "--strategies", "none,tensor", "--precisions", "fp32", "--repetitions", "1"]
    options += ["--steps", "2", "--warmup-steps", "1", "--peers", "one core"]
    ended = run_command(["python", "-m", "horovod_flowers.bench", *options], studied, timeout=900)
    assert ended.status == 0, ended.output
    assert re.search(r"2 ranks: tensor fp32 / none fp32: \d+\.\d\d\n", ended.stdout)
    assert re.search(r"1 rank: one rank fp32 / Keras fit, one core: \d+\.\d\d\n", ended.stdout)
    assert re.search(r"alltoall over 2 ranks: \d+\.\d\d ms \+ bytes / \d+\.\d\d GB/s", ended.stdout)
    document = json.loads((studied / "bench" / "bench.json").read_text())
    assert {(row["contender"], row["ranks"]) for row in document["timings"]} == {
        ("one rank fp32", 1),
        ("none fp32", 2),
        ("tensor fp32", 2),
        ("Keras fit, one core", 1),
    }
    assert document["failed"] == []
    for row in (row for row in document["timings"] if "fit" not in row["contender"]):
        parts = sum(row[f"{part}_seconds"] for part in ("input_wait", "compute", "communication", "update"))
        assert parts == pytest.approx(row["median_step_seconds"], rel=0.5)
    assert not [path for path in (studied / "runs").iterdir() if path.name == "run"]  # a bench adds nothing to them


def test_plain_lines_where_there_is_no_terminal(studied: Path) -> None:
    output = (studied / "output").read_text()
    assert "\x1b[" not in output
    assert "auto_mixed_precision" not in output  # TensorFlow's notices of its own work
    assert re.search(r"epoch 1/1: \d+/49 steps loss", output)


def test_horovodrun_without_mpi_is_refused_in_one_sentence(workplace: Workplace) -> None:
    ended = workplace.run("horovodrun", "--gloo", "-np", "2", "python", "-m", "horovod_flowers.train")
    assert ended.status != 0
    assert ended.output.count("leave out --gloo, or start with mpirun") == 1
