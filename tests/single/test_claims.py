"""What the report claims, and refuses to claim."""

from pathlib import Path

import pytest

from horovod_flowers.config.run import HorovodConfig, RunConfig
from horovod_flowers.report.analysis.claims import before_and_after, compare, judge, parse_check, proposal_of
from horovod_flowers.report.analysis.points import points_of, series_of
from horovod_flowers.report.analysis.run_summary import RunSummary, summarise
from horovod_flowers.report.options import ReportConfig
from horovod_flowers.report.pages.wording import proposal_paragraph
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runtime.errors import UserError
from tests.single.recorded_runs import write_run

TENSOR = RunConfig(global_batch=64, threads=1, strategy="tensor")


def read(folder: Path) -> list[RunSummary]:
    return [summarise(read_run(path)) for path in sorted(folder.iterdir())]


def write_repeated(
    folder: Path, name: str, ranks: int, milliseconds: list[int], config: RunConfig | None = None
) -> None:
    for number, step in enumerate(milliseconds):
        write_run(folder / f"{name}-run{number}", ranks, [[9] * ranks, [step] * ranks], config=config)


SIX = [400, 402, 398, 401, 399, 400]


def test_a_difference_is_claimed_only_where_intervals_are_apart(tmp_path: Path) -> None:
    write_repeated(tmp_path, "fast", 2, [200, 202, 198, 201, 199, 200], TENSOR)
    write_repeated(tmp_path, "slow", 2, [220, 222, 218, 221, 219, 220])
    write_repeated(tmp_path, "wide", 2, [200, 260, 180, 240, 190, 250])
    runs = read(tmp_path)
    assert compare(runs, ["slow-*", "fast-*"], False).apart is True
    assert compare(runs, ["slow-*", "wide-*"], False).apart is False
    found = compare(runs, ["slow-*", "fast-*"], False)
    assert found.ratio.value == pytest.approx(1.1)
    assert found.factors == ("strategy: allreduce against tensor",)
    assert compare(runs, ["slow-*", "fast-run0"], False).apart is None


def test_runs_that_differ_in_two_factors_are_not_compared_unless_asked(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 1, [[9], [400]])
    other = RunConfig(global_batch=64, threads=1, strategy="tensor", horovod=HorovodConfig(cycle_time_ms=5.0))
    write_run(tmp_path / "two", 2, [[9, 9], [250, 250]], config=other)
    runs = read(tmp_path)
    with pytest.raises(UserError, match=r"differ in 2 factors .*horovod.cycle_time_ms: not set against 5.*ranks: 1 ag"):
        compare(runs, ["one", "two"], False)
    assert len(compare(runs, ["one", "two"], True).factors) == 2


def test_a_comparison_of_nothing_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 1, [[9], [400]])
    with pytest.raises(UserError, match="compare 'x-\\*' matches no run"):
        compare(read(tmp_path), ["one", "x-*"], False)


def test_ratios_over_another_version_of_the_code_are_refused_or_marked(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 1, [[9], [400]], commit="a" * 40)
    write_run(tmp_path / "two", 2, [[9, 9], [200, 200]], commit="b" * 40)
    _, two = points_of(read(tmp_path))
    assert two.speed_up is None
    assert two.refusal == f"they differ in more than the ranks (commit: {'b' * 40} against {'a' * 40})"
    _, two = points_of(read(tmp_path), allow_differences=True)
    assert two.speed_up is not None
    assert two.speed_up.value == pytest.approx(2)
    assert two.unlike == (f"commit: {'b' * 40} against {'a' * 40}",)


def test_runs_of_two_versions_are_not_one_point(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1, [[9], [400]], commit="a" * 40)
    write_run(tmp_path / "b", 1, [[9], [300]], commit="b" * 40)
    points = points_of(read(tmp_path))
    assert [(point.runs[0].name, point.which) for point in points] == [
        ("a", f"commit {'a' * 40}"),
        ("b", f"commit {'b' * 40}"),
    ]
    (both,) = points_of(read(tmp_path), allow_differences=True)
    assert both.unlike == (f"commit: {'a' * 40} and {'b' * 40}",)


def test_another_baseline_may_be_chosen(tmp_path: Path) -> None:
    write_run(tmp_path / "two", 2, [[9] * 2, [200] * 2])
    write_run(tmp_path / "four", 4, [[9] * 4, [125] * 4])
    two, four = points_of(read(tmp_path), baseline="two")
    assert two.speed_up is not None
    assert four.speed_up is not None
    assert [two.speed_up.value, four.speed_up.value] == pytest.approx([2, 3.2])
    assert four.efficiency is not None
    assert four.efficiency.value == pytest.approx(0.8)
    assert four.serial_fraction is None  # Karp and Flatt's is against one rank
    with pytest.raises(UserError, match="baseline 'none-\\*' matches no run"):
        points_of(read(tmp_path), baseline="none-*")
    with pytest.raises(UserError, match="matches runs of several kinds \\(2 ranks allreduce, 4 ranks allreduce\\)"):
        points_of(read(tmp_path), baseline="*")


