"""The job scripts as typed, on this machine."""

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from horovod_flowers.runlog.collectives import collectives_file, read_collectives
from horovod_flowers.runlog.machine_peak import peak_file, read_peak
from horovod_flowers.runlog.records import Operation
from horovod_flowers.runlog.study_attempts import PointFiles, read_record
from horovod_flowers.scaling_model.calibration import calibrate
from horovod_flowers.scaling_model.step_tasks import Call, RankGroup
from tests.conftest import (
    ANY_LINK,
    PROJECT,
    TIMEOUT_SECONDS,
    TINY,
    Ended,
    Workplace,
    clean_environment,
    mpirun,
    run_command,
)

DATA = {"image_size": 32, "synthetic_images": 120, "validation_fraction": 0.2}


def script(workplace: Workplace, name: str, *words: str | Path, **variables: str) -> Ended:
    """Run a script of jobs/ in the workplace; ranks may share cores, as on a machine of one core."""
    more = {"FLOWERS_OVERSUBSCRIBE": "1", "FLOWERS_SITE": "/no/such/file", **ANY_LINK} | variables
    return run_command(["bash", PROJECT / "jobs" / name, *words], workplace.folder, variables=more)


def test_train_then_predict_in_parallel(workplace: Workplace, write_photos: Callable[..., Path]) -> None:
    options = (*TINY, "--data.prepared-dir", workplace.prepared, "--name", "t", "--global-batch", "16")
    trained = script(workplace, "train.sh", "2", *options)
    assert trained.status == 0, trained.output
    lines = trained.stdout.splitlines()
    assert lines.index("ready") < next(k for k, line in enumerate(lines) if line.startswith("run t: 2 ranks"))

    photos = write_photos(red=5, blue=4)
    (photos / "blue" / "broken.jpg").write_bytes(b"no photo")
    words = ("--run", "runs/t", photos, "--batch", "2")
    parallel = script(workplace, "predict.sh", "2", *words, "--output", "two.csv")
    assert parallel.status == 0, parallel.output
    assert "9 photos classified by 2 rank(s) in " in parallel.stdout
    assert "decoding included: two.csv" in parallel.stdout
    assert parallel.stdout.count("unreadable, left out: ") == 1
    alone = workplace.run("python", "-m", "horovod_flowers.predict", *words, "--output", "one.csv")
    assert alone.status == 0, alone.output
    one, two = (list(csv.DictReader((workplace.folder / f"{name}.csv").open())) for name in ("one", "two"))
    assert [row["photo"] for row in one] == sorted(str(path) for path in photos.rglob("*.jpg") if path.stem != "broken")
    for first, second in zip(one, two, strict=True):
        assert (first["photo"], first["class"]) == (second["photo"], second["class"])
        assert float(first["probability"]) == pytest.approx(float(second["probability"]), abs=1e-4)
        assert 0.2 <= float(first["probability"]) <= 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((".", "--run", "runs/none"), "there is no run runs/none"),
        ((".", "--model", "nowhere"), "there is no exported model nowhere"),
        ((".",), "neither --run nor --model is given"),
        ((".", "--run", "a", "--model", "b"), "both --run and --model are given"),
        ((".", "--run", "a", "--output", "b.xls"), "output is b.xls: allowed endings are .csv"),
        (("--run", "a"), "photos"),
    ],
)
def test_mistakes_of_predict(refused_here: Callable[..., Ended], words: tuple[str, ...], sentence: str) -> None:
    ended = refused_here("predict", *words)
    assert ended.status == 2
    assert sentence in ended.stderr
    assert ended.stderr.count("\n") == 1


def write_job_file(path: Path, prepared: Path, **fields: Any) -> None:
    options = {"epochs": 1, "threads": 1, "data": DATA | {"prepared_dir": str(prepared)}} | fields.pop("options")
    path.write_text(json.dumps({"name": path.stem, "repetitions": 1, "options": options, **fields}))


