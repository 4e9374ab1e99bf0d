"""Job files that name a command: the points that they stand for, what is refused, and when a point is finished."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from horovod_flowers.config.command_line import to_yaml
from horovod_flowers.config.run import RunConfig
from horovod_flowers.config.script import threads_asked_for
from horovod_flowers.launch.launchers import choose_launcher
from horovod_flowers.report import __main__ as report
from horovod_flowers.report.analysis.points import Point as ReportedPoint
from horovod_flowers.report.analysis.points import points_of as reported_points_of
from horovod_flowers.report.analysis.provenance import provenance_of
from horovod_flowers.report.analysis.run_factors import run_factors_of
from horovod_flowers.report.analysis.run_summary import summarise
from horovod_flowers.runlog.json_lines import read_json, write_json
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.records import Environment, Result
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.script_folder import waiting_result
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.study.__main__ import StudyConfig, main, preflight, read_points, state_of
from horovod_flowers.study.file import read_study
from horovod_flowers.study.point import CollectivesPoint
from horovod_flowers.study.points import points_of
from horovod_flowers.study.script import ScriptPoint, digest_of
from tests.conftest import PROJECT
from tests.single.recorded_runs import write_run

Folder = Callable[..., Path]


@pytest.fixture
def job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """job_file(**fields): a job file s.yaml beside a script train.py, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("print('training')\n")
    (tmp_path / "options.json").write_text("{}\n")

    def write(**fields: Any) -> Path:
        whole = {"name": "s", "ranks": [1, 2], "command": ["python", "train.py"], "global_batch": 64, **fields}
        path = tmp_path / "s.yaml"
        path.write_text(json.dumps({name: value for name, value in whole.items() if value is not None}))
        return path

    return write


def script_points(path: Path, runs_dir: str = "runs") -> list[ScriptPoint]:
    points = points_of(read_study(path), path, runs_dir)
    return [point for point in points if isinstance(point, ScriptPoint)]


def test_every_combination_of_what_the_command_takes_is_a_point(job_file: Folder) -> None:
    words = ["python", "train.py", "--ranks={ranks}", "{global_batch}", "{per_rank_batch}", "{strategy}", "{seed}"]
    path = job_file(
        ranks=[1, 2, 4],
        command=[*words, "{{literal}}", "out/{name}", 2, 0.5],
        strategies=["allreduce", "sharded"],
        seeds=[3, 4],
        repetitions=2,
    )
    points = script_points(path)
    assert len(points) == 2 * (1 * 2 + 2 * 2 * 2)  # on one rank strategies are all the same
    (point,) = [point for point in points if point.name == "s-4ranks-sharded-seed4-run2"]
    assert (point.config.strategy, point.config.seed, point.config.precision) == ("sharded", 4, None)
    env, variable, python, *told = point.command_words()
    assert (env, variable) == ("env", f"FLOWERS_RECORD={Path.cwd()}/runs/.study/s-4ranks-sharded-seed4-run2.yaml")
    assert python.endswith("/python")
    assert python != "python"  # that of the study
    filled = ["--ranks=4", "64", "16", "sharded", "4", "{literal}", "out/s-4ranks-sharded-seed4-run2", "2", "0.5"]
    assert told == ["train.py", *filled]
    assert {point.name for point in points if point.ranks == 1} >= {"s-1ranks-alone-seed3-run1"}


def test_the_example_is_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    points = script_points(PROJECT / "jobs" / "script.yaml")
    assert len(points) == (1 + 3 * 2) * 6  # two strategies on 2, 4 and 8 ranks, six times each
    (last,) = {point.config.script_digest for point in points}
    assert last is not None


def test_weak_scaling_gives_each_rank_its_batch(job_file: Folder) -> None:
    path = job_file(command="python train.py --batch {global_batch}", global_batch=None, per_rank_batch=8)
    told = {point.ranks: point.command_words()[-1] for point in script_points(path)}
    assert told == {1: "8", 2: "16"}


