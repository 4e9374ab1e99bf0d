"""The report command on recorded runs."""

import csv
import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from horovod_flowers.config.command_line import parse
from horovod_flowers.config.data import DataConfig
from horovod_flowers.config.run import RunConfig
from horovod_flowers.report.__main__ import main
from horovod_flowers.runlog.collectives import Collectives, MeasuredCalls, collectives_file, write_collectives
from horovod_flowers.runlog.records import CommunicationVolume
from tests.single.recorded_runs import write_run


def run_report(folder: Path, *options: str) -> None:
    main(["--runs-dir", str(folder / "runs"), "--output", str(folder / "report"), *options])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


def test_a_study_ends_with_table_files_and_a_sentence(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(runs / "one", 1, [[1], [400], [400]], accuracy=0.61)
    write_run(runs / "two", 2, [[1, 1], [250, 240], [250, 240]], accuracy=0.62)
    run_report(tmp_path)
    text = capsys.readouterr().out
    assert "2 ranks (allreduce) against one rank: speed-up 1.60, parallel efficiency 0.80\n" in text
    assert "before and after: the same training took one process 0.8 s, 2 ranks (allreduce) 0.5 s\n" in text
    assert "oversubscribed" not in text
    with open(tmp_path / "report" / "scaling.csv", newline="") as file:
        one, two = csv.DictReader(file)
    assert (one["ranks"], two["ranks"]) == ("1", "2")
    assert float(two["speed_up"]) == pytest.approx(1.6)
    assert float(two["best_validation_accuracy"]) == 0.62
    document = json.loads((tmp_path / "report" / "scaling.json").read_text())
    assert document["schema"] == 4
    assert document["points"][1]["efficiency"] == pytest.approx(0.8)
    pictures = tmp_path / "report" / "pictures"
    assert (pictures / "speed-up-strong.png").read_bytes().startswith(b"\x89PNG")
    assert (pictures / "speed-up-strong.svg").read_bytes().startswith(b"<?xml")


def test_a_ratio_without_its_baseline_is_refused_with_the_command_that_makes_it(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataConfig(source="folder", path="my photos", augment=True)
    config = RunConfig(global_batch=64, threads=1, epochs=3, precision="fp32", data=data)
    write_run(runs / "two", 2, [[1, 1], [250, 240]], config=config)
    run_report(tmp_path)
    text = capsys.readouterr().out
    assert "no speed-up for 2 ranks (allreduce, two): its one-rank baseline is missing; run: mpirun -np 1 " in text
    command = text.split("is missing; run: ")[1].splitlines()[0]
    assert command.endswith("   # where --data.path my photos is")
    words = shlex.split(command, comments=True)
    assert words[:8] == ["mpirun", "-np", "1", "--bind-to", "none", "python", "-m", "horovod_flowers.train"]
    baseline = parse(RunConfig, "horovod_flowers.train", "", words[8:])
    assert baseline == config
    document = json.loads((tmp_path / "report" / "scaling.json").read_text())
    assert document["points"][0]["speed_up"] is None
    with open(tmp_path / "report" / "scaling.csv", newline="") as file:
        assert next(csv.DictReader(file))["speed_up"] == ""


def test_oversubscribed_ranks_are_marked_wherever_they_appear(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(runs / "one", 1, [[1], [400]])
    write_run(runs / "eight", 8, [[1] * 8, [500] * 8], oversubscribed=True)
    run_report(tmp_path)
    text = capsys.readouterr().out
    assert " 8* " in text
    assert "* oversubscribed: ranks shared a core, not a measure of speed" in text
    assert "speed-up 0.80, parallel efficiency 0.10 (oversubscribed: not a measure of speed)" in text
    with open(tmp_path / "report" / "scaling.csv", newline="") as file:
        assert [row["oversubscribed"] for row in csv.DictReader(file)] == ["False", "True"]


def test_a_rank_slowed_in_bursts_is_told_wherever_steps_are_shown(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rank 1 takes ten times as long in every fourth step: the median step is that of a run without it."""
    quick, slow = [(1, 80, 15, 4)] * 2, [(1, 80, 815, 4), (1, 880, 15, 4)]
    write_run(runs / "two", 2, [[(0, 9, 0, 0)] * 2, *([slow, quick, quick, quick] * 10)])
    run_report(tmp_path)
    sentence = "rank 1 on node is slowed in bursts: its own work took 0.285 s in the mean and 0.085 s in the median"
    text = capsys.readouterr().out
    assert " 0.100, mean 0.300 " in text
    report = tmp_path / "report"
    for said in (text, *((report / page).read_text() for page in ("index.html", "report.md"))):
        assert sentence in " ".join(said.split())
    (point,) = json.loads((report / "scaling.json").read_text())["points"]
    assert point["median_step_seconds"] == pytest.approx(0.1)
    assert point["mean_step_seconds"] == point["of_runs"][0]["mean_step_seconds"] == pytest.approx(0.3)
    assert sentence in point["bursts"]


def test_runs_with_gaps_are_listed_and_left_out(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(runs / "whole", 1, [[1], [400]])
    write_run(runs / "dead", 1, [[1], [400]]).result.unlink()
    (runs / "notes").mkdir()
    run_report(tmp_path, "--format", "json")
    text = capsys.readouterr().out
    assert "left out: dead: unfinished\n" in text
    assert "left out: notes: no config.yaml\n" in text
    document = json.loads((tmp_path / "report" / "scaling.json").read_text())
    assert [point["run_names"] for point in document["points"]] == ["whole"]


def test_a_strategy_without_a_common_model_has_no_accuracy(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(runs / "none", 2, [[1, 1], [250, 240]], config=RunConfig(strategy="none", threads=1), accuracy=None)
    run_report(tmp_path)
    assert "–" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "sentence"),
    [(False, "there is no folder"), (True, "no finished run in")],
)
def test_nothing_to_report_is_told_in_one_sentence(
    tmp_path: Path, make: bool, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if make:
        (tmp_path / "runs").mkdir()
    with pytest.raises(SystemExit) as end:
        run_report(tmp_path)
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_only_what_is_asked_for_is_written(tmp_path: Path, runs: Path) -> None:
    write_run(runs / "one", 1, [[1], [400]])
    for formats, expected in (
        ("csv", {"scaling.csv"}),
        ("html", {"scaling.csv", "index.html"}),
        ("json,trace", {"scaling.csv", "index.html", "scaling.json"}),  # a run of one rank has no timeline
        ("md", {"scaling.csv", "index.html", "scaling.json", "report.md", "pictures"}),
    ):
        main(["--runs-dir", str(runs), "--output", str(tmp_path / "report"), "--format", formats])
        assert {path.name for path in (tmp_path / "report").iterdir()} - {"traces"} == expected


def test_pictures_of_an_earlier_report_do_not_stay(tmp_path: Path, runs: Path) -> None:
    write_run(runs / "one", 1, [[1], [400]])
    write_run(runs / "two", 2, [[1, 1], [250, 250]])
    run_report(tmp_path)
    pictures, traces = tmp_path / "report" / "pictures", tmp_path / "report" / "traces"
    assert (pictures / "speed-up-strong.png").exists()
    assert (traces / "timeline-1.json").exists()
    for page in ("index.html", "report.md", "proposal.md"):
        assert "cores of the nodes" in (tmp_path / "report" / page).read_text()
    (pictures / "mine.png").touch()
    main(["--runs-dir", str(runs / "one"), "--output", str(tmp_path / "report")])
    assert {path.stem for path in pictures.iterdir()} == {"throughput", "parts", "learning", "mine"}
    assert list(traces.iterdir()) == []


def test_runs_whose_epochs_were_lost_are_timed_all_the_same(tmp_path: Path, runs: Path) -> None:
    """A run that was killed between its checkpoint and the record of its epoch, and resumed, misses a line."""
    for name, ranks, step in (("one", 1, 400), ("two", 2, 250)):
        write_run(runs / name, ranks, [[1] * ranks, [step] * ranks]).epochs.write_text("")
    run_report(tmp_path)
    document = json.loads((tmp_path / "report" / "scaling.json").read_text())
    assert document["points"][1]["speed_up"] == pytest.approx(1.6)
    assert document["time_to_accuracy"][0]["median_seconds"] is None


@pytest.mark.slow
def test_several_folders_a_threshold_and_a_browser(tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    write_run(runs / "one", 1, [[1], [400]], validation=[0.3, 0.6])
    write_run(tmp_path / "more" / "two", 2, [[1, 1], [250, 250]], validation=[0.3, 0.6])
    words = ["--output", str(tmp_path / "report"), "--target-accuracy", "0.5", "--open", "--format", "html,json"]
    for threshold, ranks in (("0.8", 2), ("0.81", None)):
        main([*words, "--runs-dir", f"{runs},{tmp_path / 'more'}", "--min-efficiency", threshold])
        document = json.loads((tmp_path / "report" / "scaling.json").read_text())
        assert [proposal["ranks"] for proposal in document["proposals"]] == [ranks]
        assert [found["accuracy"] for found in document["time_to_accuracy"]] == [0.5, 0.5]
    assert opened == [(tmp_path / "report" / "index.html").as_uri()] * 2


@pytest.mark.slow
def test_a_check_that_is_not_kept_ends_with_status_1_and_the_report(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(runs / "one", 1, [[1], [400]])
    write_run(runs / "two", 2, [[1, 1], [250, 250]])
    words = ["--runs-dir", str(runs), "--output", str(tmp_path / "report"), "--format", "json", "--strict", "no"]
    main([*words, "--check", "min-efficiency=0.8@2,min-speed-up=1.6@2:allreduce"])
    assert "check min-efficiency=0.8@2: passed: allreduce, strong scaling: 0.8, no interval" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main([*words, "--check", "min-efficiency=0.8@2,min-efficiency=0.81@2"])
    assert end.value.code == 1
    text = capsys.readouterr().out
    assert "check min-efficiency=0.8@2: passed" in text
    assert "check min-efficiency=0.81@2: FAILED: allreduce, strong scaling: 0.8, no interval" in text
    document = json.loads((tmp_path / "report" / "scaling.json").read_text())
    assert [check["passed"] for check in document["checks"]] == [True, False]


HOSTILE = "<b>&'\"|`*_[red]x[/red] $x^$"


def test_words_of_a_run_are_text_in_every_file(tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(runs / "one", 1, [[1], [400]], cpu_model=HOSTILE)
    write_run(runs / "two", 2, [[1, 1], [250, 250]], cpu_model=HOSTILE)
    (runs / HOSTILE.replace("/", "|")).mkdir()
    for name in ("one", "two"):  # a strategy that a terminal would obey, or rich
        environment = runs / name / "environment.json"
        environment.write_text(environment.read_text().replace('"allreduce"', '"$^$[red]\\u001b[31mx"'))
    run_report(tmp_path)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;&#39;&#34;|`*_[red]x[/red] $x^$" in page
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "<b>" not in markdown
    assert "&lt;b&gt;&amp;'\"\\|\\`\\*\\_\\[red\\]" in markdown
    text = capsys.readouterr().out
    assert "left out: \\x3cb>" in text
    assert "\x1b" not in text
    assert "2 ranks ($^$[red]\\x1b[31mx) against one rank" in text


def test_the_markdown_page_is_read_as_it_is_meant(tmp_path: Path, runs: Path) -> None:
    """By a reader of its own kind: every table a table with all its rows, every heading, list and picture."""
    for ranks, step in ((1, 400), (2, 250), (4, 150)):
        for repetition in range(2):
            config = RunConfig(global_batch=64, threads=1)
            write_run(runs / f"s-{ranks}-{repetition}", ranks, [[1] * ranks, [step] * ranks], config=config)
    run_report(tmp_path)
    page = (tmp_path / "report" / "report.md").read_text()
    written = json.loads((tmp_path / "report" / "scaling.json").read_text())
    provenance, (proposal,) = written["provenance"], written["proposal_tables"]
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    found = Counter(token.type for token in tokens)
    headings = [tokens[k + 1].content for k, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings == [
        *("Scaling report", "Scaling", "Single runs", "Laws fitted", "Where the time goes"),
        *("Bounds beside the measurements", "Percent of peak", "Predicted from fewer ranks", "Ranks", "Learning"),
        *("For an allocation proposal", "Before and after", "Provenance"),
    ]
    # Scaling 3 points, of 6 runs; losses, POP, bounds, predictions and ranks 2 each; accuracy 3, before and after 2; a
    # proposal's three tables 3 each; and headings.
    assert found["table_open"] == 9 + 3
    assert found["tr_open"] == 3 + 6 + 2 + 2 + 2 + 2 + 2 + 3 + 2 + 9 + 3 * (3 + 1)
    assert found["fence"] == 1
    factors = len(provenance["varied"]) + len(provenance["held"])
    # Two laws that are refused, why there is no percent of peak, and what is said beside a proposal's tables.
    assert found["list_item_open"] == factors + 2 + 1 + len(proposal["notes"])
    assert found["blockquote_open"] == 1
    images = [child for token in tokens for child in token.children or () if child.type == "image"]
    assert len(images) == len(list((tmp_path / "report" / "pictures").glob("*.png")))
    assert not re.search(r"^\|.*\n[^|\n]", page, re.MULTILINE)  # no sentence is taken for a table's last row
    assert "not available for 3 of 3 rows: fewer than 6 runs" in page


def test_the_page_needs_nothing_else(tmp_path: Path, runs: Path) -> None:
    write_run(runs / "one", 1, [[1], [400]])
    write_run(runs / "two", 2, [[1, 1], [250, 250]])
    run_report(tmp_path)
    page = (tmp_path / "report" / "index.html").read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page)
    assert "<script" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_numbers_of_any_size_are_shown(tmp_path: Path, runs: Path) -> None:
    """Steps of a nanosecond and of a week are odd, but no reason to fail."""
    write_run(runs / "one", 1, [[1], [600_000_000]])
    write_run(runs / "two", 2, [[1, 1], [1, 1]])
    run_report(tmp_path)
    one, two = json.loads((tmp_path / "report" / "scaling.json").read_text())["points"]
    assert two["speed_up"] == pytest.approx(6e8)
    assert two["efficiency"] == pytest.approx(3e8)
    assert one["images_per_second"] == pytest.approx(64 / 6e5)


def test_losses_in_the_files_add_up(tmp_path: Path, runs: Path) -> None:
    write_run(runs / "one", 1, [[(0, 9, 0, 0)], [(2, 360, 0, 40)]])
    write_run(runs / "two", 2, [[(0, 9, 0, 0)] * 2, [(3, 190, 30, 20), (3, 200, 20, 20)]])
    run_report(tmp_path, "--format", "csv")
    with open(tmp_path / "report" / "scaling.csv", newline="") as file:
        _, two = csv.DictReader(file)
    causes = ("input", "imbalance", "communication", "update", "rest")
    assert two["contention_loss"] == ""
    assert float(two["efficiency"]) + sum(float(two[f"{cause}_loss"]) for cause in causes) == pytest.approx(1)


def test_bounds_stand_beside_what_was_measured(tmp_path: Path, runs: Path) -> None:
    """64 images take 400 ms on one rank and 210 ms on two that do not communicate; the model's calls take 20 ms."""
    traffic = [CommunicationVolume(operation="allreduce", ranks=2, calls=2, bytes_sent=2e6)]
    write_run(runs / "one", 1, [[1], [400]])
    write_run(runs / "two", 2, [[1, 1], [220, 220]], traffic=traffic)
    none = RunConfig(global_batch=64, threads=1, strategy="none")
    write_run(runs / "none", 2, [[1, 1], [210, 210]], config=none, accuracy=None)
    (runs / ".collectives").mkdir()
    # A call takes 2 ms and 5 ns a byte, and 1 ns is added for each byte of half of it: Open MPI's choice for two ranks.
    seconds = {size: 0.002 + size * 5e-9 + size / 2 * 1e-9 for size in (2**18, 2**20, 2**22, 2**24)}
    write_collectives(
        collectives_file(runs, "few-2ranks-collectives-run1"),
        Collectives(
            schema=1,
            world_size=2,
            hosts=["node"],
            cpu_models=["Test CPU"],
            threads=1,
            oversubscribed=False,
            yield_when_idle=True,
            horovod_settings={},
            versions={},
            started_utc="2026-01-01T00:00:00+00:00",
            command=[],
            measured=[
                MeasuredCalls(operation="allreduce", bytes=size, seconds=[value] * 3) for size, value in seconds.items()
            ],
            reduction_bytes_per_second=1e9,
            timestamp_seconds=0.0,
        ),
    )
    run_report(tmp_path)
    document = json.loads((tmp_path / "report" / "scaling.json").read_text())
    (two,) = (point for point in document["points"] if point["strategy"] == "allreduce")
    assert two["no_communication_speed_up"] == pytest.approx(400 / 210)
    assert two["model_communication_seconds"] == pytest.approx(2 * 0.002 + 2e6 * 5e-9 + 1e6 * 1e-9, rel=0.02)
    assert two["model_exposed_speed_up"] == pytest.approx(400 / (210 + 15), rel=0.02)
    assert two["shown_communication_seconds"] == pytest.approx(0.022)
    (cost,) = document["collectives"]
    assert (cost["ranks"], cost["calls"], cost["relative_error"]) == ([2], 12, pytest.approx(0, abs=0.02))
    assert cost["in_node"]["seconds_per_byte"]["paired"][-1] == pytest.approx(5e-9, rel=0.05)
    assert cost["reduction_seconds_per_byte"] == pytest.approx(1e-9)
    assert (tmp_path / "report" / "pictures" / "collectives.svg").exists()
    written = ("index.html", "report.md", "scaling.csv", "scaling.json", "pictures/speed-up-strong.svg")
    pages = {name: (tmp_path / "report" / name).read_text() for name in written}
    assert not [name for name, text in pages.items() if "ceiling" in text.lower()]  # it is none: others pass it
    assert all("no communication" in pages[name].lower() for name in ("index.html", "report.md"))


def test_half_written_measurements_and_records_of_studies_are_told(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(runs / "one", 1, [[1], [400]])
    for folder in (".collectives", ".study"):
        (runs / folder).mkdir()
        (runs / folder / "x.json").write_text('{"schema": 1, ')
    run_report(tmp_path)
    text = capsys.readouterr().out
    assert "left out: x.json:" in text
    assert "failed: x:" in text


def test_starting_loads_nothing_that_only_some_reports_need() -> None:
    heavy = "{'tensorflow', 'matplotlib', 'scipy', 'sklearn', 'jinja2', 'pandas'}"
    code = f"import sys, horovod_flowers.report.__main__; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_the_report_imports_no_tensorflow() -> None:
    modules = (
        "horovod_flowers.report.__main__, horovod_flowers.report.pages.write, horovod_flowers.report.pages.pictures"
    )
    code = f"import sys, {modules}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_a_command_does_nothing() -> None:
    code = (
        "import sys, horovod_flowers.train, horovod_flowers.prepare, horovod_flowers.evaluate;"
        "sys.exit(bool({'tensorflow', 'horovod', 'mpi4py.MPI'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
