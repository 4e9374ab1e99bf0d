"""Ways to mislead, each noticed in words: on the page, in the proposal, and by a check where a figure would pass.

And honest runs, of which nothing is said.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.synthetic_studies import TRUTHS, study
from horovod_flowers.config.data import DataConfig
from horovod_flowers.config.run import RunConfig
from horovod_flowers.report.__main__ import main
from horovod_flowers.report.analysis.doubts import doubts_of
from horovod_flowers.report.analysis.points import points_of
from horovod_flowers.report.analysis.run_summary import summarise
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.study_attempts import Attempt, PointFiles
from tests.single.recorded_runs import write_run

SCATTER = (0, 2, -2, 1, -1, 3)
"""Percent, of six runs."""
CONFIG = RunConfig(global_batch=64, threads=1, epochs=1)


def name_of(ranks: int, number: int, study_name: str = "s") -> str:
    """As a study names its runs."""
    return f"{study_name}-{ranks}ranks-{'alone' if ranks == 1 else 'allreduce'}-fp32-seed0-run{number}"


def write(
    folder: Path,
    ranks: int,
    step_ms: float,
    *,
    numbers: Sequence[int] = range(1, 7),
    factors: Sequence[float] = (1,) * 6,
    steps: Sequence[int] = (20,) * 6,
    shape: Callable[[int], float] = lambda step: 1,
    study_name: str = "s",
    **options: Any,
) -> None:
    """Runs with a little scatter. factors: of each run's seconds, in the order of their start; shape: of a step's."""
    for place, number in enumerate(numbers):
        given: dict[str, Any] = {
            "config": CONFIG,
            "started_utc": f"2026-01-01T{place:02}:{ranks:02}:00+00:00",
        } | options
        each = step_ms * (1 + SCATTER[place % 6] / 100) * factors[place]
        times = [round(each * (1 + 0.01 * (step % 3)) * shape(step)) for step in range(steps[place])]
        write_run(
            folder / name_of(ranks, number, study_name),
            ranks,
            [[1] * ranks, *([time] * ranks for time in times)],
            **given,
        )


def pair(folder: Path, one: dict[str, Any] | None = None, two: dict[str, Any] | None = None, **both: Any) -> None:
    """Six runs on one rank, and six on two, which are sound unless something is asked for."""
    write(folder, 1, **({"step_ms": 400} | both | (one or {})))
    write(folder, 2, **({"step_ms": 230} | both | (two or {})))


def attempted(folder: Path, name: str, outcome: str, reason: str | None) -> None:
    """A study's record of an attempt."""
    attempt = {"status": 1, "elapsed_seconds": 1.0, "started_utc": "2026", "job": None, "command": []}
    PointFiles(folder, name).record.parent.mkdir(exist_ok=True)
    PointFiles(folder, name).add(Attempt(outcome=outcome, reason=reason, **attempt))  # type: ignore[arg-type]


