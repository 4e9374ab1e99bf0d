"""MPICH, and Cray MPICH, MVAPICH and ParaStation MPI, which are made from it: they take each other's programs."""

import ctypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from horovod_flowers.mpi.library import MpiLibrary

OF_PMI = frozenset(("PMI_FD", "PMI_PORT", "PMI_RANK", "PMI_ID", "PMI_CONTROL_PORT"))
"""By which it and what is made from it find their launcher."""
OF_PMIX = frozenset(("PMIX_RANK", "PMIX_NAMESPACE"))


@dataclass(frozen=True)
class Mpich(MpiLibrary):
    """MPICH."""

    name = "MPICH"
    abi = "MPICH"
    soname = "libmpi.so.12"
    module = "the module of MPICH"
    srun_types: ClassVar[Sequence[str]] = ("pmi2", "pmix")
    setting_prefixes: ClassVar[tuple[str, ...]] = ("MPIR_CVAR_", "MPICH_", "FI_", "UCX_")
    not_settings: ClassVar[tuple[str, ...]] = ("FI_PROVIDER_PATH",)
    start_note = (
        "MPICH talks through libfabric here (MPIR_CVAR_CH4_NETMOD=ofi): with UCX, its default, ranks on nodes with "
        "many network devices fail to start under srun --mpi=pmi2, which takes addresses of up to 1,024 bytes; mpirun "
        "has no such limit, and for UCX under srun set MPIR_CVAR_CH4_NETMOD=ucx and UCX_NET_DEVICES=NAME"
    )
    interface_advice = "with UCX_NET_DEVICES=NAME (MPICH with UCX) or FI_TCP_IFACE=NAME (with libfabric)"

    def is_alone(self, file: Path | None, environment: Mapping[str, str]) -> bool:
        """Where only PMIx is offered, by Open MPI's mpirun or srun --mpi=pmix, and it was built without."""
        if type(self) is not Mpich or environment.keys() & OF_PMI or not environment.keys() & OF_PMIX:
            return False
        try:
            return file is not None and not hasattr(ctypes.CDLL(str(file)), "PMIx_Init")
        except OSError:
            return False

    def start_variables(self, told: str, environment: Mapping[str, str]) -> Mapping[str, str]:
        """libfabric in place of UCX where Slurm's pmi2 connects nodes.

        Slurm's plugin takes no request of more than 1,024 bytes from it (handle_pmi1_cmd in
        src/plugins/mpi/pmi2/pmi1.c, "TODO: read until newline"). UCX' addresses can be longer, the more network devices
        a node has: ranks then end in MPI_Init or wait there for ever. Those of libfabric have 64 bytes.
        """
        by_slurm = {"PMI_FD", "PMI_RANK", "SLURM_PROCID"} <= environment.keys() and "MPI_LOCALNRANKS" not in environment
        several_nodes = environment.get("SLURM_STEP_NUM_NODES", "1") != "1"
        device = re.search(r"Device\s*:\s*ch4:([\w ,]+)", told)
        both = device is not None and {"ucx", "ofi"} <= {*re.findall(r"\w+", device[1])}
        chosen = environment.keys() & {"UCX_NET_DEVICES", "UCX_TLS"}
        return {"MPIR_CVAR_CH4_NETMOD": "ofi"} if by_slurm and several_nodes and both and not chosen else {}

    @property
    def unbound_advice(self) -> str:
        """Hydra binds nothing where nothing is said."""
        return f"mpirun -bind-to none, {super().unbound_advice}"

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
    setting_prefixes: ClassVar[tuple[str, ...]] = (*Mpich.setting_prefixes, "MV2_", "MVP_")
    interface_advice = "with MV2_IBA_HCA=NAME (MVAPICH2) or FI_TCP_IFACE=NAME"


@dataclass(frozen=True)
class ParaStation(Mpich):
    """ParaStation MPI, as on the machines at Jülich."""

    name = "ParaStation MPI"
    module = "the module of ParaStation MPI"
    srun_types: ClassVar[Sequence[str]] = ("pspmi", "pmix", "pmi2")
    setting_prefixes: ClassVar[tuple[str, ...]] = (*Mpich.setting_prefixes, "PSP_")
    interface_advice = "with PSP_NETWORK=ADDRESS"

    def typed_start(self, ranks: int, oversubscribe: bool = False) -> list[str]:
        """By Slurm."""
        words = ["srun", "-n", str(ranks), "--cpu-bind=none"]
        return [*words, "--overcommit"] if oversubscribe else words
