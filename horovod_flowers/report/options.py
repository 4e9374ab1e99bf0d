"""What the report command takes."""

import os
from dataclasses import dataclass
from typing import Literal

from horovod_flowers.config.options import check_limits, option
from horovod_flowers.report.analysis.claims import Check, parse_check
from horovod_flowers.report.prediction.options import PredictionConfig
from horovod_flowers.runtime.errors import UserError

PAGES = ("html", "md", "csv", "json", "proposal", "pictures", "trace")
EXPORTS = ("tidy", "extra-p", "figures", "mlperf", "hparams")
"""What other tools read (exports/)."""
FORMATS = (*PAGES, *EXPORTS)
_WITH_PROPOSAL = ("html", "md", "json", "proposal")
MOST_PLANNED_RUNS = 1_000_000


@dataclass(frozen=True)
class ReportConfig:
    """Options of the report command."""

    runs_dir: str = option("runs", "folders of runs, or single runs, separated by commas")
    output: str = option("report", "folder to write into")
    format: str = option(
        ",".join((*PAGES, "tidy")),
        "what to write, separated by commas: html (index.html), md (report.md), csv, json (scaling.*), proposal "
        "(proposal.md, .tex, .csv), pictures (SVG and PNG), trace (Chrome traces for Perfetto), tidy (runs.csv, a row "
        "a run, and datapackage.json); for other tools extra-p (JSON Lines), figures (figures.txt, for ReFrame and "
        "JUBE), mlperf (MLPerf's log lines), hparams (TensorBoard)",
    )
    baseline: str | None = option(
        None, "name, or pattern such as 'strong-2ranks-*', of the runs to take ratios against (default: one rank)"
    )
    compare: tuple[str, ...] | None = option(
        None,
        "two names or patterns of runs to set side by side; a difference is claimed where the intervals do not overlap",
        words=2,
    )
    allow_differences: bool = option(
        False, "take ratios of runs that differ in more than one factor, too; figures are marked"
    )
    min_efficiency: float = option(0.75, "parallel efficiency that a site wants, for the allocation proposal")
    planned_runs: int | None = option(
        None,
        "runs that are planned: the tables for an allocation proposal give their hours, too",
        at_least=1,
        at_most=MOST_PLANNED_RUNS,
        limits=f"give a whole number from 1 to {MOST_PLANNED_RUNS}",
    )
    target_accuracy: float | None = option(
        None, "validation accuracy to tell the time to (default: the highest multiple of 0.05 that all runs reached)"
    )
    check: str | None = option(
        None,
        "conditions for CI, separated by commas, such as min-efficiency=0.8@4 (at 4 ranks) or "
        "min-speed-up=1.5@2:tensor; status 1 where one is not kept",
    )
    strict: Literal["auto", "yes", "no"] = option(
        "auto",
        "of --check: pass only with an interval (six runs of each side) and nothing that speaks against the figures; "
        "auto: yes where the variable CI is set",
    )
    predict: str | None = option(
        None,
        "numbers of ranks to predict, separated by commas, in a section of its own (python -m "
        "horovod_flowers.predict_scaling has more options)",
    )
    network: str | None = option(
        None, "of the prediction, between nodes: rate and latency such as 100Gbit,2us, or a kind such as 25gbe"
    )
    ranks_per_node: int | None = option(None, "of the prediction (default: as in the runs)", at_least=1, at_most=4096)
    from_emulated: bool = option(False, "of the prediction: start from emulated runs; it is marked as emulated")
    open: bool = option(False, "open the report in a browser")

    def __post_init__(self) -> None:
        for word in self.formats:
            if word not in FORMATS:
                raise UserError(f"format names {word!r}: allowed are {', '.join(FORMATS)}, separated by commas")
        if not 0 < self.min_efficiency <= 2:
            raise UserError(f"min_efficiency is {self.min_efficiency:g}: give a share such as 0.75")
        if self.target_accuracy is not None and not 0 < self.target_accuracy <= 1:
            raise UserError(f"target_accuracy is {self.target_accuracy:g}: give a share such as 0.6")
        if self.compare is not None and not all(self.compare):
            raise UserError("compare names '': give two names or patterns of runs")
        if self.open and "html" not in self.formats:
            raise UserError("open needs the HTML report: leave out --open, or add html to --format")
        _ = self.checks
        check_limits(self)
        if self.planned_runs is not None and not set(self.formats) & set(_WITH_PROPOSAL):
            raise UserError(
                f"planned_runs is of a table that format {self.format} does not have: add one of "
                f"{', '.join(_WITH_PROPOSAL)} to --format, or leave out --planned-runs"
            )
        of_prediction = (self.network, self.ranks_per_node, self.from_emulated or None)
        if self.predict is None and any(value is not None for value in of_prediction):
            raise UserError(
                "network, ranks_per_node and from_emulated are of a prediction: add --predict, or leave them out"
            )
        _ = self.prediction

    @property
    def prediction(self) -> PredictionConfig | None:
        """What to predict; None where that is not asked for. Raises UserError."""
        if self.predict is None:
            return None
        return PredictionConfig(
            ranks=self.predict, network=self.network, ranks_per_node=self.ranks_per_node,
            min_efficiency=self.min_efficiency, from_emulated=self.from_emulated,
        )  # fmt: skip

    @property
    def formats(self) -> list[str]:
        """What to write."""
        return [word.strip() for word in self.format.split(",")]

    @property
    def folders(self) -> list[str]:
        """Where runs are looked for."""
        return [word for word in self.runs_dir.split(",") if word]

    @property
    def strict_checks(self) -> bool:
        """Whether checks need an interval."""
        return bool(os.environ.get("CI")) if self.strict == "auto" else self.strict == "yes"

    @property
    def checks(self) -> list[Check]:
        """The conditions. Raises UserError for one that cannot be read."""
        return [] if self.check is None else [parse_check(word) for word in self.check.split(",")]