def edited(folder: Path, file: str, change: Callable[[dict[str, Any]], dict[str, Any]], numbers: Sequence[int]) -> None:
    """Change the records in a file of the runs on two ranks."""
    for number in numbers:
        path = folder / name_of(2, number) / file
        rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def half(row: dict[str, Any]) -> dict[str, Any]:
    """A step's record that claims half of its time."""
    if row["kind"] == "header":
        return row
    times = {name: row[name] // 2 for name in ("input_wait_ns", "compute_ns", "communication_ns", "update_ns")}
    return row | times | {"total_ns": sum(times.values())}


def half_epoch(row: dict[str, Any]) -> dict[str, Any]:
    """An epoch's record that claims half of its time."""
    return row | {"training_seconds": row["training_seconds"] / 2}


@dataclass(frozen=True)
class Case:
    """A way to mislead."""

    what: str
    build: Callable[[Path], None]
    """Writes the runs."""
    said: str
    """What has to be said, on the page and in the terminal; of a doubt also in the proposal and by the check."""
    doubt: bool = True
    """Whether a figure stands there, and something speaks against it; else there is none, or it says so itself."""
    options: Sequence[str] = ()
    in_proposal: str | None = None
    """What the proposal says of it, where that is something else."""
    printed: bool = True
    """Whether the terminal says it, too; of laws it says nothing."""
    check: str = "min-speed-up=1.01@2"


def survivors(folder: Path) -> None:
    """Two of six runs did not end."""
    pair(folder, two={"numbers": (1, 2, 4, 6)})
    attempted(folder, name_of(2, 3), "failed", "RuntimeError: out of memory")
    attempted(folder, name_of(2, 5), "stopped", "time limit")


def unfinished_of_train(folder: Path) -> None:
    """Runs that no study has named."""
    for number in range(6):
        for ranks, time in ((1, 400), (2, 230)):
            rows = [[1] * ranks, *([time + 2 * number] * ranks for _ in range(20))]
            write_run(folder / f"mine-{ranks}-{number}", ranks, rows, config=CONFIG)
    (folder / "mine-2-5" / "result.json").unlink()


def gone(folder: Path) -> None:
    """Slow runs that were removed after they had ended."""
    pair(folder, numbers=(1, 2, 3))
    for number in range(1, 7):
        attempted(folder, name_of(2, number), "finished", None)
    shutil.rmtree(folder / name_of(2, 3))


def ranks_train_apart(folder: Path) -> None:
    """Strategy none."""
    pair(folder, two={"config": dataclasses.replace(CONFIG, strategy="none")})


def weak_as_strong(folder: Path) -> None:
    """A global batch that grows with the ranks."""
    write(folder, 1, 400)
    config = dataclasses.replace(CONFIG, global_batch=128)
    write(folder, 2, 420, config=config, images_per_step=128)


def many_epochs_images(folder: Path) -> None:
    """Each of two ranks reads all of the data."""
    pair(folder, two={"steps": (40,) * 6})


def resumed(folder: Path) -> None:
    """A run that was started twice."""
    pair(folder)
    path = RunFolder(folder / name_of(2, 4)).steps(0)
    header, *rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *rows[:9], header, *rows[9:]]))


def copied(folder: Path) -> None:
    """Three runs that look like six."""
    pair(folder, two={"numbers": (1, 2, 3)})
    for number in (1, 2, 3):
        shutil.copytree(folder / name_of(2, number), folder / name_of(2, number + 3))


def of_rank_0(folder: Path) -> None:
    """The records of the other rank are missing."""
    pair(folder)
    for number in range(1, 4):
        RunFolder(folder / name_of(2, number)).steps(1).unlink()


def half_of_each(folder: Path, one: dict[str, Any], other: dict[str, Any], times: tuple[int, int] = (230, 460)) -> None:
    """Three runs on two ranks of each kind, and three of each on one."""
    for options, time, numbers in ((one, times[0], (1, 2, 3)), (other, times[1], (4, 5, 6))):
        write(folder, 1, 400, numbers=numbers, **options)
        write(folder, 2, time, numbers=numbers, **options)


def apart(one: dict[str, Any], other: dict[str, Any]) -> Callable[[Path], None]:
    """See half_of_each."""
    return lambda folder: half_of_each(folder, one, other)


def with_strategy_option(name: str, one: Any, other: Any) -> Callable[[Path], None]:
    """Two kinds of runs that differ in an option."""
    return apart(
        {"config": dataclasses.replace(CONFIG, **{name: one})}, {"config": dataclasses.replace(CONFIG, **{name: other})}
    )


def slow_setting(folder: Path) -> None:
    """A baseline that was slowed by its setting, which the ranks share; without it one rank is faster."""
    bad = dataclasses.replace(CONFIG, bind="none")
    pair(folder, config=bad)
    write(folder, 1, 260, study_name="t")


def law(*rates: tuple[int, float]) -> Callable[[Path], None]:
    """Six runs of each number of ranks with so many times the throughput of one."""

    def build(folder: Path) -> None:
        for ranks, speed_up in rates:
            write(folder, ranks, 4000 / speed_up, images_per_step=64)

    return build


def two_as_baseline(folder: Path) -> None:
    """Two ranks that are hardly faster than one."""
    pair(folder, two={"step_ms": 390})
    write(folder, 4, 200)


def unequal_nodes(folder: Path) -> None:
    """Two ranks on one node and one on another."""
    pair(folder)
    write(folder, 3, 160, hosts=2)


def edited_steps(folder: Path) -> None:
    """Steps of three runs that claim half of their time."""
    pair(folder)
    for rank in (0, 1):
        edited(folder, f"steps/rank-0000{rank}.jsonl", half, (1, 2, 3))


def edited_epochs(folder: Path) -> None:
    """Epochs that do."""
    pair(folder)
    edited(folder, "epochs.jsonl", half_epoch, (1, 2, 3))


