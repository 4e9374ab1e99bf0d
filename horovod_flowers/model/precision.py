"""In which number format convolutions and matrix products are computed: chosen from what the CPU or GPU can do.

Weights, optimizer state, loss and sums over ranks stay in fp32 whatever is chosen (Micikevicius et al. 2018,
arXiv 1710.03740, section 3.1; for bfloat16 Kalamkar et al. 2019, arXiv 1905.12322).
"""

import os
from collections.abc import Iterable

from horovod_flowers.config.choices import Precision, PrecisionChoice
from horovod_flowers.runtime.errors import UserError

# Instructions that multiply bfloat16 numbers. Without them oneDNN emulates, which is slower than fp32.
BF16_FEATURES = ("amx_bf16", "avx512_bf16")


KEPT_IN_FP32 = ("Softmax", "LogSoftmax")
"""Operations that TensorFlow would rewrite, though a probability in bfloat16 has two digits and their sum misses 1."""
_LISTS = "TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE"
"""How the variables begin by which its lists of operations change (auto_mixed_precision_lists.h)."""


def choose(asked: PrecisionChoice, flags: Iterable[str], gpu: bool) -> Precision:
    """The precision to compute in. Raises UserError where what was asked for is not there.

    On a GPU 'auto' is fp32: fp16 changes the range of gradients, which is the user's decision.
    """
    has_bf16 = any(feature in flags for feature in BF16_FEATURES)
    if asked == "auto":
        return "bf16" if has_bf16 and not gpu else "fp32"
    if asked == "bf16" and gpu:
        raise UserError("precision bf16 is for CPUs, and this rank computes on a GPU: use --precision fp16 or fp32")
    if asked == "bf16" and not has_bf16:
        raise UserError(
            f"precision bf16 needs a CPU with {' or '.join(BF16_FEATURES)}, which this one lacks: use --precision fp32 "
            "or auto"
        )
    if asked == "fp16" and not gpu:
        raise UserError("precision fp16 is for GPUs, and this rank computes on a CPU: use --precision bf16 or auto")
    return asked


def reason(asked: str, chosen: str, flags: Iterable[str], gpu: bool) -> str:
    """Why, in a few words for the log."""
    if asked != "auto":
        return "as asked"
    if gpu:
        return "auto: on a GPU"
    found = [feature for feature in BF16_FEATURES if feature in flags]
    return f"auto: the CPU has {found[0]}" if found else f"auto: the CPU has neither {' nor '.join(BF16_FEATURES)}"


def switch_on(precision: Precision) -> None:
    """Have TensorFlow rewrite every graph that is built from now on.

    By graph rewriting, so that any model is computed so: oneDNN's bfloat16 on the CPU, Tensor Cores on a GPU (there
    not run on real hardware).
    """
    import tensorflow as tf

    os.environ[f"{_LISTS}_INFERLIST_REMOVE"] = os.environ[f"{_LISTS}_DENYLIST_ADD"] = ",".join(KEPT_IN_FP32)
    options = {"bf16": "auto_mixed_precision_onednn_bfloat16", "fp16": "auto_mixed_precision"}
    tf.config.optimizer.set_experimental_options({name: key == precision for key, name in options.items()})
