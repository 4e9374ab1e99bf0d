"""How oneDNN, which computes products and convolutions for TensorFlow on CPUs, is told in which format to compute.

It reads its variables once, and TensorFlow its own as it is imported: they are set before.
"""

from collections.abc import Iterable, Mapping, MutableMapping

from horovod_flowers.runtime.machine import is_aarch64

SWITCH = "TF_ENABLE_ONEDNN_OPTS"
"""Whether TensorFlow uses oneDNN. Its default on aarch64: on Neoverse V1 (Graviton 3) alone (util/port.cc)."""
FORMATS = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")
"""In which format oneDNN may compute what is given to it in fp32; the first counts where both are set."""


def set_onednn_variables(variables: MutableMapping[str, str], flags: Iterable[str], bf16: bool) -> list[str]:
    """Let a process with these variables compute in fp32, or in `bf16`; what was set otherwise, as NAME=VALUE.

    On x86 bf16 is switched on later, by rewriting graphs (`model/precision.py`), which on aarch64 would need kernels
    that TensorFlow does not have. There oneDNN rounds the operands of products to bfloat16 and adds up in fp32
    (ONEDNN_DEFAULT_FPMATH_MODE=BF16; AWS Graviton Technical Guide, "TensorFlow"): not run on real hardware.
    """
    wanted = "BF16" if bf16 and is_aarch64(flags) else ""
    replaced = []
    for name in FORMATS:
        if (value := variables.pop(name, "")).upper() not in ("", "STRICT", wanted):
            replaced.append(f"{name}={value}")
        if wanted:
            variables[name] = wanted
    if wanted:
        variables.setdefault(SWITCH, "1")
    return replaced


def is_switched_off(variables: Mapping[str, str]) -> bool:
    """Whether TensorFlow was told to leave oneDNN out."""
    return variables.get(SWITCH, "").lower() in ("0", "false")
