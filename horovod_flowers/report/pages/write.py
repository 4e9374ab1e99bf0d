"""The report's files: pages from templates, pictures, tables and traces, each whole or not at all."""

import base64
import csv
import io
import json
import re
import shlex
from collections.abc import Collection, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2

from horovod_flowers.report.analysis.efficiency_losses import CAUSES
from horovod_flowers.report.analysis.provenance import MOST_COMMANDS
from horovod_flowers.report.analysis.rank_times import chrome_trace
from horovod_flowers.report.analysis.repeat_commands import baseline_of
from horovod_flowers.report.content import Content
from horovod_flowers.report.pages import latex as latex_text
from horovod_flowers.report.pages import wording
from horovod_flowers.report.pages.answer_words import answer_lines
from horovod_flowers.report.pages.evaluation_words import evaluation_sentences
from horovod_flowers.report.pages.narrow_tables import with_column_names
from horovod_flowers.report.pages.predicted import record
from horovod_flowers.report.pages.predicted import sentences as predicted_sentences
from horovod_flowers.report.pages.proposal_notes import LEGEND
from horovod_flowers.report.pages.proposal_table import text_tables
from horovod_flowers.report.pages.proposal_values import as_csv
from horovod_flowers.report.pages.scaling_json import COLUMNS, row, scaling_json
from horovod_flowers.report.pages.single_runs import single_runs, timed_steps_words
from horovod_flowers.report.pages.terminal import compared
from horovod_flowers.report.pages.utilisation_words import reason_lines, share_words, utilisation_row
from horovod_flowers.runtime.files import whole_file, write_whole

PICTURE_FILES = (
    r"(speed-up-\w+|throughput|parts|waterfall|drift|learning|collectives|prediction|"
    r"(ranks|timeline|confusion|calibration)-\d+)\.(svg|png)"
)
_MARKS = (("{%", "%}"), ("{{", "}}"), ("{#", "#}"))
_LATEX_MARKS = (("<%", "%>"), ("<<", ">>"), ("<#", "#>"))
"""Of blocks, values and comments in a template: LaTeX uses braces itself."""
TRACE_FILES = r"timeline-\d+\.json"


def _remove_earlier(folder: Path, pattern: str, written: Collection[str]) -> None:
    """Remove what an earlier report wrote and this one did not: it would be of other runs."""
    for path in folder.iterdir():
        if re.fullmatch(pattern, path.name) and path.name not in written:
            path.unlink()


def write_files(output: Path, content: Content, formats: Sequence[str]) -> list[str]:
    """Write what was asked for; the names of what was written, the page first."""
    from horovod_flowers.report.pages.pictures.all_pictures import pictures_of
    from horovod_flowers.report.pages.pictures.picture import Picture

    pictures: list[Picture] = pictures_of(content) if {"html", "md", "pictures"} & set(formats) else []
    written = []
    traces = [f"traces/timeline-{number}.json" for number in range(1, len(content.detailed) + 1)]
    traces = traces if "trace" in formats else []
    for kind, template, name in (("html", "index.html.jinja", "index.html"), ("md", "report.md.jinja", "report.md")):
        if kind in formats:
            page = _environment(kind).get_template(template).render(**_values(content, pictures, traces))
            write_whole(output / name, with_column_names(page).strip() + "\n" if kind == "html" else spaced(page))
            written.append(name)
    if "csv" in formats:
        write_whole(output / "scaling.csv", _csv(content))
        written.append("scaling.csv")
    if "proposal" in formats:
        values = _values(content, [], [])
        for name in ("proposal.md", "proposal.tex"):
            page = _environment(name.partition(".")[2]).get_template(f"{name}.jinja").render(**values)
            write_whole(output / name, spaced(page) if name == "proposal.md" else page)
        write_whole(output / "proposal.csv", as_csv(content.proposal_tables))
        written += ["proposal.md", "proposal.tex", "proposal.csv"]
    if "json" in formats:
        write_whole(output / "scaling.json", json.dumps(scaling_json(content), indent=1, allow_nan=False) + "\n")
        written.append("scaling.json")
    if "pictures" in formats or "md" in formats:  # report.md shows them
        folder = output / "pictures"
        folder.mkdir(exist_ok=True)
        files = {f"{picture.name}.svg": picture.svg for picture in pictures}
        files |= {f"{picture.name}.png": picture.png for picture in pictures}
        for name, data in files.items():
            with whole_file(folder / name) as temporary:
                temporary.write_bytes(data)
        _remove_earlier(folder, PICTURE_FILES, files)
        written.append("pictures/")
    if "trace" in formats:
        (output / "traces").mkdir(exist_ok=True)
        for name, times in zip(traces, content.detailed, strict=True):
            write_whole(output / name, json.dumps(chrome_trace(times.run), allow_nan=False) + "\n")
        _remove_earlier(output / "traces", TRACE_FILES, [Path(name).name for name in traces])
        written.append("traces/")
    return written


