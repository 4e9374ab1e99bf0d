"""Which number format is chosen, and what is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from horovod_flowers.data import synthetic
from horovod_flowers.inference.trained_model import load_run, read_run_config
from horovod_flowers.model.precision import BF16_FEATURES, choose, reason, rounds_to_bf16, switch_on, take
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.machine import cpu_flags, is_aarch64
from tests.conftest import run_command
from tests.single.trained_runs import make_run

# On aarch64 oneDNN is told once, before TensorFlow is imported: not to be switched within a process.
switched_here = pytest.mark.skipif(
    not set(BF16_FEATURES) & cpu_flags() or is_aarch64(cpu_flags()),
    reason="no bfloat16 on this CPU that is switched on and off within a process",
)


@pytest.mark.parametrize(
    ("asked", "flags", "gpu", "chosen", "why"),
    [
        ("auto", {"avx512_bf16"}, False, "bf16", "auto: the CPU has avx512_bf16"),
        ("auto", {"amx_bf16", "avx512_bf16"}, False, "bf16", "auto: the CPU has amx_bf16"),
        ("auto", {"avx2"}, False, "fp32", "auto: the CPU has neither amx_bf16 nor avx512_bf16"),
        ("auto", {"bf16", "asimd"}, False, "bf16", "auto: the CPU has bf16"),
        ("auto", {"asimd", "sve"}, False, "fp32", "auto: the CPU has no bf16"),
        ("auto", {"avx512_bf16"}, True, "fp32", "auto: on a GPU"),
        ("fp32", {"avx512_bf16"}, False, "fp32", "as asked"),
        ("bf16", {"avx512_bf16"}, False, "bf16", "as asked"),
        ("fp16", set(), True, "fp16", "as asked"),
    ],
)
def test_what_the_machine_can_do_decides(asked: str, flags: set[str], gpu: bool, chosen: str, why: str) -> None:
    assert choose(asked, flags, gpu) == chosen  # type: ignore[arg-type]
    assert reason(asked, chosen, flags, gpu) == why


@pytest.mark.parametrize(
    ("asked", "flags", "gpu", "sentence"),
    [
        ("bf16", {"avx2"}, False, "needs a CPU with amx_bf16 or avx512_bf16, which this one lacks: use --precision"),
        ("bf16", {"avx512_bf16"}, True, "bf16 is for CPUs, and this rank computes on a GPU: use --precision fp16"),
        ("fp16", {"avx512_bf16"}, False, "fp16 is for GPUs, and this rank computes on a CPU: use --precision bf16"),
    ],
)
def test_what_is_not_there_is_refused(asked: str, flags: set[str], gpu: bool, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        choose(asked, flags, gpu)  # type: ignore[arg-type]
    assert sentence in str(error.value)


def test_instructions_that_tensorflow_does_not_use_are_said_to_be_so() -> None:
    said = reason("auto", "fp32", {"avx512_bf16"}, False)
    assert said == "auto: avx512_bf16 is there, but TensorFlow does not use it"


@switched_here
def test_bf16_rounds_products_but_not_weights() -> None:
    """A product of graphs traced while bf16 is on has bfloat16's 8 bits; a sum keeps all of fp32's 24."""
    values = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)

    def relative_error() -> float:
        weights = tf.Variable(values)

        @tf.function
        def product(x: tf.Tensor) -> tf.Tensor:
            result = tf.nn.relu(tf.matmul(x, weights))
            weights.assign_add(tf.fill([64, 64], 2.0**-20))
            return result

        found = product(tf.constant(values)).numpy()
        assert np.array_equal(weights.numpy(), values + np.float32(2.0**-20))
        expected = np.maximum(values.astype(np.float64) @ values, 0)
        return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))

    try:
        switch_on("bf16")
        assert 1e-4 < relative_error() < 1e-2
    finally:
        switch_on("fp32")
    assert relative_error() < 1e-5


@switched_here
def test_bf16_is_switched_on_and_looked_at() -> None:
    try:
        assert take("bf16", "auto") == "bf16"
        assert rounds_to_bf16()
    finally:
        assert take("fp32", "fp32") == "fp32"
    assert not rounds_to_bf16()


TAKE = """
from horovod_flowers.model.precision import take
from horovod_flowers.runtime.errors import UserError

print(take("bf16", "auto"))
try:
    take("bf16", "bf16")
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_bf16_without_onednn_is_fp32_or_refused(tmp_path: Path) -> None:
    """Its graphs stay as they are, and a run would be recorded as bf16 that was computed in fp32."""
    done = run_command([sys.executable, "-c", TAKE], tmp_path, variables={"TF_ENABLE_ONEDNN_OPTS": "0"})
    assert done.stdout.splitlines() == [
        "fp32",
        "precision bf16 has no effect here, since TF_ENABLE_ONEDNN_OPTS=0 switches oneDNN off: unset it, or use "
        "--precision fp32 or auto",
    ], done.stderr


@pytest.mark.slow
@switched_here
def test_probabilities_are_computed_in_fp32_whatever_layers_are_computed_in(tmp_path: Path) -> None:
    """In bfloat16 their sums missed 1 by 0.002, and 100 images had two dozen different largest ones."""
    run = make_run(tmp_path / "run")
    images = np.stack([synthetic.draw(3, number, 32) for number in range(100)])
    exact = load_run(run, "best", read_run_config(run)).probabilities(images)
    weights = tf.random.stateless_normal((64, 5), (3, 4))
    in_a_graph = tf.function(lambda inputs: tf.nn.softmax(inputs @ weights))
    switch_on("bf16")
    try:
        found = load_run(run, "best", read_run_config(run)).probabilities(images)
        within_a_graph = in_a_graph(tf.random.stateless_normal((100, 64), (1, 2))).numpy()
    finally:
        switch_on("fp32")
    assert not np.array_equal(found, exact)  # the layers are in bfloat16
    for probabilities in (found, within_a_graph):
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
        assert len(np.unique(probabilities.max(axis=1))) > 95
