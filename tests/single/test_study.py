"""Job files, the points that they stand for, and what becomes of them."""

import dataclasses
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from horovod_flowers.config.run import RunConfig
from horovod_flowers.runlog.collectives import collectives_file, read_collectives
from horovod_flowers.runlog.machine_peak import peak_file, read_peak, write_peak
from horovod_flowers.runlog.study_attempts import Attempt, PointFiles, failures, read_record
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.study.__main__ import StudyConfig, holder_of_cores, read_points, state_of
from horovod_flowers.study.file import read_study
from horovod_flowers.study.point import CollectivesPoint, PeakPoint, TrainingPoint
from horovod_flowers.study.points import in_order, points_of
from tests.conftest import PROJECT, Ended, Workplace, run_command
from tests.single.held_run import another_process
from tests.single.machine_peaks import peak_record
from tests.single.recorded_runs import write_run


def job_file(folder: Path, **fields: Any) -> Path:
    path = folder / "s.yaml"
    path.write_text(json.dumps({"name": "s", "ranks": [1, 2], **fields}))
    return path


def test_every_combination_is_a_point_and_one_rank_has_no_strategy(tmp_path: Path) -> None:
    fields = {"strategies": ["allreduce", "tensor"], "precisions": ["fp32", "bf16"], "seeds": [0, 1], "repetitions": 2}
    path = job_file(tmp_path, ranks=[1, 2, 4], options={"global_batch": 16, "data": {"augment": True}}, **fields)
    points = points_of(read_study(path), path, "runs")
    assert Counter(point.ranks for point in points) == {1: 8, 2: 16, 4: 16}
    assert len({point.name for point in points}) == 40
    (point,) = [point for point in points if point.name == "s-2ranks-tensor-bf16-seed1-run2"]
    assert isinstance(point, TrainingPoint)
    assert (point.config.strategy, point.config.precision, point.config.seed) == ("tensor", "bf16", 1)
    assert "--strategy tensor --precision bf16 --data.augment" in " ".join(point.words())
    assert "--epochs" not in point.words()  # a default


def test_the_order_is_random_by_repetition_and_the_same_every_time(tmp_path: Path) -> None:
    path = job_file(tmp_path, ranks=[1, 2, 4, 8], repetitions=3, options={"global_batch": 16})
    points = points_of(read_study(path), path, "runs")
    ordered = in_order(points, 0)
    assert ordered == in_order(points, 0) != in_order(points, 1)
    assert [point.repetition for point in ordered] == [1] * 4 + [2] * 4 + [3] * 4
    sizes = [[point.ranks for point in ordered[start : start + 4]] for start in (0, 4, 8)]
    assert all(sorted(block) == [1, 2, 4, 8] for block in sizes)
    assert len({tuple(block) for block in sizes}) > 1


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"ranks": []}, "s.yaml: .*ranks"),
        ({"ranks": [0]}, "s.yaml: .*>= 1"),
        ({"strategy": "tensor"}, "unknown field `strategy`: allowed are name, ranks"),
        ({"strategies": ["ring"]}, "ring"),
        ({"options": {"epoch": 1}}, "there is no option --epoch: did you mean --epochs"),
        ({"options": {"seed": 1}}, "option seed is the study's own"),
        ({"seeds": [2**32]}, "seed is 4294967296: give 0 or a positive whole number up to 4294967295"),
        (
            {"seeds": [99999999999999999999]},
            "seed is 99999999999999999999: give 0 or a positive whole number up to 4294967295",
        ),
        ({"repetitions": 100_000_000}, r"stands for 200000000 points \(2 combinations, .* at most 10000 are taken"),
        ({"ranks": [1000001]}, "<= 100000"),
        ({"options": {"global_batch": 15}}, "ranks 2: global_batch 15 cannot be divided equally over 2 ranks"),
        ({"options": {"compression": "fp16"}, "strategies": ["tensor"]}, "strategy tensor cannot use it"),
    ],
)
def test_mistakes_in_a_job_file_are_told_before_anything_runs(
    tmp_path: Path, fields: dict[str, Any], sentence: str
) -> None:
    path = job_file(tmp_path, **fields)
    with pytest.raises(UserError, match=sentence):
        points_of(read_study(path), path, "runs")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--seed", "99999999999999999999"],
            "seed is 99999999999999999999: give 0 or a positive whole number up to 4294967295",
        ),
        (["--strategy", "tensor"], "--strategy is given behind --, and the study sets it for each point: leave it out"),
        (["--name", "other"], "--name is given behind --"),
    ],
)
def test_words_behind_the_options_are_checked_with_them(tmp_path: Path, words: list[str], sentence: str) -> None:
    path = job_file(tmp_path, strategies=["allreduce", "tensor"])
    with pytest.raises(UserError, match=sentence):
        points_of(read_study(path), path, "runs", words)
    points = points_of(read_study(path), path, "runs", ["--seed", "7", "--precision", "fp32"])
    configs = [point.config for point in points if isinstance(point, TrainingPoint)]
    assert {(config.seed, config.precision) for config in configs} == {(7, "fp32")}


