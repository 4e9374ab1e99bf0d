"""MPICH, and Cray MPICH, MVAPICH and ParaStation MPI, which are made from it: they take each other's programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from horovod_flowers.mpi.library import MpiLibrary


@dataclass(frozen=True)
class Mpich(MpiLibrary):
    """MPICH."""

    name = "MPICH"
    abi = "MPICH"
    soname = "libmpi.so.12"
    module = "the module of MPICH"
    srun_types: ClassVar[Sequence[str]] = ("pmi2", "pmix")
    interface_advice = "with UCX_NET_DEVICES=NAME (MPICH with UCX) or FI_TCP_IFACE=NAME (with libfabric)"

    def typed_start(self, ranks: int, oversubscribe: bool = False) -> list[str]:
        """It binds nothing by itself, and lets ranks share cores."""
        return ["mpirun", "-np", str(ranks), "-bind-to", "none"]


@dataclass(frozen=True)
class CrayMpich(Mpich):
    """Cray MPICH, whose ranks Slurm starts, or PALS."""

    name = "Cray MPICH"
    soname = "libmpi_cray.so.12"
    module = "cray-mpich (and cray-mpich-abi for programs that were built for MPICH)"
    srun_types: ClassVar[Sequence[str]] = ("cray_shasta", "pmi2")
    interface_advice = "with MPICH_OFI_NIC_POLICY, or MPICH_OFI_NIC_MAPPING where it is USER"

    def typed_start(self, ranks: int, oversubscribe: bool = False) -> list[str]:
        """By Slurm."""
        words = ["srun", "-n", str(ranks), "--cpu-bind=none"]
        return [*words, "--overcommit"] if oversubscribe else words


@dataclass(frozen=True)
class Mvapich(Mpich):
    """MVAPICH 2 and later."""

    name = "MVAPICH"
    module = "the module of MVAPICH"
    unbound_variables: ClassVar[Mapping[str, str]] = {"MV2_ENABLE_AFFINITY": "0", "MVP_ENABLE_AFFINITY": "0"}
    interface_advice = "with MV2_IBA_HCA=NAME (MVAPICH2) or FI_TCP_IFACE=NAME"


@dataclass(frozen=True)
class ParaStation(Mpich):
    """ParaStation MPI, as on the machines at Jülich."""

    name = "ParaStation MPI"
    module = "the module of ParaStation MPI"
    srun_types: ClassVar[Sequence[str]] = ("pspmi", "pmix", "pmi2")
    interface_advice = "with PSP_NETWORK=ADDRESS"

    def typed_start(self, ranks: int, oversubscribe: bool = False) -> list[str]:
        """By Slurm."""
        words = ["srun", "-n", str(ranks), "--cpu-bind=none"]
        return [*words, "--overcommit"] if oversubscribe else words