def test_the_pbs_script_runs_what_fits_on_its_nodes(workplace: Workplace, tmp_path: Path) -> None:
    """Without PBS: what it sets is set here, and the nodes are this machine."""
    home, nodes = tmp_path / "the project", tmp_path / "nodes"
    shutil.copytree(PROJECT / "jobs", home / "jobs")
    write_job_file(home / "jobs" / "strong.yaml", workplace.prepared, ranks=[2], options={"global_batch": 16})
    write_job_file(home / "jobs" / "weak.yaml", workplace.prepared, ranks=[1, 1000], options={"per_rank_batch": 8})
    nodes.write_text(f"{os.uname().nodename}\n" * 2)
    variables = {"PBS_O_WORKDIR": str(workplace.folder), "PBS_NODEFILE": str(nodes), "PBS_JOBID": "7.pbs"}
    more = {"FLOWERS_HOME": str(home), "FLOWERS_SITE": "/no/such/file"}
    ended = run_command(["bash", PROJECT / "jobs" / "scale.pbs"], tmp_path, variables=variables | more)
    if len(os.sched_getaffinity(0)) < 2:
        assert "oversubscribed" in ended.stdout
        return
    assert ended.status == 0, ended.output
    assert "1 points left out, of more than the 2 ranks that fit" in ended.stderr
    assert "study: all of 2 points finished" in ended.stdout
    assert (workplace.folder / "report" / "scaling.json").exists()
    record = read_record(PointFiles(workplace.folder / "runs", "strong-2ranks-allreduce-auto-seed0-run1").record)
    assert record.attempts[-1].job == "7.pbs"
    assert f"-H {os.uname().nodename}:2" in " ".join(record.attempts[-1].command)


def test_a_study_measures_collective_calls_and_does_not_do_so_again(workplace: Workplace) -> None:
    """On two ranks, the runs of the study left out; what was measured can be fitted."""
    name, job_file = "few-2ranks-collectives-run1", workplace.folder / "few.yaml"
    write_job_file(job_file, workplace.prepared, ranks=[2], collectives=True, options={"global_batch": 16})
    words = ["python", "-m", "horovod_flowers.study", str(job_file)]
    listed = [line.split("\t") for line in workplace.run(*words, "--list").stdout.splitlines()]
    (number,) = [row[0] for row in listed if row[2] == name]
    ended = workplace.run(*words, "--no-preflight", "--oversubscribe", "--point", number)
    assert ended.status == 0, ended.output
    assert f"study: 1/1 {name}: finished after" in ended.stdout
    runs = workplace.folder / "runs"
    assert [attempt.outcome for attempt in PointFiles(runs, name).attempts()] == ["finished"]

    record = read_collectives(collectives_file(runs, name))
    assert (record.world_size, record.threads, record.hosts) == (2, 1, [os.uname().nodename])
    assert 1e8 < record.reduction_bytes_per_second < 1e12
    model = calibrate([record]).model
    for operation in get_args(Operation):
        sizes, _ = record.calls(operation)
        assert Counter(sizes) == {1024 * 4**k: 7 for k in range(9)}
        small, large = (model.alone(Call(operation, size, RankGroup(2)), 2) for size in (1024, 2**26))
        # From a microsecond a message, and 100 GB/s, to what a machine that is shared with others may take.
        assert 1e-6 < small < 1
        assert 2**26 / 1e11 < large < 60
    assert f"{name}\tfinished" in workplace.run(*words, "--list").stdout
    again = workplace.run(*words, "--no-preflight", "--oversubscribe", "--point", number)
    assert (again.status, "2 points, 0 to run" in again.stdout) == (0, True)


def test_a_study_measures_what_the_ranks_compute_at_most(workplace: Workplace) -> None:
    """On one rank, in two precisions: the largest products that it times are of the order of its cores' speed."""
    name, job_file = "peak-1ranks-peak-run1", workplace.folder / "peak.yaml"
    write_job_file(job_file, workplace.prepared, ranks=[1], peak=True, precisions=["fp32", "auto"], options={})
    words = ["python", "-m", "horovod_flowers.study", str(job_file)]
    listed = [line.split("\t") for line in workplace.run(*words, "--list").stdout.splitlines()]
    (number,) = [row[0] for row in listed if row[2] == name]
    ended = workplace.run(*words, "--no-preflight", "--oversubscribe", "--point", number)
    assert ended.status == 0, ended.output
    record = read_peak(peak_file(workplace.folder / "runs", name))
    assert (record.world_size, record.threads, record.ranks_per_node, record.oversubscribed) == (1, 1, [1], False)
    sizes = [each.size for each in record.measured if each.precision == "fp32"]
    assert sizes == [512 * 2**power for power in range(len(sizes))]
    assert all(len(each.seconds) == 5 for each in record.measured)
    found = record.flops_per_second("fp32")
    assert found is not None
    assert 1e8 < found < 1e12
    assert f"{name}\tfinished" in workplace.run(*words, "--list").stdout


