"""The record of a measured step: reading and writing it, measuring one, and refusing what is none."""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from horovod_flowers.config.emulate import EmulateConfig
from horovod_flowers.runlog.step_profile import StepProfile, extended, read_step_profile, write_step_profile
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.step_profile import StepProfileConfig, described
from tests.conftest import run_command
from tests.single.step_profiles import profile

TIMEOUT_SECONDS = 300


def test_a_profile_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    write_step_profile(tmp_path / "p.json", profile())
    assert read_step_profile(tmp_path / "p.json") == profile()
    assert profile().elements == 3 * 3 * 3 * 512 + 512 + 4096 * 256 + 256 + 256 * 5 + 5
    assert profile().batch_of(8) == profile().batches[0]
    assert profile().batch_of(16) is None


def with_batch(**fields: Any) -> StepProfile:
    return profile(batches=[msgspec.structs.replace(profile().batches[0], **fields)])


def with_dense(**fields: Any) -> StepProfile:
    large, small = profile().batches[0].dense
    return with_batch(dense=[msgspec.structs.replace(large, **fields), small])


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (profile(schema=2), "has schema 2, this version reads 1"),
        (profile(weights=[]), "it has no weights"),
        (profile(batches=profile().batches * 2), "it has a batch twice: 8, 8"),
        (
            profile(weights=[msgspec.structs.replace(profile().weights[0], elements=3), *profile().weights[1:]]),
            r"net/conv/kernel of shape \[3, 3, 3, 512\] has 3 elements",
        ),
        (with_batch(gradient_ready_seconds=[0.2]), "batch 8 has 1 gradients of 6 weights"),
        (with_batch(dense=[]), "batch 8 has times of other Dense layers than the weights tell"),
        (with_batch(gradients_seconds=0.2), "batch 8 has its loss or a gradient after all gradients"),
        (with_batch(step_seconds=[1e9]), "batch 8 has a step of more than 24 hours"),
        (with_dense(input_ready_seconds=0.095), "batch 8 has times of large in an impossible order"),
        (with_dense(output_gradient_ready_seconds=0.05), "batch 8 has times of large in an impossible order"),
    ],
)
def test_a_profile_that_cannot_be_true_is_refused(tmp_path: Path, record: StepProfile, sentence: str) -> None:
    write_step_profile(tmp_path / "p.json", record)
    with pytest.raises(UserError, match=sentence):
        read_step_profile(tmp_path / "p.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}'])
def test_what_is_no_profile_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UserError, match="is damaged or from another version"):
        read_step_profile(tmp_path / "p.json")


@pytest.mark.parametrize("rows", ["0", "8,8", "x", "", "8,", "-3", "100000"])
def test_wrong_batches_are_refused(rows: str) -> None:
    with pytest.raises(UserError, match="give whole numbers from 1 to 65536, each once"):
        StepProfileConfig(rows=rows)


def test_batches_are_those_that_are_given() -> None:
    assert StepProfileConfig(rows="16,8").per_rank_batches == [16, 8]
    assert StepProfileConfig(per_rank_batch=4).per_rank_batches == [4]
    assert StepProfileConfig().per_rank_batches == [32]
    with pytest.raises(UserError, match="leave out --accumulate"):
        StepProfileConfig(accumulate=2)
    with pytest.raises(UserError, match="a step that sleeps is nothing to measure"):
        StepProfileConfig(emulate=EmulateConfig(profile="p.json"))


def other_batch(rows: int = 16) -> StepProfile:
    """Of the same work, measured later and on another node."""
    batch = msgspec.structs.replace(profile().batches[0], rows=rows)
    return profile(batches=[batch], host="node2", started_utc="2026-09-02T00:00:00+00:00", timestamp_seconds=0.0002)


def test_batches_are_added_to_what_was_measured() -> None:
    before = profile()
    found = extended(before, other_batch(), Path("step.json"))
    assert [batch.rows for batch in found.batches] == [16, 8]
    assert found.batches[1] == before.batches[0]
    assert (found.host, found.started_utc) == (before.host, before.started_utc)


@pytest.mark.parametrize(
    ("name", "value"), [("cpu_model", "Another CPU"), ("gpu", "A100"), ("threads", 2), ("precision", "bf16")]
)
def test_batches_of_other_work_are_not_added(name: str, value: object) -> None:
    other = msgspec.structs.replace(other_batch(), **{name: value})
    with pytest.raises(UserError, match=f"differs in {name} from what is measured now"):
        extended(profile(), other, Path("step.json"))


def test_a_measurement_is_told_in_a_line_a_batch() -> None:
    assert list(described(profile())) == [
        "model flower_cnn: 1,064,453 trained parameters in 6 weights, fp32, 1 thread(s)",
        "8 images: 0.4000 s a step, 0.3900 to 0.4100 in 3 steps: loss after 0.1000, gradients from 0.1100 to 0.3000, "
        "update 0.1000",
    ]


@pytest.mark.slow
def test_a_step_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    words = ["--data.image-size", "24", "--timed-steps", "3", "--threads", "1", "--bind", "none"]
    words += ["--precision", "fp32", "--output", str(path), "--optimizer.global-clipnorm", "1"]
    for batches in (["--rows", "4"], ["--rows", "2", "--extend"]):
        # In a process of its own: the number of threads is set before TensorFlow starts.
        command = [sys.executable, "-m", "horovod_flowers.step_profile", *batches, *words]
        ended = run_command(command, tmp_path, TIMEOUT_SECONDS)
        assert ended.status == 0, ended.output
    found = read_step_profile(path)
    assert [batch.rows for batch in found.batches] == [4, 2]
    assert (found.model, found.precision, found.threads, found.classes) == ("flower_cnn", "fp32", 1, 5)
    assert found.clips_by_norm
    assert found.options["data.image_size"] == 24
    assert [weight.path.partition("/")[2] for weight in found.weights][-4:] == [
        *("dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias"),
    ]
    assert found.elements == 864 + 32 + 18432 + 64 + 73728 + 128 + 128 * 512 + 512 + 512 * 5 + 5
    assert [weight.dense for weight in found.weights] == [False] * 6 + [True, False, True, False]
    for batch in found.batches:
        assert len(batch.step_seconds) == 3
        assert [dense.layer for dense in batch.dense] == ["dense", "dense_1"]
        assert 0 < batch.forward_seconds < batch.gradients_seconds
        # The first layer's gradient is the last one.
        assert batch.gradient_ready_seconds[0] > batch.gradient_ready_seconds[8]
    assert json.loads(path.read_text())["command"]