def edited_throughout(folder: Path) -> None:
    """All that claims half of the time: only the clock readings tell."""
    edited_steps(folder)
    edited(folder, "epochs.jsonl", half_epoch, (1, 2, 3))
    for number in (1, 2, 3):
        path = RunFolder(folder / name_of(2, number)).result
        result = json.loads(path.read_text())
        result["progress"]["training_seconds"] /= 2
        path.write_text(json.dumps(result))


def other_clock(folder: Path) -> None:
    """Half of the runs at two thirds of the clock."""
    for numbers, mhz in (((1, 2, 3), 3500.0), ((4, 5, 6), 2400.0)):
        pair(folder, numbers=numbers, mhz=mhz)


DIFFERENT = "may change their speed (--allow-differences): "
ROWS: tuple[tuple[str, Callable[[Path], None], str], ...] = (
    ("warm-up steps", with_strategy_option("warmup_steps", 3, 1), "warmup_steps 3"),
    ("an option of the strategy", with_strategy_option("shard_above", 1_000_000, 10), "allreduce above 10"),
    ("binding", with_strategy_option("bind", "auto", "none"), "bind none"),
    ("averaged weights", with_strategy_option("average_decay", 0.0, 0.9), "average_decay 0.9"),
    (
        "size of the crop",
        apart(
            {"config": dataclasses.replace(CONFIG, data=DataConfig(augment=True, crop_size=64))},
            {"config": dataclasses.replace(CONFIG, data=DataConfig(augment=True, crop_size=32))},
        ),
        "data.crop_size 32",
    ),
    ("MPI that yields", apart({}, {"yield_when_idle": False}), "MPI yields when idle no"),
    ("settings of MPI", apart({}, {"mpi_settings": {"btl": "tcp,self"}}), "MPI setting btl tcp,self"),
    ("model of the GPU", apart({"gpu": "A100"}, {"gpu": "H100"}), "GPU H100"),
    ("features of the CPU", apart({"cpu_features": ["avx2"]}, {"cpu_features": ["avx512f"]}), "CPU features avx512f"),
    ("model of the CPU", apart({}, {"cpu_model": "Other CPU"}), "CPU Other CPU"),
    ("governor", apart({"cpu_governor": "performance"}, {"cpu_governor": "powersave"}), "CPU governor powersave"),
    ("highest clock", apart({"max_mhz": 3500.0}, {"max_mhz": 2200.0}), "CPU max MHz 2200"),
    ("commit", apart({"commit": "a" * 40}, {"commit": "b" * 40}), f"commit {'b' * 40}"),
    ("changes of the code", apart({"commit": "a-dirty-12"}, {"commit": "a-dirty-34"}), "commit a-dirty-34"),
    ("data", apart({}, {"digest": "e" * 32}), f"data hash {'e' * 32}"),
)
"""What runs differ in that must not be one row, and what tells them apart in the table."""