def test_collectives_and_the_preflight_of_a_command_take_no_options_of_train(job_file: Folder) -> None:
    path = job_file(collectives=True, repetitions=1)
    points = read_points(StudyConfig(files=(str(path),)), [])
    assert [point.name for point in points if isinstance(point, CollectivesPoint)] == ["s-2ranks-collectives-run1"]
    runs = [point for point in points if isinstance(point, ScriptPoint)]
    ranks, words = preflight(runs, choose_launcher("mpirun", "a:2", False))
    assert ranks == max(run.ranks for run in runs)
    assert words[-5:] == ["--runs-dir", "runs", "--threads", "0", "--no-images"]


def test_a_dry_run_prints_commands_with_what_asks_for_their_record(
    job_file: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = job_file(repetitions=1, ranks=[2], command=["python", "train.py", "{ranks}", "two words"])
    before = sorted(tmp_path.iterdir())
    main([str(path), "--dry-run", "--no-preflight", "--launcher", "mpirun", "--hosts", "a:2"])
    (line,) = capsys.readouterr().out.splitlines()
    record = f"FLOWERS_RECORD={tmp_path}/runs/.study/s-2ranks-run1.yaml"
    assert shlex.split(line)[-6:] == ["env", record, sys.executable, "train.py", "2", "two words"]
    assert sorted(tmp_path.iterdir()) == before
    main([str(path), "--list"])
    assert capsys.readouterr().out == "0\t2\ts-2ranks-run1\tmissing\n"


def test_threads_are_set_by_tensorflows_own_variable(job_file: Folder) -> None:
    points = script_points(job_file(threads=3))
    assert points[0].command_words()[2] == "TF_NUM_INTRAOP_THREADS=3"
    assert [threads_asked_for({"TF_NUM_INTRAOP_THREADS": given}) for given in ("", " 3 ")] == [0, 3]
    with pytest.raises(UserError, match="TF_NUM_INTRAOP_THREADS is 'many': give 0 or a positive whole number"):
        threads_asked_for({"TF_NUM_INTRAOP_THREADS": "many"})


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"command": ["python", "train.py", "{rank}"]},
            r"command has {rank} in '{rank}', which stands for nothing",
        ),
        ({"command": ["python", "train.py", "{}"]}, r"command has {} in '{}', which stands for nothing"),
        ({"command": ["python", "train.py", "{seed:03d}"]}, "command has {seed:03d} in"),
        ({"command": ["python", "train.py", '{"lr": 1}']}, "a brace that is meant as one is written twice"),
        ({"command": ["python", "train.py", "{seed"]}, "whose braces are not a pair"),
        ({"command": "python train.py 'x"}, "whose quotes are not a pair"),
        ({"command": []}, r"of length >= 1 - at `\$.command`"),
        ({"command": ""}, "command is empty"),
        ({"command": ["python"]}, "command is python alone: name a script"),
        ({"command": ["python", "trian.py"]}, "command names trian.py, which is not there"),
        ({"command": ["no-such-program"]}, "command begins with no-such-program, which is no program here"),
        ({"command": ["python", "train.py", "a\0b"]}, "which no program can be given"),
        ({"command": [["python"]]}, r"got `array` - at `\$.command\[0\]`"),
        ({"options": {"epochs": 2}}, "both command and options are given"),
        ({"global_batch": None}, "no batch is given beside command"),
        ({"per_rank_batch": 8}, "both global_batch and per_rank_batch are given beside command"),
        ({"global_batch": 0}, "Expected `int` >= 1"),
        ({"global_batch": 1}, "global_batch is 1, less than 2 ranks"),
        ({"global_batch": 63, "command": ["python", "train.py", "{per_rank_batch}"]}, "63 does not divide by 2 ranks"),
        ({"strategies": ["allreduce", "sharded"]}, "strategies is allreduce, sharded, and the command does not have"),
        ({"seeds": [1]}, "seeds is 1, and the command does not have {seed}: add it"),
        ({"precisions": ["bf16"]}, "the command does not have {precision}"),
        ({"repetitions": 100_000}, "at most 10000 are taken"),
        ({"command": None}, "global_batch stands beside a command; of train it is one of the options"),
        ({"command": None, "global_batch": None, "warmup_steps": 1}, "warmup_steps stands beside a command"),
    ],
)
def test_what_no_command_can_be_is_told(job_file: Folder, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as told:
        script_points(job_file(**fields))
    assert "s.yaml" in str(told.value)
    assert "\n" not in str(told.value)


def test_options_behind_the_dashes_are_of_train(job_file: Folder) -> None:
    path = job_file()
    with pytest.raises(UserError, match="has a command, and --epochs 2 behind -- is for options of train: write it"):
        points_of(read_study(path), path, "runs", ["--epochs", "2"])


def test_files_that_the_command_names_are_part_of_the_work(job_file: Folder) -> None:
    with_files = ["python", "train.py", "--options=options.json", "{seed}"]
    before = digest_of(with_files)
    assert before == digest_of(with_files) != digest_of(["python", "train.py"])
    (Path.cwd() / "options.json").write_text("{ }\n")
    assert digest_of(with_files) != before
    assert digest_of(["python", "-m", "module"]) is None


# What a script leaves


def leave_record(point: ScriptPoint, runs_dir: Path, ranks: int | None = None, batch: int = 64) -> RunFolder:
    """A run of 0.1 s a step on one rank and half of that on two, as the recorder leaves it."""
    point.prepare(runs_dir)
    ranks = ranks or point.ranks
    steps = [[100 // ranks] * ranks] * 5
    made = write_run(runs_dir / "made", ranks, steps, images_per_step=batch, config=RunConfig(global_batch=batch))
    made.path.rename(runs_dir / point.name)
    folder = RunFolder(runs_dir / point.name)
    folder.config.write_text(to_yaml(point.config))
    result = read_json(folder.result, Result)
    unknown = {"data_digest": None, "training_images": None, "validation_images": None}
    folder.result.unlink()
    write_json(waiting_result(folder), msgspec.structs.replace(result, **unknown))
    return folder


def a_point(path: Path, runs_dir: Path, ranks: int = 2) -> ScriptPoint:
    return next(point for point in script_points(path, str(runs_dir)) if point.ranks == ranks)


def test_a_result_counts_once_the_command_has_ended_well(job_file: Folder, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    point = a_point(job_file(), runs)
    assert state_of(point, runs) == "missing"
    folder = leave_record(point, runs)
    (folder.path / "mine.keras").write_text("a checkpoint of the script's own")
    assert state_of(point, runs) == "unfinished"
    assert point.conclude(runs) is None
    assert state_of(point, runs) == "finished"
    assert read_run(folder.path).config["command"] == "python train.py"
    with pytest.raises(UserError, match="is finished: it is not begun again"):
        point.prepare(runs)
    other = a_point(job_file(global_batch=32), runs)
    with pytest.raises(UserError, match="was made with global_batch 64, and the study says 32: give the study another"):
        state_of(other, runs)
    (tmp_path / "train.py").write_text("print('another')\n")
    with pytest.raises(UserError, match="was made with script_digest"):
        state_of(a_point(job_file(), runs), runs)
    with pytest.raises(UserError, match="has changed since the study began"):
        point.prepare(runs)


def test_an_attempt_that_did_not_end_is_cleared_and_files_of_the_script_stay(job_file: Folder, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    point = a_point(job_file(), runs)
    folder = leave_record(point, runs)
    (folder.path / "mine.keras").write_text("a checkpoint of the script's own")
    point.prepare(runs)
    assert sorted(path.name for path in folder.path.rglob("*") if path.is_file()) == ["config.yaml", "mine.keras"]
    assert str(point.conclude(runs)).startswith(
        "it left no record of its steps, which comes from inside model.fit: add 'ranks = horovod_flowers.start()'"
    )


@pytest.mark.parametrize(
    ("left", "sentence"),
    [
        ({"ranks": 1}, "it trained on 1 ranks, and 2 were started"),
        ({"batch": 128}, "its global batch was 128, and the job file says 64 at 2 ranks: hand it to the script by"),
    ],
)
def test_a_record_of_something_else_does_not_count(
    job_file: Folder, tmp_path: Path, left: dict[str, int], sentence: str
) -> None:
    point, runs = a_point(job_file(), tmp_path / "runs"), tmp_path / "runs"
    folder = leave_record(point, runs, **left)
    assert str(point.conclude(runs)).startswith(sentence)
    assert not folder.result.exists()


def test_ranks_with_threads_of_their_own_do_not_count(job_file: Folder, tmp_path: Path) -> None:
    point, runs = a_point(job_file(threads=2), tmp_path / "runs"), tmp_path / "runs"
    leave_record(point, runs)
    assert str(point.conclude(runs)).startswith("its ranks computed with 1 threads, and the job file says 2: leave")


def test_a_fit_that_did_not_end_and_a_damaged_record_do_not_count(job_file: Folder, tmp_path: Path) -> None:
    point, runs = a_point(job_file(), tmp_path / "runs"), tmp_path / "runs"
    folder = leave_record(point, runs)
    waiting = waiting_result(folder).read_text()
    waiting_result(folder).unlink()
    assert "its fit did not come to an end" in str(point.conclude(runs))
    waiting_result(folder).write_text(waiting)
    folder.steps(1).write_text("")
    assert "its record does not stand for the run: " in str(point.conclude(runs))
    assert waiting_result(folder).exists()
    assert not folder.result.exists()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"command": "python {seed.__class__}"}, "config.yaml: command has {seed.__class__}"),
        ({"command": "python 'x"}, 'config.yaml: command is "python \'x", whose quotes are not a pair'),
        ({"command": "python {seed}"}, "the command has {seed}, and nothing stands for it"),
        ({"command": "python {per_rank_batch}", "global_batch": 63}, "63 does not divide by 2 ranks"),
        ({"global_batch": None}, "neither global_batch nor per_rank_batch is there"),
        ({"per_rank_batch": 8}, "config.yaml: both global_batch (64) and per_rank_batch (8) are given"),
        ({"command": ["python"]}, "config.yaml: command is"),
        ({"surprise": 1}, "config.yaml: there is no option surprise"),
        ({"threads": -1}, "config.yaml: threads is -1"),
    ],
)
def test_a_run_whose_configuration_no_study_writes_is_left_out(
    job_file: Folder, tmp_path: Path, fields: dict[str, Any], sentence: str
) -> None:
    point, runs = a_point(job_file(), tmp_path / "runs"), tmp_path / "runs"
    folder = leave_record(point, runs)
    assert point.conclude(runs) is None
    folder.config.write_text(yaml.safe_dump(yaml.safe_load(folder.config.read_text()) | fields))
    with pytest.raises(UserError, match=re.escape(sentence)):
        read_run(folder.path)


def test_a_run_of_train_and_one_of_a_command_do_not_stand_for_each_other(job_file: Folder, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    point = a_point(job_file(), runs)
    write_run(runs / point.name, 2, [[9, 9], [9, 9]])
    for call in (point.finished, point.prepare):
        with pytest.raises(UserError, match=r"is a run of horovod_flowers.train: give the study another name"):
            call(runs)
    (runs / "t-2ranks-allreduce-auto-seed0-run1").mkdir()
    (runs / "t-2ranks-allreduce-auto-seed0-run1" / "config.yaml").write_text(to_yaml(point.config))
    path = job_file(name="t", command=None, global_batch=None, options={"global_batch": 64}, ranks=[2])
    with pytest.raises(UserError, match="is of a command, and the study's are of train: give the study another name"):
        state_of(points_of(read_study(path), path, str(runs))[0], runs)


def reported(runs: Path) -> list[ReportedPoint]:
    return reported_points_of([summarise(read_run(path)) for path in sorted(runs.glob("*ranks*"))])


def test_the_report_shows_runs_of_a_command_beside_those_of_train(
    job_file: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    for point in script_points(job_file(repetitions=1), str(runs)):
        leave_record(point, runs)
        assert point.conclude(runs) is None
    for ranks in (1, 2):
        write_run(runs / f"trained-{ranks}ranks", ranks, [[9] * ranks] * 3)
    report.main(["--runs-dir", str(runs), "--output", str(tmp_path / "report")])
    said = capsys.readouterr().out
    assert "training a model of 10 parameters (allreduce, strong scaling, fp32) keeps a parallel efficiency" in said
    figures = json.loads((tmp_path / "report" / "scaling.json").read_text())
    found = {(point["ranks"], point["which"]): point["speed_up"] for point in figures["points"]}
    assert set(found) == {(ranks, whose) for ranks in (1, 2) for whose in ("of a script", "of train")}
    assert found[2, "of a script"] == pytest.approx(2)
    assert figures["left_out"] == []
    assert "python train.py" in (tmp_path / "report" / "index.html").read_text()


def test_runs_of_one_command_are_compared_and_of_another_are_not(job_file: Folder, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for point in script_points(job_file(repetitions=1, command=["python", "train.py", "{ranks}"]), str(runs)):
        leave_record(point, runs)
        assert point.conclude(runs) is None
    one, two = reported(runs)
    assert (one.ranks, two.ranks, two.scaling, two.batch) == (1, 2, "strong", 64)
    assert two.speed_up is not None
    assert two.efficiency is not None
    assert (two.speed_up.value, two.efficiency.value) == pytest.approx((2, 1))
    assert two.part_shares == pytest.approx({"input_wait": 0, "compute": 0.9, "communication": 0.1, "update": 0})
    factors = run_factors_of(two.runs[0])
    assert (factors["command"], factors["data hash"]) == ("python train.py '{ranks}'", "not set")
    provenance = provenance_of([run for point in (one, two) for run in point.runs])
    again = [found for found in provenance.commands if '"ranks": [2]' in found.command]
    assert [found.runs for found in again] == [1]
    assert """"command": ["python", "train.py", "{ranks}"]""" in again[0].command

    (tmp_path / "train.py").write_text("print('another')\n")
    path = job_file(name="other", repetitions=1, ranks=[2], command=["python", "train.py", "{ranks}"])
    (point,) = script_points(path, str(runs))
    leave_record(point, runs)
    assert point.conclude(runs) is None
    (other,) = [point for point in reported(runs) if point.runs[0].name.startswith("other")]
    assert other.speed_up is None
    assert any(words.startswith("script_digest: ") for words in other.other_work)


def test_weak_scaling_of_a_command_is_compared_by_the_batch_of_a_rank(job_file: Folder, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for point in script_points(job_file(global_batch=None, per_rank_batch=32, repetitions=1), str(runs)):
        leave_record(point, runs, batch=32 * point.ranks)
        assert point.conclude(runs) is None
    _, two = reported(runs)
    assert (two.scaling, two.batch) == ("weak", 32)
    assert two.speed_up is not None
    assert two.speed_up.value == pytest.approx(4)
    folder = RunFolder(runs / two.runs[0].name)
    environment = read_json(folder.environment, Environment)
    write_json(folder.environment, msgspec.structs.replace(environment, global_batch=65))
    with pytest.raises(UserError, match="asks for a global batch of 64, environment.json has 65"):
        read_run(folder.path)
