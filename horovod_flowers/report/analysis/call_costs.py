"""The call models of a study's measurements (scaling_model/calibration.py)."""

from collections.abc import Sequence

from horovod_flowers.config.emulated_network import EmulatedNetwork
from horovod_flowers.runlog.collectives import Collectives
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.scaling_model.calibration import Calibration, calibrate

Kind = tuple[tuple[str, ...], int, bool, str, str]
"""Processors, threads of a rank, whether ranks shared cores, Horovod's cycle and Open MPI's settings, and what was
emulated."""


def kind_of(record: Collectives) -> Kind:
    """What records must have in common to be fitted together."""
    cycle = {name: value for name, value in record.horovod_settings.items() if name == "HOROVOD_CYCLE_TIME"}
    settings = {**cycle, **record.mpi_settings}
    emulated = "" if record.emulated is None else links_of(network_of(record))
    return (
        tuple(sorted({model or "" for model in record.cpu_models})),
        record.threads,
        record.oversubscribed and record.emulated is None,
        repr(sorted(settings.items())),
        emulated,
    )


def network_of(record: Collectives) -> EmulatedNetwork | None:
    """The emulated one that calls were measured on; None where they were on the ranks' own."""
    return None if record.emulated is None else record.emulated.network


def real_ones(records: Sequence[Collectives]) -> list[Collectives]:
    """The measurements of the ranks' own network."""
    return [record for record in records if record.emulated is None]


def alike(one: EmulatedNetwork | None, other: EmulatedNetwork | None) -> bool:
    """Whether two networks differ in the number of their nodes at most."""
    return links_of(one) == links_of(other)


def links_of(network: EmulatedNetwork | None) -> str:
    """What makes two networks alike."""
    if network is None:
        return ""
    return repr((network.ranks_per_node, network.mbit, network.shrink, network.mtu))


def calibrations_of(records: Sequence[Collectives]) -> dict[Kind, Calibration]:
    """A call model for each kind of measurement; kinds whose records hold too little are left out."""
    kinds: dict[Kind, list[Collectives]] = {}
    for record in records:
        kinds.setdefault(kind_of(record), []).append(record)
    found = {}
    for kind, members in kinds.items():
        try:
            found[kind] = calibrate(members)
        except UserError:
            continue
    return found
