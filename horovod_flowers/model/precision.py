"""In which number format convolutions and matrix products are computed: chosen from what the CPU or GPU can do.

Weights, optimizer state, loss and sums over ranks stay in fp32 whatever is chosen (Micikevicius et al. 2018,
arXiv 1710.03740, section 3.1; for bfloat16 Kalamkar et al. 2019, arXiv 1905.12322).
"""

import os
from collections.abc import Iterable
from pathlib import Path

from horovod_flowers.config.choices import Precision, PrecisionChoice
from horovod_flowers.ranks.onednn import SWITCH, is_switched_off
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.machine import cpu_flags, is_aarch64

# Instructions that multiply bfloat16 numbers. Without them oneDNN emulates, which is slower than fp32.
_X86_FEATURES = ("amx_bf16", "avx512_bf16")
_AARCH64_FEATURES = ("bf16",)
BF16_FEATURES = (*_X86_FEATURES, *_AARCH64_FEATURES)
"""As Linux names them."""

KEPT_IN_FP32 = ("Softmax", "LogSoftmax")
"""Operations that TensorFlow would rewrite, though a probability in bfloat16 has two digits and their sum misses 1."""
_LISTS = "TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE"
"""How the variables begin by which its lists of operations change (auto_mixed_precision_lists.h)."""


def choose(asked: PrecisionChoice, flags: Iterable[str], gpu: bool) -> Precision:
    """The precision to compute in. Raises UserError where what was asked for is not there.

    On a GPU 'auto' is fp32: fp16 changes the range of gradients, which is the user's decision.
    """
    flags = frozenset(flags)
    has_bf16 = not flags.isdisjoint(BF16_FEATURES)
    if asked == "auto":
        return "bf16" if has_bf16 and not gpu else "fp32"
    if asked == "bf16" and gpu:
        raise UserError("precision bf16 is for CPUs, and this rank computes on a GPU: use --precision fp16 or fp32")
    if asked == "bf16" and not has_bf16:
        raise UserError(
            f"precision bf16 needs a CPU with {' or '.join(_features(flags))}, which this one lacks: use --precision "
            "fp32 or auto"
        )
    if asked == "fp16" and not gpu:
        raise UserError("precision fp16 is for GPUs, and this rank computes on a CPU: use --precision bf16 or auto")
    return asked


def reason(asked: str, chosen: str, flags: Iterable[str], gpu: bool) -> str:
    """Why, in a few words for the log; `flags`: that the CPUs of all nodes have."""
    if asked != "auto":
        return "as asked"
    if gpu:
        return "auto: on a GPU"
    flags = frozenset(flags)
    names = _features(flags)
    found = [feature for feature in BF16_FEATURES if feature in flags]
    if found and chosen != "bf16":
        return f"auto: {found[0]} is there, but TensorFlow does not use it"
    if found:
        return f"auto: the CPU has {found[0]}"
    return f"auto: the CPU has neither {' nor '.join(names)}" if len(names) > 1 else f"auto: the CPU has no {names[0]}"


def _features(flags: frozenset[str]) -> tuple[str, ...]:
    return _AARCH64_FEATURES if is_aarch64(flags) else _X86_FEATURES


def may_be_bf16(asked: PrecisionChoice, flags: Iterable[str]) -> bool:
    """Whether `choose` may come to bf16; known before TensorFlow is imported."""
    gpu = Path("/dev/nvidiactl").exists()
    return asked in ("auto", "bf16") and not gpu and not frozenset(flags).isdisjoint(BF16_FEATURES)


def take(chosen: Precision, asked: PrecisionChoice) -> Precision:
    """Switch the chosen precision on, and see that TensorFlow computes in it; 'auto' is fp32 where it does not.

    Instructions alone decide nothing: oneDNN may be switched off, or not be built for this CPU. Raises UserError where
    bf16 was asked for and products are computed in fp32 all the same.
    """
    switch_on(chosen)
    if chosen != "bf16" or rounds_to_bf16():
        return chosen
    switch_on("fp32")
    if asked == "auto":
        return "fp32"
    why = (
        f"{SWITCH}={os.environ[SWITCH]} switches oneDNN off: unset it"
        if is_switched_off(os.environ)
        else "this TensorFlow has no oneDNN for this CPU"
    )
    raise UserError(f"precision bf16 has no effect here, since {why}, or use --precision fp32 or auto")


def rounds_to_bf16() -> bool:
    """Whether a product in a graph that is traced now has bfloat16's 8 bits instead of fp32's 24.

    Of 192 x 192 numbers: on Neoverse V1 TensorFlow leaves smaller products to Eigen (mkl_heuristics.h).
    """
    import numpy as np
    import tensorflow as tf

    numbers = np.random.default_rng(0).normal(size=(2, 192, 192)).astype(np.float32)

    @tf.function
    def product(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(tf.matmul(left, right))

    found = product(tf.constant(numbers[0]), tf.constant(numbers[1])).numpy()
    exact = np.maximum(numbers[0].astype(np.float64) @ numbers[1], 0)
    # Rounding to 8 bits leaves some 2e-3, to 24 bits less than 1e-6.
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact)) > 1e-4


def switch_on(precision: Precision) -> None:
    """Have TensorFlow rewrite every graph that is built from now on.

    By graph rewriting, so that any model is computed so: oneDNN's bfloat16 on the CPU, Tensor Cores on a GPU (there
    not run on real hardware). On aarch64 oneDNN was told before (`ranks/onednn.py`): TensorFlow would rewrite graphs
    for kernels that it has for AVX-512 alone, and compute them by Eigen, slower than in fp32.
    """
    import tensorflow as tf

    if is_aarch64(cpu_flags()) and precision == "bf16":
        return
    os.environ[f"{_LISTS}_INFERLIST_REMOVE"] = os.environ[f"{_LISTS}_DENYLIST_ADD"] = ",".join(KEPT_IN_FP32)
    options = {"bf16": "auto_mixed_precision_onednn_bfloat16", "fp16": "auto_mixed_precision"}
    tf.config.optimizer.set_experimental_options({name: key == precision for key, name in options.items()})