def test_collectives_are_points_in_the_same_order_once_a_repetition_and_number_of_ranks(tmp_path: Path) -> None:
    fields = {"strategies": ["allreduce", "tensor"], "seeds": [0, 1], "repetitions": 3, "collectives": True}
    options = {"global_batch": 16, "threads": 2, "bind": "none", "horovod": {"cycle_time_ms": 0.5}}
    path = job_file(tmp_path, ranks=[1, 2, 4], options=options, **fields)
    points = read_points(StudyConfig(files=(str(path),), runs_dir="r"), [])
    found = {point.name: place for place, point in enumerate(points) if isinstance(point, CollectivesPoint)}
    assert set(found) == {f"s-{ranks}ranks-collectives-run{run}" for ranks in (2, 4) for run in (1, 2, 3)}
    assert [points[place].repetition for place in found.values()] == [1, 1, 2, 2, 3, 3]
    block = len(points) // 3
    # At other places among the runs of each repetition: what drifts meets them all alike.
    assert len({tuple(sorted(place % block for place in list(found.values())[k : k + 2])) for k in (0, 2, 4)}) > 1
    point = points[found["s-4ranks-collectives-run2"]]
    assert isinstance(point, CollectivesPoint)
    assert point.module == "horovod_flowers.microbenchmark"
    assert " ".join(point.words()) == (
        "--output r/.collectives/s-4ranks-collectives-run2.json --repetitions 7 --threads 2 --bind none "
        "--horovod.cycle-time-ms 0.5"
    )


def test_peaks_are_points_of_every_number_of_ranks_in_the_precisions_of_the_study(tmp_path: Path) -> None:
    path = job_file(tmp_path, ranks=[1, 2], options={"threads": 2, "bind": "none"}, repetitions=2, peak=True)
    points = read_points(StudyConfig(files=(str(path),), runs_dir="r"), [])
    found = {point.name: point for point in points if isinstance(point, PeakPoint)}
    assert set(found) == {f"s-{ranks}ranks-peak-run{run}" for ranks in (1, 2) for run in (1, 2)}
    words = " ".join(found["s-2ranks-peak-run1"].words())
    assert words.startswith("--output r/.peaks/s-2ranks-peak-run1.json --measure peak ")
    assert words.endswith("--threads 2 --bind none")
    command = {"command": ["python", "-c", "1"], "global_batch": 8, "peak": True, "ranks": [1], "repetitions": 1}
    of_script = points_of(read_study(job_file(tmp_path, **command)), path, "r")
    (own,) = [each for each in of_script if isinstance(each, PeakPoint)]
    assert own.precisions == ("fp32", "auto")  # it is not told one, and so computes in Keras' own
    file = job_file(tmp_path, peak=True, network={"nodes": 2, "mbit": 100})
    with pytest.raises(UserError, match="both network and peak are given"):
        points_of(read_study(file), file, "r")


def test_a_record_of_a_peak_stands_for_a_point_only_if_it_is_the_same(tmp_path: Path) -> None:
    fields = {"options": {"threads": 1}, "ranks": [2], "peak": True, "repetitions": 1, "precisions": ["fp32"]}
    path = job_file(tmp_path, **fields)
    (point,) = [each for each in points_of(read_study(path), path, str(tmp_path)) if isinstance(each, PeakPoint)]
    record = peak_file(tmp_path, point.name)
    assert not point.finished(tmp_path)
    record.parent.mkdir()
    write_peak(record, peak_record())
    assert point.finished(tmp_path)
    assert read_peak(record).flops_per_second("fp32") == pytest.approx(5e10)
    assert read_peak(record).flops_per_second("bf16") is None
    assert not dataclasses.replace(point, precisions=("fp32", "bf16")).finished(tmp_path)
    write_peak(record, peak_record(world_size=4))
    with pytest.raises(UserError, match="was made with ranks 4, and the study says 2"):
        point.finished(tmp_path)
    record.write_text('{"schema": 1, ')
    assert not point.finished(tmp_path)  # it is measured again
    with pytest.raises(UserError, match="is damaged or from another version"):
        read_peak(record)
    write_peak(record, peak_record(schema=2))
    with pytest.raises(UserError, match="has schema 2, this version reads 1"):
        read_peak(record)


