"""Every strategy trains what one rank trains, its checkpoints are one, and it sends what its formula says."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from horovod_flowers.runlog.json_lines import read_json
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.records import Environment
from horovod_flowers.runlog.run_folder import RunFolder
from tests.conftest import TIMEOUT_SECONDS, Workplace, mpirun, run_command
from tests.parallel.commands_in_one_job import Command

# Ten steps in two epochs; four whole global batches of 20 and one of 16 in each.
OPTIONS = ("--global-batch", "20", "--warmup-steps", "1", "--epochs", "2")
CASES = {
    2: ("allreduce", "tensor", "auto"),
    4: ("allreduce --dense-gradients reduced", "sharded", "tensor", "mesh --model-parallel-size 2"),
}


def relative_difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one.astype(np.float64) - other) / np.linalg.norm(one.astype(np.float64)))


def run_name(ranks: int, options: str) -> str:
    return f"n{ranks}-{options.replace(' ', '').replace('--', '-')}"


def environment(run: Path) -> Environment:
    return read_json(RunFolder(run).environment, Environment)


# Handed from each to the next, of a smooth model: where a ReLU bends, rounding alone drives two trainings apart within
# some ten steps.
CHAIN = ((2, "tensor"), (4, "mesh --model-parallel-size 2"), (2, "sharded"), (1, "allreduce"))
SMOOTH = (
    *("--global-batch", "20", "--warmup-steps", "1", "--shard-above", "1000"),
    *("--model.name", "tests.parallel.model_zoo:functional"),
)
HALF = ("--compression", "fp16", "--horovod.cycle-time-ms", "2", "--horovod.fusion-threshold-mb", "32")
IN_THREE = ("--global-batch", "12", "--accumulate", "3", "--strategy", "tensor")
LOOKED_AT = ("--model.name", "tests.parallel.model_zoo:looked_at", "--optimizer.global-clipnorm", "0.5")
ACCUMULATING = ("--optimizer.scaling", "none", "--epochs", "2", "--shard-above", "1000")


@dataclass(frozen=True)
class Trained:
    """All runs of this module, and what one of them printed."""

    runs: Path
    half: str


@pytest.fixture(scope="module")
def trained(shared_workplace: Workplace) -> Trained:
    """Ten steps of one rank, and of every strategy at two and four; and the links of the chain.

    In one job for each link: those of other runs that need as many ranks come along.
    """

    def case(ranks: int, options: str) -> Command:
        named = ("--shard-layers", "dense") if options == "auto" else ()
        name = run_name(ranks, options)
        return shared_workplace.training(*OPTIONS, "--strategy", *options.split(), *named, "--name", name)

    def link(number: int) -> Command:
        options = ("--strategy", *CHAIN[number][1].split(), "--name", "chain", "--epochs", str(number + 1))
        return shared_workplace.training(*SMOOTH, *options, *(("--resume",) if number else ()))

    training = shared_workplace.training
    *_, half = shared_workplace.run_in_one_job(
        link(0),
        *(case(2, options) for options in CASES[2]),
        training(*ACCUMULATING, "--global-batch", "36", "--name", "at-once"),
        training(*ACCUMULATING, *IN_THREE, "--name", "in-three"),
        training(*OPTIONS, *LOOKED_AT, "--strategy", "sharded", "--name", "looked-at-2"),
        training(*OPTIONS, *HALF, "--name", "fp16"),  # last: Horovod does not start again after options of its own
        ranks=2,
    )
    shared_workplace.run_in_one_job(link(1), *(case(4, options) for options in CASES[4]), ranks=4)
    shared_workplace.run_in_one_job(link(2), ranks=2)
    shared_workplace.run_in_one_job(
        link(3),
        training(*SMOOTH, "--name", "unbroken", "--epochs", "4"),
        training(*OPTIONS, "--dense-gradients", "reduced", "--name", "reference"),
        training(*OPTIONS, *LOOKED_AT, "--name", "looked-at-1"),
        ranks=1,
    )
    return Trained(shared_workplace.folder / "runs", half)


@pytest.fixture(scope="module")
def runs(trained: Trained) -> Path:
    return trained.runs


@pytest.mark.parametrize(("ranks", "options"), [(ranks, options) for ranks in CASES for options in CASES[ranks]])
def test_ten_steps_end_with_the_weights_and_losses_of_one_rank(runs: Path, ranks: int, options: str) -> None:
    one, many = runs / "reference", runs / run_name(ranks, options)
    expected, found = (load_file(path / "checkpoints" / "last.safetensors") for path in (one, many))
    assert expected.keys() == found.keys()
    # All weights as one vector: a unit of the network that is exactly at the bend of its ReLU in one summation order
    # and not in the other changes a single bias by more than rounding.
    weights = [np.concatenate([t[n].ravel() for n in expected if n.startswith("weight.")]) for t in (expected, found)]
    assert relative_difference(*weights) < 1e-4
    assert int(found["optimizer.0000"]) == 10
    for before, after in zip(read_run(one).epochs, read_run(many).epochs, strict=True):
        assert after.training_loss == pytest.approx(before.training_loss, rel=1e-4)
        assert after.validation_loss == pytest.approx(before.validation_loss, rel=1e-4)
        assert after.validation_images == 24


def test_constraints_penalties_batch_statistics_and_clipping_are_those_of_one_rank(runs: Path) -> None:
    """Ten steps as a user runs them. Without all ranks' images in them, the statistics alone would miss the losses."""
    one, two = runs / "looked-at-1", runs / "looked-at-2"
    expected, found = (load_file(path / "checkpoints" / "last.safetensors") for path in (one, two))
    names = [name for name in expected if name.startswith("weight.") and expected[name].dtype == np.float32]
    assert relative_difference(*(np.concatenate([t[n].ravel() for n in names]) for t in (expected, found))) < 1e-4
    for before, after in zip(read_run(one).epochs, read_run(two).epochs, strict=True):
        assert after.training_loss == pytest.approx(before.training_loss, rel=1e-4)
        assert after.validation_loss == pytest.approx(before.validation_loss, rel=1e-4)
    notes = "; ".join(environment(two).strategy_notes)
    assert "batch statistics of 1 layer(s) over 2 ranks" in notes
    assert "whole on every rank: dense/kernel (constraint MaxNorm), " in notes
    assert "dense_1/kernel (assigned in a call)" in notes
    told = {entry.operation for entry in environment(two).communication_volume or []}
    assert told == {"allreduce", "reducescatter", "allgather"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what one rank trains, which is compared with what two train and what four do."""
    return tmp_path_factory.mktemp("alone")


@pytest.mark.parametrize("ranks", [2, 4])
def test_models_of_every_build_train_as_on_one_rank(tmp_path: Path, alone: Path, ranks: int) -> None:
    output = tmp_path / "found.json"
    words: list[str | Path] = ["python", "-m", "tests.parallel.strategies_against_one_rank", output, alone]
    ended = run_command(mpirun(ranks, *words), tmp_path, timeout=3 * TIMEOUT_SECONDS)
    assert ended.status == 0, ended.output
    found = json.loads(output.read_text())
    assert len(found) == {2: 42, 4: 28}[ranks]
    for case in found:
        assert case["weights"] < 2e-5, case
        assert case["average"] < 2e-5, case
        assert case["optimizer"] < 2e-5, case
        assert case["exactly_restored"], case
    whole = {
        case["case"].rsplit(" ", 2)[0]: case["optimizer_bytes"][0] for case in found if "allreduce" in case["case"]
    }
    for case in found:
        if case["case"].startswith("looked_at"):  # most of its weights stay whole
            continue
        divided = {"sharded": ranks, "tensor": ranks, "mesh": ranks // 2}
        parts = next((n for name, n in divided.items() if name in case["case"]), 1)
        model = next(name for name in whole if case["case"].startswith(name))
        # What stays whole are small tensors: a tenth at most of these small models.
        assert max(case["optimizer_bytes"]) < whole[model] * (1 / parts + 0.1), case


def test_what_a_step_sends_is_recorded(runs: Path) -> None:
    """Ten weights of the flower CNN at 32 pixels, of which the kernel of 512 x 512 is the large one. On more than two
    ranks, where Horovod fuses nothing, they share a call."""
    assert environment(runs / "reference").communication_volume == []
    (reduced,) = environment(runs / "n4-allreduce-dense-gradientsreduced").communication_volume or []
    assert (reduced.operation, reduced.ranks, reduced.calls) == ("allreduce", 4, 1)
    assert reduced.bytes_sent == 2 * 3 / 4 * 4 * 358_469
    mesh = environment(runs / "n4-mesh-model-parallel-size2").communication_volume or []
    assert [(entry.operation, entry.ranks, entry.calls) for entry in mesh] == [
        *(("allreduce", 4, 1), ("alltoall", 2, 2), ("reducescatter", 2, 1), ("allgather", 2, 1), ("allreduce", 2, 1))
    ]
    assert mesh[1].bytes_sent == 2 * 1 / 2 * 4 * 5 * 512  # inputs of five images in fp32, there and back
    assert mesh[-1].bytes_sent == 2 * 1 / 2 * 4 * 512 * 512 / 2


def test_checkpoints_go_from_any_strategy_and_number_of_ranks_to_any_other(runs: Path) -> None:
    """One training handed on three times ends where an uninterrupted one ends."""
    expected, found = (load_file(runs / name / "checkpoints" / "last.safetensors") for name in ("unbroken", "chain"))
    assert expected.keys() == found.keys()
    assert int(found["optimizer.0000"]) == 20
    for kind in ("weight.", "optimizer."):
        flat = [np.concatenate([t[n].ravel() for n in expected if n.startswith(kind)]) for t in (expected, found)]
        assert relative_difference(*flat) < 1e-4


def test_the_optimizers_state_is_divided_by_the_number_of_ranks(runs: Path) -> None:
    whole = read_run(runs / "n4-allreduce-dense-gradientsreduced").result.optimizer_bytes
    assert len(set(whole)) == 1
    for strategy, parts in (("sharded", 4), ("tensor", 4), ("mesh -model-parallel-size2", 2)):
        result = read_run(runs / f"n4-{strategy.replace(' ', '')}").result
        assert len(result.peak_memory_bytes) == 4
        # The Dense layer holds 73 % of the weights of this small model; 'sharded' divides all but the small tensors.
        share = 1 / parts if strategy == "sharded" else 1 - 262_144 / 358_469 * (1 - 1 / parts)
        assert max(result.optimizer_bytes) / whole[0] == pytest.approx(share, abs=0.01)


def test_auto_takes_the_fastest_of_what_it_measured_and_leaves_training_alone(runs: Path) -> None:
    """That its weights are those of one rank is seen above: the trial's steps have not moved them."""
    recorded = environment(runs / "n2-auto")
    seconds = {trial.strategy: trial.median_step_seconds for trial in recorded.trials}
    assert set(seconds) == {"allreduce", "sharded", "tensor"}
    assert all(value > 0 for value in seconds.values())
    assert recorded.strategy == min(seconds, key=lambda name: seconds[name])
    assert recorded.communication_volume is not None
    assert {entry.ranks for entry in recorded.communication_volume} == {2}


def test_the_log_says_what_was_done(runs: Path) -> None:
    assert environment(runs / "n4-tensor").strategy_notes == ["dense divided over 4 ranks, 128 inputs each"]
    assert environment(runs / "n2-allreduce").strategy_notes == ["gradient of dense by factors"]
    assert environment(runs / "n4-allreduce-dense-gradientsreduced").strategy_notes == []
    assert environment(runs / "n2-tensor").precision == "fp32"
    assert environment(runs / "reference").strategy == "one rank"


def test_steps_that_wait_for_others_inside_the_passes_say_so(runs: Path) -> None:
    for name in ("n4-tensor", "n4-sharded", "n2-tensor"):
        run = read_run(runs / name)
        assert np.array_equal(run.part_ns.sum(axis=2), run.step_ns)
        assert (run.part_ns >= 0).all()
    # Four collective calls in a row, each waited for, of four ranks that take turns on two cores.
    assert read_run(runs / "n4-tensor").part_shares["communication"] > 0.02


def test_accumulated_steps_are_one_larger_step(runs: Path) -> None:
    """Twelve images in one step, or four in each of three: the last update of an epoch is smaller in both."""
    expected, found = (load_file(runs / n / "checkpoints" / "last.safetensors") for n in ("at-once", "in-three"))
    assert int(expected["optimizer.0000"]) == int(found["optimizer.0000"]) == 6
    flat = [np.concatenate([t[n].ravel() for n in expected if n.startswith("weight.")]) for t in (expected, found)]
    assert relative_difference(*flat) < 1e-4


def test_half_precision_on_the_way_changes_little(trained: Trained) -> None:
    runs = trained.runs
    assert "gradients sent as fp16" in trained.half
    recorded = environment(runs / "fp16").horovod_settings
    assert recorded["HOROVOD_CYCLE_TIME"] == "2.0"
    assert recorded["HOROVOD_FUSION_THRESHOLD"] == str(32 * 2**20)
    losses = [read_run(runs / name).epochs[1].training_loss for name in ("reference", "fp16")]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def counted(ranks: int, tmp_path: Path) -> list[dict[str, Any]]:
    output = tmp_path / "bytes.json"
    # Over TCP on the loopback device, whose counters the kernel keeps, instead of shared memory.
    words = mpirun(ranks, "python", "-m", "tests.parallel.bytes_sent", str(output))
    words[1:1] = ["--mca", "btl", "tcp,self", "--mca", "pml", "ob1", "--mca", "btl_tcp_if_include", "lo"]
    namespace = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    alone = run_command([*namespace, "true"], tmp_path).status == 0 if shutil.which("unshare") else False
    ended = run_command([*(namespace if alone else []), *words], tmp_path)
    assert ended.status == 0, ended.output
    return json.loads(output.read_text())


def expected_calls(strategy: str, gradients: str, ranks: int) -> dict[tuple[str, int], int]:
    """Of the model of bytes_sent.py: two Dense layers with bias, the first of them large. On more than two ranks small
    gradients share a call."""
    factors = gradients == "factors"
    group = ranks // 2 if strategy == "mesh" else ranks
    three, two = (3, 2) if ranks == 2 else (1, 1)
    within = {("alltoall", group): 2, ("reducescatter", group): 1, ("allgather", group): 1}
    return {
        "none": {},
        "allreduce": {("allreduce", ranks): three, ("allgather", ranks): 2}
        if factors
        else {("allreduce", ranks): three + 1},
        # By factors: inputs to the owners, gradients and then rows of the kernel to all; the last kernel is divided.
        "sharded": {
            ("allreduce", ranks): two,
            ("reducescatter", ranks): 1,
            ("allgather", ranks): 3,
            ("alltoall", ranks): 1,
        }
        if factors
        else {("allreduce", ranks): two, ("reducescatter", ranks): 2, ("allgather", ranks): 2},
        "tensor": {("allreduce", ranks): three, **within},
        "mesh": {("allreduce", ranks): three, ("allreduce", 2): 1, **within},
    }[strategy]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_bytes_sent_are_those_of_the_formula(tmp_path: Path, ranks: int) -> None:
    found = counted(ranks, tmp_path)
    assert {case["strategy"] for case in found} == {"allreduce", "sharded", "tensor", "none"} | (
        {"mesh"} if ranks > 2 else set()
    )
    for case in found:
        # What the strategy itself says goes into the run's record.
        assert sum(entry["bytes_sent"] for entry in case["told"]) == pytest.approx(case["formula"], rel=1e-12), case
        calls = {(entry["operation"], entry["ranks"]): entry["calls"] for entry in case["told"]}
        assert calls == expected_calls(case["strategy"], case["gradients"], ranks)
        if case["strategy"] == "none":
            assert case["counted"] < 20_000
        else:
            assert case["counted"] == pytest.approx(case["formula"], rel=0.05), case
