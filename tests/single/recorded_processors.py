"""/proc/cpuinfo of processors that are not here, as others have published it (first processor of each)."""

GRACE = """\
processor\t: 0
BogoMIPS\t: 2000.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop \
sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm sb paca pacg dcpodp sve2 sveaes svepmull svebitperm \
svesha3 svesm4 flagm2 frint svei8mm svebf16 i8mm bf16 dgh bti
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd4f
CPU revision\t: 0

"""
"""NVIDIA Grace: linux-arm-kernel, 2025, on the console of 6.16-rc4."""

GRAVITON_3 = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop \
sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs paca pacg dcpodp svei8mm svebf16 i8mm bf16 dgh rng
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd40
CPU revision\t: 1

"""
"""AWS Graviton 3: linux-perf-users, 2022, on perf's tests of SVE."""

GRAVITON_2 = """\
processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""
"""AWS Graviton 2: a test of the Suneido project."""

EPYC = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9654 96-Core Processor
flags\t\t: fpu vme sse2 avx2 avx512f avx512_bf16
bugs\t\t: sysret_ss_attrs spectre_v1

"""
"""Of x86, shortened."""

UNKNOWN_CORE = "processor\t: 0\nFeatures\t: fp asimd bf16\nCPU implementer\t: 0x99\nCPU part\t: 0xABC\n"
VIRTUAL_X86 = (
    "processor\t: 0\nmodel name\t: QEMU Virtual CPU version 2.5+\nvmx flags\t: avx512_bf16\nflags\t\t: fpu sse2\n"
)