def write_record(path: Path, **changed: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    calls = [{"operation": "alltoall", "bytes": 1024, "seconds": [0.001, 0.002]}]
    fields = {"schema": 1, "world_size": 2, "hosts": ["n"], "cpu_models": [None], "threads": 1, "oversubscribed": False}
    fields |= {"yield_when_idle": True, "horovod_settings": {}, "versions": {}, "started_utc": "t", "command": []}
    fields |= {"measured": calls, "reduction_bytes_per_second": 5e9, "timestamp_seconds": 1e-5}
    path.write_text(json.dumps(fields | changed))


def test_a_record_of_collectives_stands_for_a_point_only_if_it_is_the_same(tmp_path: Path) -> None:
    path = job_file(tmp_path, options={"threads": 1}, ranks=[2], collectives=True, repetitions=1)
    point = next(p for p in read_points(StudyConfig(files=(str(path),)), []) if isinstance(p, CollectivesPoint))
    record = collectives_file(tmp_path, point.name)
    assert state_of(point, tmp_path) == "missing"
    write_record(record)
    assert state_of(point, tmp_path) == "finished"
    assert read_collectives(record).calls("alltoall") == ([1024, 1024], [0.001, 0.002])
    write_record(record, threads=2)
    with pytest.raises(UserError, match="was made with threads 2, and the study says 1: give the study another name"):
        state_of(point, tmp_path)
    for damage, sentence in (({"schema": 9}, "has schema 9"), ({"reduction_bytes_per_second": 0}, "is damaged")):
        write_record(record, **damage)
        assert state_of(point, tmp_path) == "unfinished"
        with pytest.raises(UserError, match=sentence):
            read_collectives(record)


def test_no_two_points_share_a_name(tmp_path: Path) -> None:
    path = str(job_file(tmp_path))
    with pytest.raises(UserError, match="two points are called"):
        read_points(StudyConfig(files=(path, path)), [])


def test_a_finished_run_stands_for_a_point_only_if_it_is_the_same(tmp_path: Path) -> None:
    path = job_file(tmp_path, options={"global_batch": 64, "threads": 1})
    point = next(p for p in read_points(StudyConfig(files=(str(path),)), []) if p.ranks == 2)
    assert state_of(point, tmp_path) == "missing"
    write_run(tmp_path / point.name, 2, [[9, 9], [9, 9]], config=RunConfig(global_batch=64, threads=1))
    assert state_of(point, tmp_path) == "finished"
    (other,) = [p for p in read_points(StudyConfig(files=(str(path),)), ["--threads", "2"]) if p.name == point.name]
    with pytest.raises(UserError, match="was made with threads 1, and the study says 2: give the study another name"):
        state_of(other, tmp_path)


def test_a_point_waits_for_a_rank_that_has_outlived_its_mpirun(tmp_path: Path) -> None:
    """Its log is nobody's then: mpirun had held it."""
    points = points_of(read_study(job_file(tmp_path, collectives=True)), tmp_path / "s.yaml", str(tmp_path))
    point, other = next(point for point in points if point.ranks == 2), points[0]
    with another_process(tmp_path / point.name) as process:
        name, since = holder_of_cores(point, tmp_path) or ("", "")
        assert name == point.name
        assert since.startswith("since 20")
        assert since.endswith(f", by process {process.pid} on {os.uname().nodename}")
        assert holder_of_cores(other, tmp_path) is None
        process.kill()
        process.wait()
        assert holder_of_cores(point, tmp_path) is None


def test_attempts_are_kept_and_the_last_one_counts(tmp_path: Path) -> None:
    def attempt(outcome: Any) -> Attempt:
        return Attempt(
            outcome=outcome, reason="why", status=1, elapsed_seconds=1.0, started_utc="t", job=None, command=["c"]
        )

    for point, outcomes in (("a", ["failed"]), ("b", ["failed", "finished"]), ("c", ["stopped"])):
        files = PointFiles(tmp_path, point)
        with files.locked_log() as log, files.locked_log() as second:
            assert log is not None
            assert second is None  # somebody else would leave the point alone
            for outcome in outcomes:
                files.add(attempt(outcome))
    assert failures(tmp_path) == [("a", "why")]
    assert [tried.outcome for tried in read_record(PointFiles(tmp_path, "b").record).attempts] == ["failed", "finished"]
    PointFiles(tmp_path, "b").record.write_text('{"schema": 1}')
    with pytest.raises(UserError, match="b.json is damaged"):
        PointFiles(tmp_path, "b").attempts()
    told = dict(failures(tmp_path))
    assert told["a"] == "why"
    assert "b.json is damaged" in told["b"]


def study(folder: Path, *words: str) -> Ended:
    return run_command(["python", "-m", "horovod_flowers.study", *words], folder)


@pytest.mark.slow
def test_a_dry_run_prints_every_command_and_does_nothing(tmp_path: Path) -> None:
    files = [str(PROJECT / "jobs" / name) for name in ("strong.yaml", "weak.yaml")]
    ended = study(tmp_path, *files, "--dry-run", "--launcher", "horovodrun", "--", "--epochs", "2")
    assert ended.status == 0, ended.output
    lines = ended.stdout.splitlines()
    assert "-m horovod_flowers.preflight" in lines[0]
    assert all(line.startswith("horovodrun -np ") for line in lines)
    runs = [line for line in lines if "-m horovod_flowers.train" in line]
    calls = [line for line in lines if "-m horovod_flowers.microbenchmark" in line]
    # One rank, and two strategies on 2, 4 and 8; collective calls on those; six times each.
    assert (len(runs), len(calls), len(lines)) == (2 * 7 * 6, 3 * 6, 1 + 2 * 7 * 6 + 3 * 6)
    assert all("--epochs 2" in line for line in runs)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_collectives_alone_looks_at_the_machine_as_for_the_runs(tmp_path: Path) -> None:
    path = str(job_file(tmp_path, ranks=[2], repetitions=1, collectives=True, options={"global_batch": 16}))
    lines = study(tmp_path, path, "--list").stdout.splitlines()
    (number,) = [line.split("\t")[0] for line in lines if line.endswith("2\ts-2ranks-collectives-run1\tmissing")]
    ended = study(tmp_path, path, "--dry-run", "--oversubscribe", "--point", number)
    assert ended.status == 0, ended.output
    preflight, measurement = ended.stdout.splitlines()
    assert "horovod_flowers.preflight" in preflight
    assert "--global-batch 16" in preflight
    assert "-np 2 " in measurement
    assert " -m horovod_flowers.microbenchmark --output runs/.collectives/s-2ranks-collectives-run1.json" in measurement


def test_points_that_do_not_fit_are_refused_or_left_out(tmp_path: Path) -> None:
    path = str(job_file(tmp_path, ranks=[1000], repetitions=1))
    ended = study(tmp_path, path)
    assert (ended.status, "1000 ranks do not fit on this machine" in ended.stderr) == (2, True)
    ended = study(tmp_path, path, "--fit")
    assert (ended.status, "0 to run" in ended.stdout, "1 points left out" in ended.stderr) == (0, True, True)
    assert study(tmp_path, path, "--point", "7").stderr.count("the study has the points 0 to 0, see --list") == 1


@pytest.mark.slow
def test_a_study_runs_records_and_skips(workplace: Workplace) -> None:
    """One point finishes, one takes too long; started again, only the latter is tried again."""
    slow = job_file(
        workplace.folder,
        ranks=[1],
        repetitions=1,
        timeout_minutes=0.0005,
        options={"data": {"image_size": 32, "prepared_dir": str(workplace.prepared)}},
    )
    slow = slow.rename(workplace.folder / "slow.yaml")
    quick = job_file(
        workplace.folder,
        name="quick",
        ranks=[1],
        repetitions=1,
        options={
            "global_batch": 16,
            "data": {"image_size": 32, "synthetic_images": 120, "prepared_dir": str(workplace.prepared)},
        },
    )
    for to_run in (2, 1):
        ended = study(workplace.folder, str(slow), str(quick), "--no-preflight")
        assert ended.status == 1, ended.output
        assert f"2 points, {to_run} to run" in ended.stdout
        assert "s-1ranks-alone-auto-seed0-run1: failed after" in ended.stdout
        assert "took more than 0.0005 minutes" in ended.stdout
    listed = study(workplace.folder, str(slow), str(quick), "--list").stdout
    assert "quick-1ranks-alone-auto-seed0-run1\tfinished" in listed
    assert "s-1ranks-alone-auto-seed0-run1\tfailed" in listed
    record = read_record(PointFiles(workplace.folder / "runs", "s-1ranks-alone-auto-seed0-run1").record)
    assert len(record.attempts) == 2
    reported = run_command(["python", "-m", "horovod_flowers.report"], workplace.folder)
    assert "failed: s-1ranks-alone-auto-seed0-run1: took more than" in reported.stdout