def test_before_and_after_needs_the_same_work(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 1, [[9], [400], [400]])
    write_run(tmp_path / "two", 2, [[9, 9], [250, 250], [250, 250]])
    found = before_and_after(series_of(points_of(read(tmp_path))))
    assert found is not None
    assert found.refusal is None
    assert found.before is not None
    assert found.after is not None
    assert (found.before.ranks, found.after.ranks) == (1, 2)
    assert (found.before.training_seconds, found.after.training_seconds) == pytest.approx((0.809, 0.509))
    write_run(tmp_path / "three", 4, [[9] * 4, [100] * 4])  # a step less: the fastest, and other work
    found = before_and_after(series_of(points_of(read(tmp_path))))
    assert found is not None
    assert found.before is None
    assert found.refusal == (
        "one process and 4 ranks (allreduce) did not do the same work: images trained 192 against 128"
    )


def test_weak_scaling_is_other_work(tmp_path: Path) -> None:
    weak = RunConfig(per_rank_batch=32, threads=1)
    write_run(tmp_path / "one", 1, [[9], [400]], config=weak, images_per_step=32)
    write_run(tmp_path / "two", 2, [[9, 9], [500, 500]], config=weak, images_per_step=64)
    found = before_and_after(series_of(points_of(read(tmp_path))))
    assert found is not None
    assert found.refusal is not None
    assert "global batch 32 against 64" in found.refusal


def test_a_proposal_ends_before_the_first_point_below_the_threshold(tmp_path: Path) -> None:
    write_repeated(tmp_path, "s-1", 1, SIX)
    write_repeated(tmp_path, "s-2", 2, [value // 2 + 20 for value in SIX])
    write_repeated(tmp_path, "s-4", 4, [value // 4 + 80 for value in SIX])
    write_repeated(tmp_path, "s-8", 8, [value // 8 + 2 for value in SIX])
    (series,) = series_of(points_of(read(tmp_path)))
    proposal = proposal_of(series, 0.75)
    assert proposal is not None
    assert proposal.point is not None
    assert proposal.point.ranks == 2  # 8 ranks keep 0.96, but 4 do not
    assert proposal.core_hours == pytest.approx(2 * 0.229 / 3600)
    text = proposal_paragraph(proposal)
    assert "at least 0.75 up to 2 ranks: 0.91 (0.91 to 0.91), 95 % interval by bootstrap over 6 runs" in text
    assert "At 4 ranks it falls to 0.56 (0.55 to 0.56)" in text
    assert proposal_of(series, 0.95) is not None
    nothing = proposal_of(series, 0.95)
    assert nothing is not None
    assert "is below a parallel efficiency of 0.95 on 2 ranks already" in proposal_paragraph(nothing)


def test_a_proposal_says_that_its_interval_reaches_below(tmp_path: Path) -> None:
    write_repeated(tmp_path, "s-1", 1, SIX)
    write_repeated(tmp_path, "s-2", 2, [200, 300, 210, 290, 250, 250])
    (series,) = series_of(points_of(read(tmp_path)))
    proposal = proposal_of(series, 0.75)
    assert proposal is not None
    assert "The interval reaches below the threshold" in proposal_paragraph(proposal)


def test_crowded_ranks_are_no_ground_for_a_proposal(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 1, [[9], [400]])
    write_run(tmp_path / "two", 2, [[9, 9], [200, 200]], oversubscribed=True)
    (series,) = series_of(points_of(read(tmp_path)))
    assert proposal_of(series, 0.5) is None


@pytest.mark.parametrize(
    ("check", "passed", "words"),
    [
        ("min-efficiency=0.8@4", True, "0.8"),
        ("min-efficiency=0.81@4", False, "0.8"),
        ("min-speed-up=3@4", True, "3.2"),
        ("max-step-seconds=0.1@4", False, "0.125"),
        ("max-step-seconds=.2@4:allreduce", True, "0.125"),
        ("min-efficiency=0.8@4:tensor", False, "there is no run of 4 ranks with strategy tensor"),
        ("min-efficiency=0.1@16", False, "there is no run of 16 ranks"),
        ("min-efficiency=0.1@8", False, "oversubscribed: not a measure of speed"),
    ],
)
def test_checks(tmp_path: Path, check: str, passed: bool, words: str) -> None:
    write_run(tmp_path / "one", 1, [[9], [400]])
    write_run(tmp_path / "four", 4, [[9] * 4, [125] * 4])
    write_run(tmp_path / "eight", 8, [[9] * 8, [100] * 8], oversubscribed=True)
    verdict = judge(parse_check(check), points_of(read(tmp_path)), strict=False)
    assert verdict.passed is passed
    assert words in verdict.reason


def test_a_check_without_a_baseline_fails(tmp_path: Path) -> None:
    write_run(tmp_path / "four", 4, [[9] * 4, [125] * 4])
    verdict = judge(parse_check("min-efficiency=0.1@4"), points_of(read(tmp_path)), strict=False)
    assert not verdict.passed
    assert "its baseline is missing" in verdict.reason


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"check": "efficiency=1@2"}, "check is 'efficiency=1@2': give min-efficiency, min-speed-up, max-step-seconds"),
        ({"check": "min-efficiency=0.8"}, "check is 'min-efficiency=0.8'"),
        ({"format": "html,docx"}, "format names 'docx': allowed are html, md, csv, json, proposal, pictures, trace"),
        ({"compare": ("a", "")}, "compare names '': give two names or patterns"),
        ({"min_efficiency": 0.0}, "min_efficiency is 0"),
        ({"target_accuracy": 60.0}, "target_accuracy is 60: give a share"),
        ({"format": "csv", "open": True}, "open needs the HTML report"),
    ],
)
def test_mistakes_in_options_are_one_sentence(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        ReportConfig(**options)  # type: ignore[arg-type]
    assert str(error.value).startswith(sentence)
