"""The command that predicts scaling, and the report's section: from runs with known times."""

import csv
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from horovod_flowers.config.run import RunConfig
from horovod_flowers.predict_scaling import main
from horovod_flowers.report.__main__ import main as report
from horovod_flowers.runlog.collectives import Collectives, MeasuredCalls, collectives_file, write_collectives
from horovod_flowers.runlog.records import CommunicationVolume
from horovod_flowers.runlog.step_profile import step_profile_file, write_step_profile
from horovod_flowers.scaling_model.calibration import OPERATIONS
from tests.single.recorded_runs import write_run
from tests.single.test_prediction import profile

Runs = Callable[..., Path]


def allreduce(ranks: int) -> list[CommunicationVolume]:
    """Of a million fp32 gradients in two calls."""
    return [CommunicationVolume(operation="allreduce", ranks=ranks, calls=2, bytes_sent=8e6 * (ranks - 1) / ranks)]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """64 images in 400 ms on one rank; on two and four, 10 and 15 ms of communication are shown."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for ranks, compute, shown in ((1, 380, 0), (2, 190, 10), (4, 95, 15)):
        step = (0, compute, shown, 20)
        volume = allreduce(ranks) if ranks > 1 else None
        write_run(folder / f"s-{ranks}", ranks, [[step] * ranks] * 6, traffic=volume)
    return folder


def predict(tmp_path: Path, *words: str) -> dict[str, Any]:
    main(["--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--format", "json,csv", *words])
    found: dict[str, Any] = json.loads((tmp_path / "out" / "prediction.json").read_text())
    return found


NETWORK = ("--network", "10Gbit,10us", "--ranks-per-node", "1")


def test_the_command_answers_in_a_table_a_sentence_and_files(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = predict(tmp_path, *NETWORK, "--ranks", "8,16")
    eight, sixteen = found["predictions"]
    assert (eight["ranks"], sixteen["ranks"], eight["setting"], eight["nodes"]) == (8, 16, "allreduce", 8)
    # Half the images in half the time, the update as long. The runs were on one node: what they exposed stays there.
    assert eight["compute_seconds"] == pytest.approx(0.0475 + 0.020, rel=0.02)
    assert 0.001 < eight["exposed_seconds"] < eight["communication_seconds"] + 0.001
    assert eight["step_seconds_low"] < eight["step_seconds"] < eight["step_seconds_high"]
    assert eight["speed_up"] == pytest.approx(0.4 / eight["step_seconds"])
    assert eight["efficiency"] == pytest.approx(eight["speed_up"] / 8)
    assert eight["core_hours"] == pytest.approx(eight["node_hours"])
    assert (found["kind"], found["emulated"], found["measured_ranks"]) == ("predicted", False, [1, 2, 4])
    assert [row["ranks"] for row in found["held_out"]] == [2, 4]
    with open(tmp_path / "out" / "prediction.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["step_seconds"]) == pytest.approx(sixteen["step_seconds"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"recommended: {found['recommendation']}" in text
    assert "lacking: no step profile" in text
    assert "network 10Gbit,10us, given" in text


def test_without_a_network_steps_tell_what_is_exposed(tmp_path: Path, runs: Path) -> None:
    """On one node, of as many ranks as are predicted."""
    (eight,) = predict(tmp_path, "--ranks", "8", "--ranks-per-node", "8")["predictions"]
    assert 0.015 < eight["exposed_seconds"] < 0.022
    assert eight["calls"] == 0


def test_measured_calls_take_the_place_of_a_network(tmp_path: Path, runs: Path) -> None:
    (runs / ".collectives").mkdir()
    for ranks in (2, 4):
        measured = [
            MeasuredCalls(operation=operation, bytes=size, seconds=[0.001 + size * 2e-9 * (ranks - 1) / ranks] * 3)
            for operation in OPERATIONS
            for size in (2**18, 2**20, 2**22, 2**24)
        ]
        write_collectives(
            collectives_file(runs, f"c-{ranks}"),
            Collectives(
                schema=1, world_size=ranks, hosts=[f"n{rank}" for rank in range(ranks)], cpu_models=["Test CPU"],
                threads=1, oversubscribed=False, yield_when_idle=True, horovod_settings={}, versions={}, started_utc="",
                command=[], measured=measured, reduction_bytes_per_second=1e10, timestamp_seconds=0.0,
            ),
        )  # fmt: skip
    found = predict(tmp_path, "--ranks", "8", "--ranks-per-node", "1")
    assert found["network"].startswith("fitted to 96 calls over 2, 4 ranks")
    assert found["predictions"][0]["communication_seconds"] == pytest.approx(2 * (0.001 + 2e6 * 2e-9 * 7 / 8), rel=0.2)
    assert found["relative_error_of_calls"] < 0.3


def test_the_report_has_a_section_where_it_is_asked_for(tmp_path: Path, runs: Path) -> None:
    words = ["--runs-dir", str(runs), "--output", str(tmp_path / "report"), "--format", "md,json"]
    report([*words, "--predict", "8,16", *NETWORK])
    page = (tmp_path / "report" / "report.md").read_text()
    assert "## Predicted\n\nPredicted, not measured: strong scaling, batch 64, fp32" in page
    document = json.loads((tmp_path / "report" / "scaling.json").read_text())
    assert [one["ranks"] for one in document["predicted"]["predictions"]] == [8, 16]
    assert [row["ranks"] for row in document["held_out"][0]["rows"]] == [2, 4]
    assert (tmp_path / "report" / "pictures" / "prediction.svg").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--network", "25gbe"], "network, ranks_per_node and from_emulated are of a prediction: add --predict"),
        (["--predict", "2"], "ranks names 2, and up to 4 were measured"),
        (["--predict", "8", "--network", "fast"], "network is 'fast': give rate and latency"),
    ],
)
def test_the_report_refuses_what_the_command_refuses(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        report(["--runs-dir", str(runs), "--output", str(tmp_path / "report"), *words])
    assert ended.value.code == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "report").exists()


def test_runs_that_are_not_used_are_told(tmp_path: Path, runs: Path) -> None:
    """Shared cores, another commit, and a run of more ranks of other work."""
    write_run(runs / "crowded", 8, [[1] * 8, [90] * 8], oversubscribed=True, traffic=allreduce(8))
    write_run(runs / "changed", 8, [[1] * 8, [90] * 8], commit="c" * 40, traffic=allreduce(8))
    other = RunConfig(global_batch=64, threads=1, label_smoothing=0.1)
    write_run(runs / "other", 2, [[1, 1], [200, 200]], config=other, traffic=allreduce(2))
    found = predict(tmp_path, *NETWORK, "--ranks", "16")
    assert found["measured_ranks"] == [1, 2, 4]
    told = "; ".join(found["lacks"])
    assert "crowded: ranks shared cores: left out" in told
    assert "changed: they differ in more than the ranks (commit:" in told
    assert "other: no run of one rank did the same work (the nearest did other work: label_smoothing" in told


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The sentence, status 2, and nothing written."""
    with pytest.raises(SystemExit) as ended:
        main(["--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path / "none"), *words])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert not (tmp_path / "none").exists()
    return " ".join(error.split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--ranks", "2"], "ranks names 2, and up to 4 were measured"),
        (["--ranks", "0"], "ranks is '0': give positive whole numbers"),
        (["--ranks", "9999999"], "give numbers from 1 to 100000"),
        (["--network", "fast"], "network is 'fast': give rate and latency such as 100Gbit,2us"),
        (["--in-node", "100Gbit,1us"], "in_node is given without network"),
        (["--topology", "fat-tree:4:4"], "which the formulas do not know: add --engine simgrid"),
        (["--strategies", "none"], "whose ranks do not communicate"),
        (["--strategies", "ring"], "strategies names 'ring': allowed are allreduce, sharded, tensor, mesh"),
        (["--strategies", "tensor", *NETWORK], "nothing can be predicted: it was not run on several ranks"),
        (["--strategies", "mesh", *NETWORK], "nothing can be predicted: it was not run on several ranks in such"),
        (["--ranks", "12", *NETWORK], "a batch of 64 cannot be divided equally over 12 ranks"),
        (["--min-efficiency", "0"], "min_efficiency is 0.0: give a share such as 0.75"),
        (["--network", "1Gbit,1us", "--in-node", "fast"], "in_node is 'fast': give rate and latency"),
        (["--from-emulated"], "from_emulated is given, and no run is emulated"),
        (["--format", "xml"], "format names 'xml': allowed are json, csv, picture"),
        (["--profile", "missing.json"], "step profile missing.json cannot be read (No such file or directory)"),
        (["--ranks-per-node", "0"], "ranks_per_node"),
        (["--ranks", "8"], "ranks ran within one node only, and 8 ranks at 4 a node need 2: give --network"),
        (["--ranks", "128", *NETWORK], "nothing can be predicted: a batch of 64 has no image for each of 128 ranks"),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_a_sentence(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert sentence in refused(tmp_path, capsys, *words)


def test_runs_that_measure_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    write_run(folder / "crowded-1", 1, [[1], [400]], oversubscribed=True)
    write_run(folder / "crowded-2", 2, [[1, 1], [300, 300]], oversubscribed=True)
    assert "no run measures speed (crowded-1, crowded-2): ranks shared cores" in refused(tmp_path, capsys)
    write_run(folder / "two", 2, [[1, 1], [300, 300]])
    assert "there is no run of one rank (only of 2)" in refused(tmp_path, capsys)


def test_runs_of_different_work_are_refused(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(runs / "other", 1, [[1], [300]], config=RunConfig(global_batch=64, threads=1, label_smoothing=0.1))
    assert "the runs are of different work (label_smoothing: 0 against 0.1)" in re.sub(
        r"0\.1 against 0\b", "0 against 0.1", refused(tmp_path, capsys, *NETWORK)
    )


def resume(run: Path) -> None:
    """A second header in the steps of rank 0."""
    steps = run / "steps" / "rank-00000.jsonl"
    header = steps.read_text().splitlines()[0]
    with open(steps, "a") as file:
        file.write(header + os.linesep)


def test_a_report_predicts_no_resumed_run_and_from_none(tmp_path: Path, runs: Path) -> None:
    def rows() -> list[int]:
        report(["--runs-dir", str(runs), "--output", str(tmp_path / "report"), "--format", "json"])
        document = json.loads((tmp_path / "report" / "scaling.json").read_text())
        return [row["ranks"] for study in document.get("held_out", ()) for row in study["rows"]]

    assert rows() == [2, 4]
    resume(runs / "s-4")
    assert rows() == []


def test_resumed_runs_are_left_out(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in runs.iterdir():
        resume(run)
    assert "every run was resumed (s-1, s-2, s-4)" in refused(tmp_path, capsys, *NETWORK)


def test_runs_that_accumulate_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    config = RunConfig(global_batch=64, threads=1, accumulate=2)
    for ranks in (1, 2):
        write_run(folder / f"s-{ranks}", ranks, [[1] * ranks, [400] * ranks], config=config)
    assert "add up gradients over 2 steps, which is not predicted" in refused(tmp_path, capsys, *NETWORK)


def test_measurements_that_do_not_fit_the_runs_are_told(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calls of another processor, and a profile of another model."""
    (runs / ".collectives").mkdir()
    write_collectives(
        collectives_file(runs, "c-2"),
        Collectives(
            schema=1, world_size=2, hosts=["a", "b"], cpu_models=["Other CPU"] * 2, threads=1, oversubscribed=False,
            yield_when_idle=True, horovod_settings={}, versions={}, started_utc="", command=[], measured=[],
            reduction_bytes_per_second=1e10, timestamp_seconds=0.0,
        ),
    )  # fmt: skip
    step_profile_file(runs, "other").parent.mkdir()
    write_step_profile(step_profile_file(runs, "other"), profile(64))
    lacks = predict(tmp_path, *NETWORK, "--ranks", "8")["lacks"]
    assert lacks[0].startswith("collective calls were measured in 1 place(s), none on the runs' kind of processor")
    assert lacks[1] == "1 step profile(s) are of other work, threads or processor than the runs: they are left out"
    path = str(step_profile_file(runs, "other"))
    assert "is of other work than the runs: model m, fp32" in refused(tmp_path, capsys, *NETWORK, "--profile", path)