CASES = (
    Case("a baseline that was warming up", lambda f: pair(f, {"step_ms": 800}), "is above the ideal: the baseline may"),
    Case(
        "more than the ideal, of single runs",
        lambda f: pair(f, two={"step_ms": 150}, numbers=(1,)),
        "a parallel efficiency of 1.33 is above the ideal",
    ),
    Case(
        "one slow run of the baseline",
        lambda f: pair(f, {"factors": (1, 1, 3, 1, 1, 1)}),
        "its baseline: run s-1ranks-alone-fp32-seed0-run3 is an outlier, 2.9",
    ),
    Case(
        "one slow run of the point",
        lambda f: pair(f, two={"factors": (1, 1, 3, 1, 1, 1)}),
        "run s-2ranks-allreduce-fp32-seed0-run3 is an outlier, 2.9",
    ),
    Case("half of the runs at half speed", lambda f: pair(f, two={"factors": (1, 2) * 3}), "is wide: more runs"),
    Case("a gain within the noise", lambda f: pair(f, two={"step_ms": 395}), "do not show that 2 ranks are faster"),
    Case(
        "a machine that drifts",
        lambda f: pair(f, two={"factors": (1, 1.05, 1.1, 1.15, 1.2, 1.25)}),
        "from the first to the last that was started: the machine drifts",
    ),
    Case("steps that get slower", lambda f: pair(f, two={"shape": lambda step: 1 + step / 50}), "steps got slower by"),
    Case("steps that get faster", lambda f: pair(f, two={"shape": lambda step: 2 - step / 50}), "steps got faster by"),
    Case(
        "a third of the steps four times as long",
        lambda f: pair(f, two={"shape": lambda step: 1 if step % 3 else 4, "step_ms": 190}),
        "a part of the steps takes much longer than the others",
    ),
    Case(
        "few runs",
        lambda f: pair(f, numbers=(1, 2, 3)),
        "no interval, which takes 6 runs of each side",
        in_proposal="More runs are needed to be sure",
    ),
    Case(
        "failed and stopped runs",
        survivors,
        "run3 (failed: RuntimeError: out of memory); s-2ranks-allreduce-fp32-seed0",
    ),
    Case("an unfinished run without a study", unfinished_of_train, "missing, and those that are there may be the fast"),
    Case(
        "repetitions with gaps",
        lambda f: pair(f, two={"numbers": (1, 3, 6)}),
        "3 of its 6 runs are missing, and those that are there may be the fast ones",
    ),
    Case("the best three of six", lambda f: pair(f, two={"numbers": (1, 2, 3)}), "run4 (not in these folders)"),
    Case("runs that were removed", gone, "run3 (finished, and its folder is gone)"),
    Case("copies of runs", copied, "run4 (a copy of s-2ranks-allreduce-fp32-seed0-run1)"),
    Case(
        "runs of unequal length",
        lambda f: pair(f, two={"steps": (20, 20, 20, 60, 60, 60)}),
        "have 20 to 60 timed steps",
    ),
    Case(
        "a short baseline",
        lambda f: pair(f, {"steps": (6,) * 6}),
        "its runs have 20 timed steps and its baseline's 6: a short run is more of a start",
    ),
    Case(
        "a slow run chosen as the baseline",
        lambda f: pair(f, {"factors": (1, 1, 1, 1, 1, 1.09)}),
        "was named by hand (--baseline s-1ranks-*-run6): 1 of the 6 runs on one rank",
        options=("--baseline", "s-1ranks-*-run6"),
    ),
    Case(
        "two ranks as the baseline of four",
        two_as_baseline,
        "2 ranks (allreduce), though one rank did the same work; against all runs on one rank the speed-up is 2.00",
        options=("--baseline", "s-2ranks-*"),
        check="min-speed-up=1.01@4",
    ),
    Case("a slow setting as the baseline", slow_setting, "is not the fastest run on one rank of this work: t-1ranks"),
    Case("no warm-up", lambda f: pair(f, config=dataclasses.replace(CONFIG, warmup_steps=0)), "(warmup_steps is 0)"),
    Case(
        "warm-up that is too short",
        lambda f: pair(f, shape=lambda step: 5 if step == 0 else 1),
        "times the median one: warm-up is among the timed steps",
    ),
    Case("another clock for some runs", other_clock, "the clocks of its runs' CPUs were 2400 to 3500 MHz"),
    Case("runs that were resumed", resumed, "steps are of several jobs: s-2ranks-allreduce-fp32-seed0-run4 (1 times)"),
    Case(
        "unlike nodes",
        lambda f: pair(f, two={"hosts": 2, "cpu_models": ("Fast", "Slow")}),
        "processors Fast and Slow",
        options=("--allow-differences",),
    ),
    Case(
        "unequal numbers of ranks on nodes",
        unequal_nodes,
        "its nodes have unequal numbers of ranks (1 to 2)",
        check="min-speed-up=1.01@3",
    ),
    Case(
        "throughput per rank",
        many_epochs_images,
        "has 1.95 times the images of its baseline's: if every rank reads all",
    ),
    Case(
        "runs of other commits taken together",
        apart({"commit": "a" * 40}, {"commit": "b" * 40}),
        f"{DIFFERENT}commit: {'a' * 40} and {'b' * 40}",
        options=("--allow-differences",),
    ),
    Case("edited steps", edited_steps, "run1 (the steps of epoch 1 take 2."),
    Case("all records edited", edited_throughout, "of the steps do not begin where the step before ended"),
    Case("edited epochs", edited_epochs, "run1 (result.json has 4."),
    Case("times of rank 0 only", of_rank_0, "run1 (step records of 1 of 2 ranks)"),
    Case(
        "weak scaling told as strong",
        weak_as_strong,
        "global_batch: 128 against 64, the same batch on each rank, which is weak scaling and not strong",
        doubt=False,
    ),
    Case(
        "another CPU for the baseline",
        lambda f: pair(f, {"cpu_model": "Old CPU"}),
        "they differ in more than the ranks (CPU: Test CPU against Old CPU)",
        doubt=False,
    ),
    Case(
        "ranks that share cores",
        lambda f: pair(f, two={"oversubscribed": True}),
        "oversubscribed: not a measure of speed",
        doubt=False,
    ),
    Case(
        "ranks that train apart",
        ranks_train_apart,
        "its ranks train apart, without communication, and no common model",
        doubt=False,
        check="min-speed-up=1.01@2:none",
    ),
    Case(
        "a law with a pole",
        law((1, 1), (2, 1.906), (4, 3.515), (8, 6.182), (16, 10.6)),
        "not extrapolated, since its coherency",
        doubt=False,
        printed=False,
        check="min-speed-up=9@2",
    ),
    Case(
        "a peak that is not known",
        law((1, 1), (2, 1.9), (4, 3.48), (8, 5.9), (16, 9.1)),
        "predicted peak not determined",
        doubt=False,
        printed=False,
        check="min-speed-up=9@2",
    ),
    Case(
        "a law that does not hold",
        law((1, 1), (2, 1.88), (4, 3.28), (8, 4.7), (16, 4.2)),
        "the runs reject it (lack of fit",
        doubt=False,
        printed=False,
        check="min-speed-up=9@2",
    ),
)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without pictures, which take most of their time."""
    monkeypatch.setattr("horovod_flowers.report.pages.pictures.all_pictures.pictures_of", lambda content: [])


def reported(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, str, int]:
    """The page and what was printed, each in one line without Markdown's marks, and the exit status."""
    words = ["--runs-dir", str(folder / "runs"), "--output", str(folder / "report"), "--format", "md", *options]
    status = 0
    try:
        main(words)
    except SystemExit as ended:
        status = int(ended.code or 0)
    page = (folder / "report/report.md").read_text().replace("\\", "")
    return " ".join(page.split()), " ".join(capsys.readouterr().out.split()), status


