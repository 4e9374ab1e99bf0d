"""What the report says of published scaling tables: throughput by numbers of processors, given to it as runs.

python -m benchmarks.published_tables

Prints the section of docs/report.md; --write puts it there. A published table has one figure for each number of
processors, so that there is no interval, and steps are taken to be equal.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.synthetic_studies import run_of
from horovod_flowers.report.content import gather
from horovod_flowers.report.options import ReportConfig
from horovod_flowers.report.pages.answer_words import answer_lines
from horovod_flowers.report.pages.wording import law_words, number, preferred_words
from horovod_flowers.runtime.files import write_whole

DOCUMENT = Path(__file__).parent.parent / "docs/report.md"
BEGIN, END = "<!-- published tables -->", "<!-- end of published tables -->"
STEPS = 20
SAID = ("Best measured", "How far it scales", "Next")


@dataclass(frozen=True)
class Table:
    """A published table."""

    title: str
    source: str
    scaling: str
    batch: int
    """Of a processor (weak), or of all (strong)."""
    unit: str
    rates: dict[int, float]

    def images_per_step(self, ranks: int) -> int:
        """Over all processors."""
        return self.batch * ranks if self.scaling == "weak" else self.batch


TABLES = (
    Table(
        "ResNet-50 on 64 K80s, Amazon EC2, 2017",
        "TensorFlow's guide, 'Benchmarks', Details for Amazon EC2 Distributed: batch 64 a GPU, synthetic data",
        "weak",
        64,
        "images/s",
        {1: 52.4, 8: 378, 16: 751, 32: 1388, 64: 2744},
    ),
    Table(
        "ResNet-50 on 32 V100s, Horovod 0.19, 2020",
        "OneFlow's DLPerf: TensorFlow 1.15, fp32, batch 128 a GPU, 8 GPUs a node",
        "weak",
        128,
        "images/s",
        {1: 362.44, 4: 1391.28, 8: 2721.98, 16: 5099.42, 32: 9514.64},
    ),
    Table(
        "SPEC SDM91 on a SPARCcenter 2000",
        "Gunther 2007, 'Guerrilla Capacity Planning', chapter 5, and the R package usl",
        "strong",
        64,
        "scripts/h",
        {1: 64.9, 18: 995.9, 36: 1652.4, 72: 1853.2, 108: 1828.9, 144: 1775.0, 216: 1702.2},
    ),
)


def section(table: Table) -> str:
    """Markdown: the table, and what the report says of it."""
    runs = []
    for place, (ranks, rate) in enumerate(table.rates.items()):
        runs.append(run_of(table, ranks, 1, place, np.full(STEPS, table.images_per_step(ranks) / rate)))
    content = gather(ReportConfig(), runs, [], [], [])
    lines = [f"**{table.title}** ({table.source}; {table.scaling} scaling)", ""]
    lines += [f"| processors | {table.unit} | speed-up | efficiency | serial fraction |", "|--:|--:|--:|--:|--:|"]
    for point in sorted(content.points, key=lambda point: point.ranks):
        cells = (number(point.speed_up, 2), number(point.efficiency, 3), number(point.serial_fraction, 4))
        lines.append(f"| {point.ranks} | {table.rates[point.ranks]:g} | {' | '.join(cells)} |")
    said = [f"{title}: {sentence}" for title, sentence in answer_lines(content) if title in SAID]
    for fits in content.fits:
        said += [f"{fit.law}: {law_words(fit)}" for fit in fits.fits]
        said.append(preferred_words(fits.preferred))
    for sentences in content.doubts.values():
        said += [f"doubtful: {sentence}" for sentence in sentences]
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in dict.fromkeys(said))])


def in_document(text: str) -> str:
    """The text of docs/report.md with the section as it is now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{every_section()}\n\n{END}{after}"


def every_section() -> str:
    """Markdown of all tables."""
    return "\n\n".join(section(table) for table in TABLES)


def main() -> None:
    """Print the section, or write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--write", action="store_true", help="put the section into docs/report.md")
    if parser.parse_args().write:
        write_whole(DOCUMENT, in_document(DOCUMENT.read_text(encoding="utf-8")))
    else:
        print(every_section())


if __name__ == "__main__":
    main()
