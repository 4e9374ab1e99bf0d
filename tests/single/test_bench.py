"""The bench's arithmetic and plan; what it measures is seen in tests/commands."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from horovod_flowers.bench.__main__ import (
    BenchConfig,
    Measurement,
    chosen_peers,
    refuse_what_cannot_run,
    run_to_its_end,
)
from horovod_flowers.bench.contenders import Peer, Timing, Workload, installed_peers, our_contenders
from horovod_flowers.bench.table import described, interval, print_ratios, print_table, ratios
from horovod_flowers.runtime.errors import UserError

WORK = Workload(per_rank_batch=32, steps=10, warmup_steps=4)


def measurement(name: str, ranks: int, rates: dict[int, float], peer: bool = False) -> Measurement:
    timings = {repetition: Timing(rate, 64 / rate, False) for repetition, rate in rates.items()}
    return Measurement(name, ranks, timings, peer=peer)


def test_ratios_are_taken_within_a_repetition() -> None:
    ours = measurement("tensor bf16", 2, {0: 200.0, 1: 100.0, 2: 300.0})
    other = measurement("none bf16", 2, {0: 100.0, 1: 50.0, 3: 1.0})
    assert ratios(ours, other) == [2.0, 2.0]  # the machine was half as fast in repetition 1


def test_an_interval_needs_six_runs() -> None:
    assert interval([1, 2, 3, 4, 5]) is None
    assert described([1.0, 2.0, 3.0], 1) == "2.0"
    values = np.random.default_rng(0).normal(100, 5, 50).tolist()
    limits = interval(values)
    assert limits is not None
    assert limits[0] < np.median(values) < limits[1]
    # The median of 50 values of standard deviation 5 varies by 1.2533 * 5 / sqrt(50) = 0.89.
    assert 1.5 < limits[1] - limits[0] < 6


def test_all_strategies_and_precisions_are_planned_at_all_rank_counts() -> None:
    config = BenchConfig(ranks="4,1,2", precisions="fp32,bf16")
    planned = our_contenders(config.strategies.split(","), config.precision_names, config.rank_counts, WORK, "d")
    names = [(contender.ranks, contender.name) for contender in planned]
    assert names[:2] == [(1, "one rank fp32"), (1, "one rank bf16")]
    assert [name for ranks, name in names if ranks == 2][:4] == [f"{s} fp32" for s in config.strategies.split(",")[:4]]
    assert (4, "mesh bf16 model-parallel-size 2") in names
    assert len(names) == len(set(names)) == 2 + 8 + 10


def test_peers_that_are_not_there_are_named_with_what_to_do() -> None:
    found, absent = installed_peers([1, 2], WORK, "/no/such/python")
    assert [peer.name for peer in found[:2]] == ["Keras fit, one core", "Keras fit, all cores"]
    assert any("give --torch-python" in line for line in absent)


def test_peers_are_chosen_by_words_of_their_names() -> None:
    found, absent = chosen_peers(BenchConfig(peers="one core", torch_python="/no/such/python"), WORK)
    assert ([peer.name for peer in found], absent) == (["Keras fit, one core"], [])
    assert chosen_peers(BenchConfig(peers="none"), WORK) == ([], [])
    with pytest.raises(UserError, match="peers names 'caffe': installed are Keras fit, one core"):
        chosen_peers(BenchConfig(peers="caffe", torch_python="/no/such/python"), WORK)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (BenchConfig(steps=48), "52 steps (4 to warm up) of 32 images on 2 ranks are more than the 49 of an epoch"),
        (BenchConfig(precisions="fp16"), "precision fp16 is for GPUs"),
    ],
)
def test_a_bench_that_cannot_run_is_refused_before_it_runs(config: BenchConfig, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        refuse_what_cannot_run(config)
    assert sentence in str(error.value)


def test_a_peer_is_as_fast_as_its_slowest_rank(tmp_path: Path) -> None:
    peer = Peer("p", "p.py", 2, WORK)
    for rank, seconds in enumerate(([1.0, 2.0], [2.0, 3.0])):
        (tmp_path / f"rank-{rank}.json").write_text(json.dumps({"batch": 32, "step_seconds": seconds}))
    timing = peer.read(tmp_path)
    assert timing.images_per_second == pytest.approx(4 * 32 / 5)
    (tmp_path / "rank-1.json").unlink()
    with pytest.raises(UserError, match="p left no step times"):
        peer.read(tmp_path)


def test_a_job_that_fails_or_hangs_is_told_with_its_reason() -> None:
    with pytest.raises(UserError, match="status 3: x: error: no such thing"):
        run_to_its_end([sys.executable, "-c", "print('x: error: no such thing'); raise SystemExit(3)"], {}, 60)
    with pytest.raises(UserError, match="took more than 1 s"):
        run_to_its_end([sys.executable, "-c", "import time; time.sleep(60)"], {}, 1)


def test_the_table_marks_what_is_no_measure_of_speed(capsys: pytest.CaptureFixture[str]) -> None:
    shared = Measurement("tensor bf16", 8, {0: Timing(10.0, 1.0, True)})
    alone = Measurement("none bf16", 8, {0: Timing(5.0, 2.0, True)})
    peer = measurement("PyTorch DDP bf16", 8, {0: 2.5}, peer=True)
    print_table([shared, alone, peer])
    print_ratios([shared, alone, peer])
    text = capsys.readouterr().out
    assert "8*" in text
    assert "oversubscribed: ranks shared a core" in text
    assert "8 ranks: tensor bf16 / none bf16: 2.00\n" in text
    assert "8 ranks: tensor bf16 / PyTorch DDP bf16: 4.00\n" in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ranks": "1,zero"}, "ranks is '1,zero': give positive whole numbers separated by commas"),
        ({"strategies": "none,ring"}, "strategies names 'ring': allowed are none, allreduce, sharded, tensor, mesh"),
        ({"precisions": "fp8"}, "precisions names 'fp8': allowed are auto, fp32, bf16, fp16"),
        ({"repetitions": 0}, "repetitions is 0: give a positive whole number"),
    ],
)
def test_wrong_options_get_one_sentence(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        BenchConfig(**options)  # type: ignore[arg-type]
    assert sentence in str(error.value)
