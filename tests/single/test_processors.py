"""What is read of processors that are not here: Grace, Graviton (not run on real hardware), and x86."""

import re
import subprocess
from pathlib import Path

import pytest

from horovod_flowers.model.precision import choose, may_be_bf16, reason
from horovod_flowers.ranks.onednn import is_switched_off, set_onednn_variables
from horovod_flowers.runlog.environment import CPU_FEATURES, commit_of
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.machine import (
    CpuClock,
    core_of,
    cpu_clock,
    cpu_flags,
    cpu_model,
    flags_in,
    is_aarch64,
    model_in,
)
from tests.single.recorded_processors import EPYC, GRACE, GRAVITON_2, GRAVITON_3, UNKNOWN_CORE, VIRTUAL_X86


@pytest.mark.parametrize(
    ("cpuinfo", "model", "features", "chosen", "why"),
    [
        (
            GRACE,
            "Arm Neoverse-V2 r0p0",
            ["asimd", "asimddp", "sve", "sve2", "bf16", "svebf16", "i8mm"],
            "bf16",
            "auto: the CPU has bf16",
        ),
        (
            GRAVITON_3,
            "Arm Neoverse-V1 r1p1",
            ["asimd", "asimddp", "sve", "bf16", "svebf16", "i8mm"],
            "bf16",
            "auto: the CPU has bf16",
        ),
        (GRAVITON_2, "Arm Neoverse-N1 r3p1", ["asimd", "asimddp"], "fp32", "auto: the CPU has no bf16"),
        (
            EPYC,
            "AMD EPYC 9654 96-Core Processor",
            ["avx2", "avx512f", "avx512_bf16"],
            "bf16",
            "auto: the CPU has avx512_bf16",
        ),
        (UNKNOWN_CORE, "aarch64 core 0x99 0xABC", ["asimd", "bf16"], "bf16", "auto: the CPU has bf16"),
        (
            VIRTUAL_X86,
            "QEMU Virtual CPU version 2.5+",
            [],
            "fp32",
            "auto: the CPU has neither amx_bf16 nor avx512_bf16",
        ),
        ("", None, [], "fp32", "auto: the CPU has neither amx_bf16 nor avx512_bf16"),
    ],
)
def test_what_linux_says_of_a_processor(
    cpuinfo: str, model: str | None, features: list[str], chosen: str, why: str
) -> None:
    flags = flags_in(cpuinfo)
    assert model_in(cpuinfo) == model
    assert [feature for feature in CPU_FEATURES if feature in flags] == features
    assert choose("auto", flags, gpu=False) == chosen
    assert reason("auto", chosen, flags, gpu=False) == why
    assert choose("auto", flags, gpu=True) == "fp32"


def test_bf16_is_refused_on_graviton_2() -> None:
    with pytest.raises(UserError, match="precision bf16 needs a CPU with bf16, which this one lacks"):
        choose("bf16", flags_in(GRAVITON_2), gpu=False)
    assert choose("bf16", flags_in(GRACE), gpu=False) == "bf16"


def test_this_processor_is_read_as_the_recorded_ones() -> None:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    assert cpu_flags() == flags_in(cpuinfo) != frozenset()
    assert cpu_model() == model_in(cpuinfo)
    assert {is_aarch64(flags_in(text)) for text in (GRACE, GRAVITON_2, GRAVITON_3)} == {True}
    assert {is_aarch64(flags_in(text)) for text in (EPYC, VIRTUAL_X86, "")} == {False}


@pytest.mark.parametrize(
    ("cpuinfo", "bf16", "given", "left", "replaced"),
    [
        # Grace needs both: TensorFlow switches oneDNN on by itself on Neoverse V1 alone.
        (
            GRACE,
            True,
            {},
            {
                "TF_ENABLE_ONEDNN_OPTS": "1",
                "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
                "DNNL_DEFAULT_FPMATH_MODE": "BF16",
            },
            [],
        ),
        (
            GRACE,
            True,
            {"TF_ENABLE_ONEDNN_OPTS": "0", "DNNL_DEFAULT_FPMATH_MODE": "ANY"},
            {
                "TF_ENABLE_ONEDNN_OPTS": "0",  # bf16 then has no effect, and is refused
                "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
                "DNNL_DEFAULT_FPMATH_MODE": "BF16",
            },
            ["DNNL_DEFAULT_FPMATH_MODE=ANY"],
        ),
        # What is recorded as fp32 is fp32, whatever the site's module sets.
        (GRACE, False, {"DNNL_DEFAULT_FPMATH_MODE": "BF16"}, {}, ["DNNL_DEFAULT_FPMATH_MODE=BF16"]),
        (GRAVITON_3, False, {"DNNL_DEFAULT_FPMATH_MODE": "strict"}, {}, []),
        (EPYC, True, {"ONEDNN_DEFAULT_FPMATH_MODE": "TF32"}, {}, ["ONEDNN_DEFAULT_FPMATH_MODE=TF32"]),
        (EPYC, True, {}, {}, []),
    ],
)
def test_onednn_is_told_before_tensorflow_starts(
    cpuinfo: str, bf16: bool, given: dict[str, str], left: dict[str, str], replaced: list[str]
) -> None:
    variables = dict(given)
    assert set_onednn_variables(variables, flags_in(cpuinfo), bf16) == replaced
    assert variables == left


