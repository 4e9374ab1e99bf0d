"""What the command takes."""

from dataclasses import dataclass
from typing import Literal

from horovod_flowers.config.choices import INDEPENDENT, STRATEGIES
from horovod_flowers.config.options import check_limits, option, rank_counts
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.scaling_model.network import Network, parse_network
from horovod_flowers.scaling_model.simgrid.topology import SPELLING

FORMATS = ("json", "csv", "picture")


@dataclass(frozen=True)
class PredictionConfig:
    """Options of the command."""

    runs_dir: str = option("runs", "folders of runs, or single runs, separated by commas")
    ranks: str | None = option(
        None,
        "numbers of ranks to predict, separated by commas (default: twice as many as were measured, then doubling, up "
        "to 1,024)",
    )
    network: str | None = option(
        None,
        "between nodes: rate and latency such as 100Gbit,2us, or a kind such as 25gbe or hdr-infiniband (default: "
        "fitted to the collective calls that a study measured)",
    )
    in_node: str | None = option(None, "within a node, as --network (default: fitted; else as between nodes)")
    ranks_per_node: int | None = option(None, "ranks of a node (default: as in the runs)", at_least=1, at_most=4096)
    scaling: Literal["auto", "strong", "weak"] = option(
        "auto", "strong: the global batch stays; weak: that of a rank does; auto: as in the runs"
    )
    strategies: str | None = option(
        None, "strategies to predict, separated by commas (default: all that the model can be divided by)"
    )
    profile: str | None = option(
        None, "file of a step profile (default: the one beside the runs, .step_profiles/*.json, that is of their work)"
    )
    engine: Literal["formula", "simgrid"] = option(
        "formula", "what tells the seconds of calls: formulas, or a simulation by SimGrid, which has to be installed"
    )
    topology: str = option("star", f"of the network, for SimGrid: {SPELLING}")
    min_efficiency: float = option(
        0.75,
        "parallel efficiency below which more ranks mean paying for waiting",
        above=0,
        at_most=2,
        limits="give a share such as 0.75",
    )
    from_emulated: bool = option(False, "start from emulated runs, too; everything is marked as emulated")
    output: str = option("prediction", "folder to write into")
    format: str = option(",".join(FORMATS), "what to write, separated by commas: json, csv, picture (SVG and PNG)")

    def __post_init__(self) -> None:
        check_limits(self)
        _ = self.counts
        for word in self.strategy_names or ():
            if word == INDEPENDENT:
                raise UserError("strategies names 'none', whose ranks do not communicate: there is nothing to predict")
            if word not in STRATEGIES:
                allowed = ", ".join(name for name in STRATEGIES if name != INDEPENDENT)
                raise UserError(f"strategies names {word!r}: allowed are {allowed}, separated by commas")
        for word in self.formats:
            if word not in FORMATS:
                raise UserError(f"format names {word!r}: allowed are {', '.join(FORMATS)}, separated by commas")
        _ = self.networks
        if self.in_node is not None and self.network is None:
            raise UserError("in_node is given without network: give both, or leave both to the measured calls")
        if self.topology != "star" and self.engine != "simgrid":
            raise UserError(f"topology is {self.topology!r}, which the formulas do not know: add --engine simgrid")

    @property
    def counts(self) -> list[int] | None:
        """The numbers of ranks, in order; None where they are left to the runs."""
        return None if self.ranks is None else sorted(set(rank_counts(self.ranks)))

    @property
    def strategy_names(self) -> list[str] | None:
        """Those to predict; None for all."""
        return None if self.strategies is None else [word.strip() for word in self.strategies.split(",")]

    @property
    def formats(self) -> list[str]:
        """What to write."""
        return [word.strip() for word in self.format.split(",")]

    @property
    def folders(self) -> list[str]:
        """Where runs are looked for."""
        return [word for word in self.runs_dir.split(",") if word]

    @property
    def networks(self) -> tuple[Network | None, Network | None]:
        """Between nodes, and within one. Raises UserError for what is no network."""
        between = None if self.network is None else parse_network(self.network)
        return between, None if self.in_node is None else parse_network(self.in_node, "in_node")
