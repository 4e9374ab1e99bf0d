"""The runs in the formats that other tools read: each tool reads what the report wrote for it."""

import contextlib
import csv
import dataclasses
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from horovod_flowers.config.command_line import to_yaml
from horovod_flowers.config.emulated_network import EmulatedNetwork
from horovod_flowers.config.run import RunConfig
from horovod_flowers.config.script import ScriptConfig
from horovod_flowers.report.__main__ import main
from horovod_flowers.report.exports.run_columns import RUN_COLUMNS
from horovod_flowers.report.exports.write import EXPORTS
from horovod_flowers.report.options import EXPORTS as FORMATS
from horovod_flowers.runlog.emulation import CoreGauge, Emulation
from horovod_flowers.runlog.model_flops import ModelFlops
from horovod_flowers.runlog.resources import Resources
from horovod_flowers.runlog.run_folder import RunFolder
from tests.conftest import PROJECT
from tests.single.recorded_runs import write_run
from tools import data_dictionary

WEAK = RunConfig(per_rank_batch=64, threads=1, warmup_steps=1)
STRONG = RunConfig(global_batch=64, threads=1, warmup_steps=1)
EXAMPLE = PROJECT / "docs" / "example-report" / "runs.tar.gz"


def needs(package: str) -> None:
    """Skip where one of the tools of the dependency group 'exports' is not installed."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: it is in the dependency group 'exports'")


def gauge(ranks: int) -> CoreGauge:
    return CoreGauge(
        elapsed_seconds=[10.0] * ranks,
        waited_seconds=[0.0] * ranks,
        cpu_seconds=[0.1] * ranks,
        cores=2,
        precedence=True,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weak scaling on 1 to 16 ranks, twice each, whose step takes 100 + 20 N ms exactly; strong scaling on 2 ranks, and
    on 4 that share cores; emulated on 1 and 2."""
    folder = tmp_path_factory.mktemp("exports") / "runs"
    folder.mkdir()
    for ranks in (1, 2, 4, 8, 16):
        for number in (1, 2):
            steps = [[1] * ranks, [100 + 20 * ranks] * ranks, [100 + 20 * ranks] * ranks]
            write_run(folder / f"weak-{ranks}-{number}", ranks, steps, config=WEAK, images_per_step=64 * ranks)
    for ranks, milliseconds in ((1, 400), (2, 250), (4, 300)):
        write_run(
            folder / f"strong-{ranks}", ranks, [[1] * ranks, [milliseconds] * ranks], config=STRONG,
            oversubscribed=ranks == 4, gpu="Test GPU",
        )  # fmt: skip
    write_run(
        folder / "alone", 2, [[1, 1], [240, 240]], config=dataclasses.replace(STRONG, strategy="none"), accuracy=None,
        gpu="Test GPU",
    )  # fmt: skip
    network = Emulation(network=EmulatedNetwork(nodes=2, mbit=200))
    for ranks in (1, 2):
        write_run(
            folder / f"emulated-{ranks}", ranks, [[1] * ranks, [500 // ranks] * ranks], config=STRONG, accuracy=None,
            emulated=network, core_gauge=gauge(ranks), oversubscribed=True,
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def report(runs: Path) -> Path:
    """The report on them in all formats that need nothing else."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        main(["--runs-dir", str(runs), "--output", str(runs.parent / "report"),
              "--format", "csv,tidy,extra-p,figures,hparams"])  # fmt: skip
    (runs.parent / "said").write_text(said.getvalue())
    return runs.parent / "report"


def rows_of(report: Path) -> dict[str, dict[str, str]]:
    """runs.csv by the names of the runs."""
    with open(report / "runs.csv", newline="", encoding="utf-8") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def test_every_export_has_its_word() -> None:
    assert set(FORMATS) == set(EXPORTS)


def test_dictionary_and_file_have_the_same_columns(report: Path) -> None:
    with open(report / "runs.csv", newline="", encoding="utf-8") as file:
        header = next(csv.reader(file))
    package = json.loads((report / "datapackage.json").read_text())
    (resource,) = package["resources"]
    assert header == [field["name"] for field in resource["schema"]["fields"]] == [each.name for each in RUN_COLUMNS]
    assert len(set(header)) == len(header)
    assert all(column.meaning for column in RUN_COLUMNS)
    assert resource["path"] == "runs.csv"


def test_the_page_has_the_dictionary() -> None:
    page = data_dictionary.PAGE.read_text(encoding="utf-8")
    assert page == data_dictionary.written(page), "run './flowers run python tools/data_dictionary.py'"


def test_names_have_their_units() -> None:
    """A time in seconds says so, and so does what is counted in bytes."""
    words = {"s": "seconds", "B": "bytes", "images": "images", "images/s": "images_per_second", "FLOP": "flops"}
    for column in RUN_COLUMNS:
        if column.unit in words:
            assert words[column.unit] in column.name, column.name


def test_a_row_has_the_figures_of_its_run(report: Path) -> None:
    rows = rows_of(report)
    assert len(rows) == 16
    row = rows["weak-4-2"]
    assert (row["scaling"], row["ranks"], row["global_batch_images"], row["timed_steps"]) == ("weak", "4", "256", "2")
    assert float(row["median_step_seconds"]) == pytest.approx(0.18)
    assert float(row["images_per_second"]) == pytest.approx(256 / 0.18)
    assert float(row["communication_seconds"]) == pytest.approx(0.018)
    assert float(row["compute_seconds"]) == pytest.approx(0.162)
    assert float(row["speed_up"]) == pytest.approx(4 * 0.12 / 0.18)
    assert float(row["efficiency"]) == pytest.approx(0.12 / 0.18)
    assert rows["strong-2"]["gpu"] == "Test GPU"
    with open(report / "scaling.csv", newline="") as file:
        points = list(csv.DictReader(file))
    for name, found in rows.items():
        assert name in points[int(found["point"]) - 1]["run_names"].split()


def test_marks_are_in_their_columns_and_what_is_missing_is_empty(report: Path) -> None:
    rows = rows_of(report)
    marked = {name for name, row in rows.items() if row["oversubscribed"] == "true"}
    assert marked == {"strong-4"}
    assert {row["oversubscribed"] for row in rows.values()} == {"true", "false"}
    assert {name for name, row in rows.items() if row["emulated"]} == {"emulated-1", "emulated-2"}
    assert rows["alone"]["best_validation_accuracy"] == ""
    assert rows["strong-2"]["bytes_sent"] == ""
    assert rows["weak-1-1"]["gpu"] == ""
    assert rows["weak-1-1"]["unlike"] == ""


def test_floating_point_operations_are_those_that_were_counted(tmp_path: Path) -> None:
    counted = ModelFlops(images=64, forward=64e6, backward=128e6)
    unknown = ModelFlops(images=64, forward=None, backward=None, not_counted=["a layer"])
    for name, found, milliseconds in (("counted", counted, 400), ("unknown", unknown, 410), ("older", None, 420)):
        folder = write_run(tmp_path / "runs" / name, 1, [[1], [milliseconds]], config=STRONG)
        environment = json.loads(folder.environment.read_text()) | {"model_flops": msgspec.to_builtins(found)}
        folder.environment.write_text(json.dumps(environment))
    main(["--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path), "--format", "tidy"])
    rows = rows_of(tmp_path)
    assert float(rows["counted"]["model_flops_per_image"]) == 3e6
    assert float(rows["counted"]["achieved_flops_per_second"]) == pytest.approx(3e6 * 64 / 0.4)
    for name in ("unknown", "older"):
        assert (rows[name]["model_flops_per_image"], rows[name]["achieved_flops_per_second"]) == ("", "")


def test_what_a_run_took_of_the_machine_is_missing_where_it_is_not_recorded(tmp_path: Path) -> None:
    """Older runs have no record of it, and one of a resumed run leaves the jobs before out."""
    taken = Resources(
        wall_seconds=[9.5, 10.5], steps_before=0, gpu_peak_bytes=[7, 8], checkpoints=2, checkpoint_bytes=100,
        checkpoint_write_seconds=0.25, data_bytes=3,
    )  # fmt: skip
    resumed = msgspec.structs.replace(taken, steps_before=5)
    for name, resources, milliseconds in (("older", None, 250), ("whole", taken, 260), ("resumed", resumed, 270)):
        folder = write_run(tmp_path / "runs" / name, 2, [[1, 1], [milliseconds] * 2], config=STRONG)
        result = json.loads(folder.result.read_text()) | {"resources": msgspec.to_builtins(resources)}
        folder.result.write_text(json.dumps(result))
    main(["--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path), "--format", "tidy"])
    names = ("gpu_peak_bytes", "wall_seconds", "checkpoint_bytes", "checkpoint_write_seconds", "data_bytes")
    found = {name: [row[column] for column in names] for name, row in rows_of(tmp_path).items()}
    assert found["older"] == [""] * 5
    assert found["whole"] == ["8", "10.5", "100", "0.25", "3"]
    assert found["resumed"] == ["8", "", "", "", "3"]


def test_of_a_script_what_it_does_not_tell_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formats = [
        "tidy",
        "figures",
        "extra-p",
        "hparams",
        *(["mlperf"] if importlib.util.find_spec("mlperf_logging") else []),
    ]
    for ranks in (1, 2):
        folder = write_run(tmp_path / "runs" / f"script-{ranks}", ranks, [[1] * ranks, [400 // ranks] * ranks],
                           config=STRONG)  # fmt: skip
        config = ScriptConfig(command="python train.py", name=folder.path.name, global_batch=64, threads=1)
        folder.config.write_text(to_yaml(config))
        result = json.loads(folder.result.read_text())
        result |= {"data_digest": None, "training_images": None, "validation_images": None}
        folder.result.write_text(json.dumps(result))
    main(["--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path), "--format", ",".join(formats)])
    row = rows_of(tmp_path)["script-2"]
    unknown = ("model", "optimizer", "learning_rate", "seed", "data_digest")
    assert [row[name] for name in unknown] == [""] * 5
    assert float(row["speed_up"]) == pytest.approx(2)
    if "mlperf" in formats:
        said = " ".join(capsys.readouterr().out.split())
        assert "left out: script-1, script-2: a script's: its data and recipe are not recorded" in said


def test_what_speaks_against_a_point_stands_in_its_rows(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one", 1, [[1], [400]], config=STRONG)
    write_run(tmp_path / "runs" / "two", 2, [[1, 1], [150, 150]], config=STRONG)
    main(["--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path), "--format", "tidy,figures,extra-p"])
    assert "a parallel efficiency of 1.33 is above the ideal" in rows_of(tmp_path)["two"]["doubts"]
    text = (tmp_path / "figures.txt").read_text()
    assert "\nstrong.64.fp32.allreduce.2_ranks.doubts = 1 doubts\n" in text
    assert "# strong.64.fp32.allreduce.2_ranks: doubtful: a parallel efficiency of 1.33" in text
    lines = [json.loads(line) for line in (tmp_path / "extra-p" / "strong-64-fp32-allreduce.jsonl").open()]
    doubts = {line["run"]: line["doubts"] for line in lines}
    assert "above the ideal" in doubts["two"][0]


def test_frictionless_finds_the_package_valid(report: Path, tmp_path: Path) -> None:
    needs("frictionless")
    import frictionless

    found = frictionless.validate(str(report / "datapackage.json"))
    assert found.valid, found.flatten(["type", "rowNumber", "fieldName", "message"])
    resource: Any = frictionless.Package(str(report / "datapackage.json")).get_resource("runs")
    rows = resource.read_rows()  # of tables, as its class is of any data
    (row,) = (row for row in rows if row["run"] == "strong-4")
    assert (row["ranks"], row["oversubscribed"], row["emulated"]) == (4, True, None)
    assert row["started_utc"].year == 2026
    # It would have found a column that differs, and a value of another type.
    for wrong in (("threads_per_rank", "threads"), ("strong-4,", "strong-2,"), (",true,", ",perhaps,")):
        (tmp_path / "datapackage.json").write_text((report / "datapackage.json").read_text())
        (tmp_path / "runs.csv").write_text((report / "runs.csv").read_text().replace(*wrong))
        assert not frictionless.validate(str(tmp_path / "datapackage.json")).valid, wrong


def test_extra_p_models_the_law_that_the_runs_follow(report: Path) -> None:
    needs("extrap")
    words = [sys.executable, "-m", "extrap.extrap.extrapcmd", "--json", "--disable-progress"]
    file = report / "extra-p" / "weak-64-fp32-allreduce.jsonl"
    ended = subprocess.run([*words, file], check=True, capture_output=True, text=True, timeout=120)
    models = {
        (callpath, metric): model
        for callpath, metrics in re.findall(r"Callpath: (.*)\n((?:\t.*\n)*)", ended.stdout)
        for metric, model in re.findall(r"\tMetric: (.*)\n(?:\t\tMeasurement point: .*\n){5}\t\tModel: (.*)\n", metrics)
    }
    said = {key: model for key, model in models.items() if model != "None"}  # it prints what was not measured, too
    parts = ("exposed communication", "forward and backward pass", "input wait", "optimizer step")
    assert said.keys() == {
        ("step", "seconds"),
        ("step", "images_per_second"),
        *((f"mean over ranks->{part}", "seconds") for part in parts),
    }
    law = re.fullmatch(r"(\S+) \+ (\S+) \* ranks\^\(1\)", said["step", "seconds"])
    assert law, said
    assert [float(number) for number in law.groups()] == [pytest.approx(0.1), pytest.approx(0.02)]
    law = re.fullmatch(r"(\S+) \+ (\S+) \* ranks\^\(1\)", said["mean over ranks->exposed communication", "seconds"])
    assert law, said
    assert [float(number) for number in law.groups()] == [pytest.approx(0.01), pytest.approx(0.002)]
    assert float(said["mean over ranks->input wait", "seconds"]) == 0
    assert "Measurement point: (1.60E+01) Mean: 4.20E-01" in ended.stdout


def test_extra_p_gets_no_rank_that_shared_a_core_and_emulated_ones_apart(report: Path) -> None:
    folder = report / "extra-p"
    assert {path.name for path in folder.iterdir()} == {
        "weak-64-fp32-allreduce.jsonl",
        "strong-64-fp32-allreduce.jsonl",
        "strong-64-fp32-none.jsonl",
        "strong-64-fp32-allreduce-emulated.jsonl",
    }
    lines = {path.stem: [json.loads(line) for line in path.open()] for path in folder.iterdir()}
    assert {line["params"]["ranks"] for line in lines["strong-64-fp32-allreduce"]} == {1, 2}
    emulated = lines["strong-64-fp32-allreduce-emulated"]
    assert all(line["callpath"].startswith("emulated ") and line["emulated"] for line in emulated)
    assert not any(line["emulated"] for line in lines["strong-64-fp32-allreduce"])
    said = (report.parent / "said").read_text()
    assert "for Extra-P: allreduce, strong scaling, fp32: 4 ranks were left out, which shared cores" in " ".join(
        said.split()
    )


def test_figures_are_found_by_a_regular_expression(report: Path) -> None:
    text = (report / "figures.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found: dict[str, Any] = {}
    for line in lines:
        match = re.fullmatch(r"([a-z0-9_.]+) = (\S+) (\S+)", line)
        assert match, line
        found[match[1]] = (float(match[2]), match[3])
    assert len(found) == len(lines)  # no name twice
    assert found["strong.64.fp32.allreduce.2_ranks.speed_up"] == (pytest.approx(1.6), "1")
    assert found["strong.64.fp32.allreduce.2_ranks.efficiency"] == (pytest.approx(0.8), "1")
    assert found["strong.64.fp32.1_rank.median_step_seconds"] == (pytest.approx(0.4), "s")
    assert found["weak.64.fp32.allreduce.16_ranks.images_per_second"] == (pytest.approx(64 * 16 / 0.42), "images/s")
    assert found["weak.64.fp32.allreduce.16_ranks.runs"] == (2, "runs")
    assert "strong.64.fp32.allreduce.4_ranks.oversubscribed.speed_up" in found
    assert "strong.64.fp32.allreduce.4_ranks.speed_up" not in found
    assert found["strong.64.fp32.allreduce.2_ranks.emulated.speed_up"][0] == pytest.approx(2.0)
    # No interval, and no accuracy of ranks that train no common model: no line.
    assert not any(name.endswith(("_low", "_high")) for name in found)
    assert "strong.64.fp32.none.2_ranks.best_validation_accuracy" not in found


def test_ratios_over_unlike_runs_are_marked(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one", 1, [[1], [400]], config=STRONG, commit="a" * 40)
    write_run(tmp_path / "runs" / "two", 2, [[1, 1], [250, 250]], config=STRONG, commit="b" * 40)
    options = ["--output", str(tmp_path), "--format", "tidy,figures,extra-p", "--allow-differences"]
    main(["--runs-dir", str(tmp_path / "runs"), *options])
    assert rows_of(tmp_path)["two"]["unlike"].startswith("commit: bbb")
    text = (tmp_path / "figures.txt").read_text()
    assert "\nstrong.64.fp32.allreduce.2_ranks.unlike = 1 factors\n" in text
    assert "# strong.64.fp32.allreduce.2_ranks: unlike its baseline, or each other: commit: bbb" in text
    lines = [json.loads(line) for line in (tmp_path / "extra-p" / "strong-64-fp32-allreduce.jsonl").open()]
    assert {line["run"]: len(line["unlike"]) for line in lines} == {"one": 0, "two": 1}


def test_hostile_words_of_records_stay_words(tmp_path: Path) -> None:
    """No line, path or cell of its own for what a record holds; no time for what is none."""
    words = 'a\nb,"c" = 1 1\u202e/../x'
    folder = write_run(
        tmp_path / "runs" / "one", 1, [[1], [400]], config=STRONG, cpu_model=words, commit=words, gpu=words,
        precision=words, started_utc="never", digest=words,
    )  # fmt: skip
    environment = json.loads(folder.environment.read_text()) | {"launcher": words, "mpi_library": words}
    folder.environment.write_text(json.dumps(environment))
    main(["--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path), "--format", "tidy,figures,extra-p,hparams"])
    (row,) = rows_of(tmp_path).values()
    shown = 'a\\nb,"c" = 1 1\\u202e/../x'
    assert {row[name] for name in ("cpu", "commit", "gpu", "precision", "launcher", "mpi_library", "data_digest")} == {
        shown
    }
    assert row["started_utc"] == ""
    lines = (tmp_path / "figures.txt").read_text().splitlines()
    assert all(line.startswith(("# ", "strong.64.a_nb_c_1_1_u202e_x.1_rank.")) for line in lines), lines
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("runs/")} == {
        "runs.csv", "datapackage.json", "figures.txt",
        "hparams/events.out.tfevents.0.horovod_flowers", "hparams/one/events.out.tfevents.0.horovod_flowers",
    }  # fmt: skip


def test_points_that_look_alike_get_names_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for cpu in ("A", "B"):
        write_run(tmp_path / "runs" / f"one-{cpu}", 1, [[1], [400]], config=STRONG, cpu_model=f"Test CPU {cpu}")
    main(["--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path), "--format", "figures"])
    text = (tmp_path / "figures.txt").read_text()
    names = re.findall(r"^(\S+)\.images_per_second = ", text, re.MULTILINE)
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"strong\.64\.fp32\.1_rank\.[0-9a-f]{8}", name) for name in names)
    assert re.search(r"^# strong\.64\.fp32\.1_rank\.\w+: CPU Test CPU A$", text, re.MULTILINE)
    assert "several points would be called strong.64.fp32.1_rank" in " ".join(capsys.readouterr().out.split())


def test_tensorboard_reads_its_hyperparameters_and_metrics(report: Path, runs: Path) -> None:
    """By its own plugin, without TensorFlow."""
    words = [sys.executable, "-m", "tests.single.tensorboard_hparams", str(report / "hparams")]
    ended = subprocess.run(words, check=True, capture_output=True, text=True, timeout=120, cwd=PROJECT)
    found = json.loads(ended.stdout)
    assert not found["tensorflow"]
    assert found["sessions"].keys() == {path.name for path in runs.iterdir()}
    assert set(found["hyperparameters"]) == {
        column.name for column in RUN_COLUMNS if column.role in ("factor", "mark")
    } - {"mpi_library", "commit"}  # missing in all of these runs
    # What differs among the runs is shown first, and the metrics that matter most.
    varied = {"cores", "emulated", "global_batch_images", "gpu", "oversubscribed", "ranks", "ranks_per_node", "scaling"}
    assert set(found["hyperparameters"][: len(varied) + 1]) == varied | {"strategy"}
    assert found["metrics"][:3] == ["images_per_second", "speed_up", "efficiency"]
    two, four, alone = (found["sessions"][name] for name in ("strong-2", "strong-4", "alone"))
    assert two["hyperparameters"]["strategy"] == "allreduce"
    assert two["hyperparameters"]["ranks"] == 2
    assert two["hyperparameters"]["oversubscribed"] is False
    assert four["hyperparameters"]["oversubscribed"] is True
    assert four["hyperparameters"]["doubts"] == 0
    assert "emulated" not in two["hyperparameters"]
    assert "200 Mbit/s" in found["sessions"]["emulated-2"]["hyperparameters"]["emulated"]
    assert two["metrics"]["speed_up"] == pytest.approx(1.6, rel=1e-6)
    assert two["metrics"]["best_validation_accuracy"] == 0.5
    assert "best_validation_accuracy" not in alone["metrics"]
    assert "bytes_sent" not in two["metrics"]


def test_the_report_writes_them_without_tensorflow(runs: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from horovod_flowers.report.__main__ import main; main(sys.argv[1:]); "
        "assert 'tensorflow' not in sys.modules"
    )
    options = ["--runs-dir", str(runs / "strong-2"), "--output", str(tmp_path), "--format", "hparams"]
    subprocess.run([sys.executable, "-c", program, *options], check=True, stdout=subprocess.PIPE, timeout=120)
    assert (tmp_path / "hparams" / "strong-2").is_dir()


def test_what_an_earlier_report_wrote_of_other_runs_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / "runs" / name, 1, [[1], [400]], config=STRONG)
    options = ["--output", str(tmp_path), "--format", "hparams"]
    main(["--runs-dir", str(tmp_path / "runs"), *options])
    (tmp_path / "hparams" / "notes.txt").write_text("mine")
    main(["--runs-dir", str(tmp_path / "runs" / "one"), *options])
    left = {str(path.relative_to(tmp_path / "hparams")) for path in (tmp_path / "hparams").rglob("*") if path.is_file()}
    assert left == {"events.out.tfevents.0.horovod_flowers", "one/events.out.tfevents.0.horovod_flowers", "notes.txt"}


def test_runs_of_one_name_in_two_folders_are_all_written(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        write_run(tmp_path / folder / "one", 1, [[1], [400]], config=STRONG)
    folders = f"{tmp_path / 'first'},{tmp_path / 'second'}"
    main(["--runs-dir", folders, "--output", str(tmp_path), "--format", "tidy,hparams"])
    with open(tmp_path / "runs.csv", newline="") as file:
        assert len({row["folder"] for row in csv.DictReader(file)}) == 2
    assert {path.name for path in (tmp_path / "hparams").iterdir() if path.is_dir()} == {"one", "one.2"}


def write_two_epochs(path: Path, accuracies: tuple[float, float], **options: Any) -> None:
    """A run of two epochs, of three steps and two: 0.1 s of warm-up, then 0.4 s each, and 0.5 s of evaluation."""
    config = dataclasses.replace(STRONG, epochs=2, seed=7)
    write_run(path, 1, [[100], [400], [400], [400], [400]], config=config, validation=accuracies,
              accuracy=max(accuracies), **options)  # fmt: skip
    folder = RunFolder(path)
    header, *steps = [json.loads(line) for line in folder.steps(0).read_text().splitlines()]
    header |= {"monotonic_ns": 5_000_000_000, "unix_seconds": 1_767_225_610.0}  # 2026-01-01, 10 s after the start
    for number, step in enumerate(steps):
        # As in a real run, evaluation and what follows it lie between the epochs.
        step |= {"loss": float(len(path.name))}  # or it would be a copy of another
        step |= {"epoch": 1 + (number >= 3), "start_ns": 6_000_000_000 + step["start_ns"] + 700_000_000 * (number >= 3)}
    records = [header, *steps]
    folder.steps(0).write_text("".join(msgspec.json.encode(record).decode() + "\n" for record in records))
    epochs = [json.loads(line) for line in folder.epochs.read_text().splitlines()]
    for epoch, count, seconds in zip(epochs, (3, 2), (0.9, 0.8), strict=True):
        epoch |= {"steps": count, "images": 64 * count, "validation_seconds": 0.5, "validation_images": 10}
        epoch |= {"training_seconds": seconds}
    folder.epochs.write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    result = json.loads(folder.result.read_text())
    result["progress"]["training_seconds"] = 1.7
    folder.result.write_text(json.dumps(result))


def mlperf_events(path: Path) -> list[dict[str, Any]]:
    """The events of a log, whose every line is one."""
    lines = path.read_text().splitlines()
    assert all(line.startswith(":::MLLOG {") for line in lines)
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]


def test_mlperf_tells_the_time_to_an_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("mlperf_logging")
    write_two_epochs(tmp_path / "runs" / "reached", (0.3, 0.62))
    write_two_epochs(tmp_path / "runs" / "reached-at-once", (0.61, 0.5))
    write_two_epochs(tmp_path / "runs" / "never", (0.2, 0.4))
    write_run(tmp_path / "runs" / "slept", 1, [[1], [400]], config=STRONG, core_gauge=gauge(1),
              emulated=Emulation(network=EmulatedNetwork(nodes=2, mbit=200)))  # fmt: skip
    main(["--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path), "--format", "mlperf",
          "--target-accuracy", "0.6"])  # fmt: skip
    assert "for MLPerf: left out: slept: emulated: it measures no machine" in capsys.readouterr().out
    events = {path.stem: mlperf_events(path) for path in (tmp_path / "mlperf").iterdir()}
    assert events.keys() == {"reached", "reached-at-once", "never"}
    # The first step starts 1 s after the header; 3 steps of 0.9 s, 0.5 s of evaluation, ...
    start = 1_767_225_611_000
    timed = [
        (each["key"], each["time_ms"] - start) for each in events["reached"] if each["event_type"] != "POINT_IN_TIME"
    ]
    assert timed == [
        ("init_start", -11_000), ("init_stop", 0), ("run_start", 0),
        ("epoch_start", 0), ("epoch_stop", 900), ("eval_start", 900), ("eval_stop", 1400),
        ("epoch_start", 1600), ("epoch_stop", 2400), ("eval_start", 2400), ("eval_stop", 2900), ("run_stop", 2900),
    ]  # fmt: skip
    facts = {each["key"]: each["value"] for each in events["reached"]}
    assert (facts["global_batch_size"], facts["train_samples"], facts["eval_samples"]) == (64, 100, 10)
    assert (facts["seed"], facts["opt_name"], facts["oversubscribed"]) == (7, "adam", False)
    ends = {name: of[-1] for name, of in events.items()}
    assert {name: end["metadata"]["status"] for name, end in ends.items()} == {
        "reached": "success", "reached-at-once": "success", "never": "aborted",
    }  # fmt: skip
    assert ends["reached-at-once"]["time_ms"] - start == 1400
    assert ends["reached"]["metadata"] | {"file": "", "lineno": 0} == {
        "file": "", "lineno": 0, "status": "success", "epoch_num": 2, "samples_count": 320, "target_accuracy": 0.6,
    }  # fmt: skip
    accuracies = [each["value"] for each in events["never"] if each["key"] == "eval_accuracy"]
    assert accuracies == [0.2, 0.4]


def test_mlperf_gets_no_run_whose_clock_cannot_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("mlperf_logging")
    write_two_epochs(tmp_path / "runs" / "resumed", (0.3, 0.62))
    file = RunFolder(tmp_path / "runs" / "resumed").steps(0)
    header, *steps = file.read_text().splitlines(keepends=True)
    file.write_text("".join([header, *steps[:3], header, *steps[3:]]))
    write_two_epochs(tmp_path / "runs" / "late", (0.3, 0.62), started_utc="2026-01-01T00:01:00+00:00")
    main(["--runs-dir", str(tmp_path / "runs"), "--output", str(tmp_path), "--format", "mlperf"])
    said = " ".join(capsys.readouterr().out.split())
    assert "left out: resumed: resumed: the time between its jobs is no part of a training" in said
    assert "left out: late: its first step began before the run was started, by its records" in said
    assert not (tmp_path / "mlperf").exists()


def test_mlperf_without_its_package_is_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "mlperf_logging" else found(name, *more)
    )
    with pytest.raises(SystemExit) as ended:
        main(["--runs-dir", str(runs / "strong-2"), "--output", str(tmp_path / "out"), "--format", "json,mlperf"])
    assert ended.value.code == 2
    assert "written by the package mlperf-logging, which is not installed" in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "out").glob("*"))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recorded runs of docs/example-report: 1, 2 and 4 ranks, the 4 on two cores."""
    folder = tmp_path_factory.mktemp("example")
    subprocess.run(["tar", "-xzf", EXAMPLE, "-C", folder], check=True)
    return folder / "runs"


@pytest.mark.slow
def test_mlperfs_checker_finds_real_runs_compliant(example: Path, tmp_path: Path) -> None:
    """But for the name of the benchmark, which is none of MLPerf's."""
    needs("mlperf_logging")
    from mlperf_logging.compliance_checker import mlp_compliance
    from mlperf_logging.compliance_checker.mlp_parser import parse_file

    main(["--runs-dir", str(example), "--output", str(tmp_path), "--format", "mlperf"])
    logs = sorted((tmp_path / "mlperf").iterdir())
    assert len(logs) == 30  # all but those of 'none', which trains no common model
    rules = Path(mlp_compliance.__file__).parent / "training_5.0.0"
    for log in logs:
        lines, errors = parse_file(str(log), ruleset="5.0.0")
        assert not errors
        checker = mlp_compliance.ComplianceChecker("training", "5.0.0", quiet=False, werror=True)
        checker.configured_checks(lines, str(rules / "common.yaml"))
        assert not checker.has_messages(), checker.overwritable
        checker.configured_checks(lines, str(rules / "open_common.yaml"))
        assert checker.overwritable.keys() == {"submission_benchmark"}
        mlp_compliance.enqueued_configs.clear()


@pytest.mark.slow
def test_the_reframe_test_of_the_examples_runs(runs: Path, tmp_path: Path) -> None:
    needs("reframe")
    environment = os.environ | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    words = [str(Path(sys.executable).parent / "reframe"), "--prefix", str(tmp_path), "--nocolor", "--run"]
    words += ["--performance-report", "--checkpath", str(PROJECT / "examples" / "reframe_scaling.py")]

    def run(ranks: int) -> subprocess.CompletedProcess[str]:
        settings = ["-S", f"runs_dir={runs}", "-S", f"ranks={ranks}"]
        return subprocess.run(
            [*words, *settings], env=environment, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=300
        )

    ended = run(2)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = {name: float(value) for name, value in re.findall(r"│ (\w+) +│ \S+ +│ +([\d.]+) │ pass", ended.stdout)}
    assert found == {
        "speed_up": 1.6, "efficiency": 0.8, "images_per_second": 256, "median_step_seconds": 0.25, "doubts": 0,
    }  # fmt: skip
    ended = run(4)  # which shared cores
    assert ended.returncode == 1
    assert "report/figures.txt has 0 speed-ups of this name, not 1" in ended.stdout