def test_onednn_may_be_switched_off() -> None:
    assert is_switched_off({"TF_ENABLE_ONEDNN_OPTS": "False"})
    assert is_switched_off({"TF_ENABLE_ONEDNN_OPTS": "0"})
    assert not is_switched_off({"TF_ENABLE_ONEDNN_OPTS": "1"})
    assert not is_switched_off({})


def test_bf16_is_prepared_only_where_it_may_be_chosen() -> None:
    gpu = Path("/dev/nvidiactl").exists()
    assert may_be_bf16("auto", flags_in(GRACE)) is not gpu
    assert may_be_bf16("bf16", flags_in(EPYC)) is not gpu
    assert not may_be_bf16("fp32", flags_in(GRACE))
    assert not may_be_bf16("auto", flags_in(GRAVITON_2))


@pytest.mark.parametrize(
    ("socket", "core", "place"),
    [
        ("1\n", "7\n", (1, 7)),
        ("-1\n", "3\n", (-1, 3)),  # aarch64 without a table of sockets
        ("0\n", "-1\n", (-1, 5)),  # no core known: each CPU counts as one, not all of them as the same
        ("36\n", "0x1\n", (-1, 5)),
        (None, None, (-1, 5)),
    ],
)
def test_place_of_a_cpu(tmp_path: Path, socket: str | None, core: str | None, place: tuple[int, ...]) -> None:
    topology = tmp_path / "cpu5/topology"
    topology.mkdir(parents=True)
    if socket is not None and core is not None:
        (topology / "physical_package_id").write_text(socket)
        (topology / "core_id").write_text(core)
    assert core_of(5, tmp_path) == place


def test_what_linux_says_of_clocks(tmp_path: Path) -> None:
    """As an Intel node has it whose CPUs 1 and 2 were set otherwise; a virtual machine has no cpufreq."""
    for cpu, (governor, limit, now) in enumerate((("performance", 3500000, 3400000), ("powersave", 2200000, 800000))):
        folder = tmp_path / f"cpu{cpu}/cpufreq"
        folder.mkdir(parents=True)
        files = {"scaling_governor": governor, "scaling_max_freq": limit, "scaling_cur_freq": now}
        for name, value in files.items():
            (folder / name).write_text(f"{value}\n")
    (tmp_path / "cpu2/cpufreq").mkdir(parents=True)  # offline
    assert cpu_clock(tmp_path, "") == CpuClock("performance/powersave", 3500.0, 3400.0)
    two = "cpu MHz\t\t: 2596.132\ncpu MHz\t\t: 1200.0\n"
    assert cpu_clock(tmp_path / "none", two) == CpuClock(None, None, 2596.132)
    assert cpu_clock(tmp_path / "none", GRACE) == CpuClock(None, None, None)


def test_other_changes_are_other_code(tmp_path: Path) -> None:
    """A file of a checkout, changed in two ways."""
    file = tmp_path / "code.py"
    assert commit_of(file) is None

    def git(*words: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True, timeout=60)

    git("init")
    file.write_text("1\n")
    git("add", "code.py")
    git("commit", "-m", "1")
    clean = commit_of(file)
    file.write_text("2\n")
    one = commit_of(file)
    file.write_text("3\n")
    other = commit_of(file)
    assert clean is not None
    assert re.fullmatch("[0-9a-f]{40}", clean)
    assert one is not None
    assert re.fullmatch(f"{clean}-dirty-[0-9a-f]{{12}}", one)
    assert other != one
    file.write_text("2\n")
    assert commit_of(file) == one