def test_a_study_that_is_asked_to_stop_goes_on_where_it_was(workplace: Workplace) -> None:
    """SIGTERM to the study alone reaches the ranks as SIGUSR1, here through horovodrun, its shell and mpirun: the
    point in work is checkpointed, and resumed."""
    options = {"global_batch": 16, "epochs": 30, "model": {"name": "tests.parallel.slow_model:slow"}}
    job_file = workplace.folder / "long.yaml"
    write_job_file(job_file, workplace.prepared, ranks=[2], options=options)
    words = ["python", "-m", "horovod_flowers.study", str(job_file), "--no-preflight", "--oversubscribe"]
    slow = workplace.folder / "slow"
    slow.touch()
    environment = clean_environment() | {"SLOW_WHILE": str(slow)}
    horovodrun = [*words, "--launcher", "horovodrun"]
    study = subprocess.Popen(horovodrun, cwd=workplace.folder, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        run = workplace.folder / "runs" / "long-2ranks-allreduce-auto-seed0-run1"
        steps, deadline = run / "steps" / "rank-00000.jsonl", time.monotonic() + TIMEOUT_SECONDS
        while not steps.exists() or steps.read_bytes().count(b"\n") < 4:
            assert study.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        study.send_signal(signal.SIGTERM)
        _, stderr = study.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        study.kill()
    assert study.returncode == 75, stderr
    assert "stopped on request" in stderr
    slow.unlink()
    resumed = run_command(words, workplace.folder, variables={"SLOW_WHILE": str(slow)})
    assert resumed.status == 0, resumed.output
    files = PointFiles(workplace.folder / "runs", run.name)
    assert [attempt.outcome for attempt in files.attempts()] == ["stopped", "finished"]
    assert "resuming after epoch 0, step " in files.log.read_text()


def test_preflight_finds_ranks_on_one_core_and_too_many_threads(workplace: Workplace) -> None:
    first = str(min(os.sched_getaffinity(0)))
    words = ["python", "-m", "horovod_flowers.preflight", *TINY, "--data.prepared-dir", str(workplace.prepared)]
    ended = workplace.run("taskset", "-c", first, *mpirun(2, *words, "--threads", "3"))
    assert ended.status == 1
    assert "oversubscribed: ranks 0, 1 on " in ended.stdout
    assert "mpirun --bind-to none" in ended.stdout
    assert "has 1 core and starts 3 threads" in ended.stdout
    assert "not ready: 2 problem(s)" in ended.stdout
    alone = workplace.run(*words)
    assert alone.status == 0, alone.output
    assert alone.stdout.splitlines()[-1] == "ready"
    assert "1 rank(s) on 1 node(s), started by single" in alone.stdout


def test_a_job_asked_to_stop_while_its_preflight_ends_starts_nothing_more(tmp_path: Path) -> None:
    """The signal that comes too late for one command holds for the next: training would run into the time limit."""
    (tmp_path / "squeue").write_text("#!/bin/sh\necho RUNNING\n")
    (tmp_path / "squeue").chmod(0o755)
    (tmp_path / "job").write_text(
        f"set -euo pipefail\nsource '{PROJECT}/slurm/job.sh'\n"
        "stoppable bash -c 'trap \"\" USR1; kill -USR1 $PPID; sleep 0.5'\nstoppable touch second\n"
    )
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "MAX_RESTARTS": "0", "FLOWERS_SITE": "/no/such/file"}
    path = f"{tmp_path}:{clean_environment()['PATH']}"
    ended = run_command(["bash", "job"], tmp_path, variables=job | {"PATH": path})
    assert ended.status == 75, ended.output
    assert "asked to stop (USR1): ended with status 0" in ended.stdout
    assert "asked to stop (USR1) before touch second" in ended.stdout
    assert "not requeued; resubmit it to continue" in ended.stdout
    assert not (tmp_path / "second").exists()