@pytest.mark.parametrize("case", [pytest.param(case, id=case.what.replace(" ", "-")) for case in CASES])
def test_it_is_noticed_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_pictures: None, case: Case
) -> None:
    (tmp_path / "runs").mkdir()
    case.build(tmp_path / "runs")
    page, printed, status = reported(tmp_path, capsys, *case.options, "--check", case.check, "--strict", "yes")
    assert status == 1  # nothing of this passes
    assert case.said in page
    assert case.said in printed or not case.printed
    check = printed.split(f"check {case.check} (strict): FAILED: ")[1]
    if case.doubt:
        assert case.said in check
        proposals = page.split("For a proposal: ")[1:]
        assert any((case.in_proposal or case.said) in text for text in proposals)


@pytest.mark.parametrize(("build", "words"), [pytest.param(*row[1:], id=row[0].replace(" ", "-")) for row in ROWS])
def test_unlike_runs_are_no_row(tmp_path: Path, build: Callable[[Path], None], words: str) -> None:
    """Three runs at full and three at half speed, which differ in something."""
    build(tmp_path)
    points = points_of([summarise(read_run(path)) for path in sorted(tmp_path.iterdir())])
    of_two = [point for point in points if point.ranks == 2]
    assert [len(point.runs) for point in of_two] == [3, 3]
    assert sum(words in f"{point.which}, {point.strategy}" for point in of_two) == 1


def test_nothing_is_said_of_sound_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], no_pictures: None) -> None:
    (tmp_path / "runs").mkdir()
    pair(tmp_path / "runs")
    page, printed, status = reported(tmp_path, capsys, "--check", "min-speed-up=1.5@2", "--strict", "yes")
    assert status == 0
    assert "oubtful" not in page
    assert "oubtful" not in printed


@pytest.mark.slow
def test_honest_studies_are_hardly_ever_doubted() -> None:
    """Of studies with 3 % noise, less than 5 % have a point of which anything is said, but for chance.

    benchmarks/interval_coverage.py counts them in more studies of more ranks.
    """
    doubted = [
        {sentence for point in points_of(study(TRUTHS[seed % 4], (1, 2, 8), seed)) for sentence in doubts_of(point)}
        for seed in range(40)
    ]
    assert sum(map(bool, doubted)) <= 2, [each for each in doubted if each]