def _environment(kind: str) -> jinja2.Environment:
    """Every value is escaped in the HTML page unless it says that it is HTML; Markdown and LaTeX have filters."""
    block, value, comment = _LATEX_MARKS if kind == "tex" else _MARKS
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("horovod_flowers.report.pages"),
        autoescape=kind == "html",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        block_start_string=block[0],
        block_end_string=block[1],
        variable_start_string=value[0],
        variable_end_string=value[1],
        comment_start_string=comment[0],
        comment_end_string=comment[1],
    )
    environment.filters |= {"tex": latex_text.escaped, "tex_cell": latex_text.cell, "tex_heading": latex_text.heading}
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    environment.filters["md"] = markdown
    environment.filters["one_line"] = lambda text: re.sub(r"[\r\n`]+", " ", str(text))
    return environment


def _values(content: Content, pictures: Sequence[Any], traces: Sequence[str]) -> dict[str, Any]:
    style = Path(__file__).with_name("templates").joinpath("style.css").read_text(encoding="utf-8")
    names = (
        "counted",
        "number",
        "marks",
        "percent",
        "held_out_sentence",
        "seconds",
        "signed_percent",
        "proposal_paragraph",
        "law_words",
        "preferred_words",
        "row_words",
        "step_digits",
        "time_words",
        "with_interval",
        "work_words",
    )
    return {
        "answer": answer_lines(content),
        "baseline_of": baseline_of,
        "causes": CAUSES,
        "command": shlex.join(content.command),
        "compared": compared,
        "content": content,
        "evaluation_sentences": evaluation_sentences,
        "missing": wording.MISSING,
        "most_commands": MOST_COMMANDS,
        "no_peak": list(reason_lines(content)),
        "of_peak": any(found.share is not None for found in content.utilisations.values()),
        "share_words": share_words,
        "transfers": any(found.transfer is not None for found in content.pop.values()),
        "utilisation_row": utilisation_row,
        "emulated": wording.EMULATED,
        "oversubscribed": wording.OVERSUBSCRIBED,
        "pictures": pictures,
        "no_proposal": wording.NO_PROPOSAL,
        "proposal_legend": LEGEND,
        "proposal_tables": [text_tables(table) for table in content.proposal_tables],
        "style": style,
        "predicted_row": record,
        "single_runs": single_runs(content),
        "timed_steps": timed_steps_words,
        "listed": wording.listed,
        "predicted_sentences": predicted_sentences,
        "threads": lambda point: "/".join(str(count) for count in dict(point.work)["threads"]),
        "traces": traces,
        "unlike": wording.UNLIKE,
        "version": metadata.version("horovod-flowers"),
        "which": any(point.which for point in content.points),
        **{name: getattr(wording, name) for name in names},
    }


def markdown(text: object) -> str:
    """Text that a Markdown reader shows as it is: no markup, no HTML, no new line, no end of a table's cell."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|!~])", r"\\\1", line)


def spaced(page: str) -> str:
    """The Markdown page with one blank line between blocks of different kinds, which a reader else takes for one."""
    lines: list[str] = []
    fenced, kind = False, ""
    for line in page.splitlines():
        if not fenced and not line.strip():
            continue
        before, kind = kind, "code" if fenced else _kind(line)
        apart = not fenced and (kind != before or kind in ("heading", "image", "quote", "text"))
        lines += ["", line] if apart and lines else [line]
        if line.startswith("```"):
            fenced, kind = not fenced, "code"
    return "\n".join(lines) + "\n"


def _kind(line: str) -> str:
    kinds = {"|": "table", "- ": "list", "#": "heading", ">": "quote", "!": "image", "```": "code"}
    return next((kind for start, kind in kinds.items() if line.startswith(start)), "text")


def _csv(content: Content) -> str:
    table = io.StringIO()
    columns = (*COLUMNS, "emulated") if content.emulated else COLUMNS
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: value for name, value in row(content, point).items() if name in columns} for point in content.points
    )
    return table.getvalue()
