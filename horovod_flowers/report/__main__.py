"""Read runs and report how they scale: pages, tables, pictures, and what may be said of them.

    python -m horovod_flowers.report
    python -m horovod_flowers.report --runs-dir /scratch/me/runs --output /scratch/me/report
    python -m horovod_flowers.report --compare 'strong-2ranks-tensor-*' 'strong-2ranks-sharded-*'
    python -m horovod_flowers.report --check min-efficiency=0.8@4

docs/report.md says how each figure is computed. A ratio is given only against a baseline of the same work; runs with
gaps are listed as left out.
"""

import webbrowser
from collections.abc import Sequence
from pathlib import Path

from horovod_flowers.config.command_line import parse
from horovod_flowers.report.analysis.absent_runs import AbsentRun, absent_points, left_out_run, options_of
from horovod_flowers.report.analysis.run_summary import RunSummary, summarise
from horovod_flowers.report.content import gather
from horovod_flowers.report.options import ReportConfig
from horovod_flowers.runlog.collectives import Collectives, read_collectives
from horovod_flowers.runlog.machine_peak import MachinePeak, read_peak
from horovod_flowers.runlog.reading.folders import LeftOut, printable, runs_in
from horovod_flowers.runlog.records import Environment, Result
from horovod_flowers.runlog.step_profile import StepProfile, read_step_profile
from horovod_flowers.runlog.study_attempts import failures
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import EXIT_FAILURE, error_boundary
from horovod_flowers.runtime.files import writable_folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.report`."""
    with error_boundary("horovod_flowers.report"):
        config = parse(ReportConfig, "horovod_flowers.report", __doc__, arguments)
        folders = [Path(folder) for folder in config.folders]
        runs, absent = whole_runs(folders)
        left_out = [(run.name, run.reason) for run in absent]
        names = [*(run.name for run in runs), *(run.name for run in absent)]
        absent += [run for folder in folders for run in absent_points(folder, names)]
        collectives, unreadable = read_measurements(folders)
        profiles, unread = read_profiles(folders)
        peaks, damaged = read_peaks(folders)
        left_out += [*unreadable, *unread, *damaged]
        content = gather(config, runs, collectives, left_out, failed_points(folders), profiles, absent, peaks)
        output = writable_folder(Path(config.output), "choose another folder with --output")
        # Templates and pictures take a second that a usage error need not.
        from horovod_flowers.report.exports.write import exported, write_exports
        from horovod_flowers.report.pages.terminal import print_content
        from horovod_flowers.report.pages.write import write_files

        exports = exported(content, config.formats)
        written = write_files(output, content, config.formats) + write_exports(output, exports)
        print_content(content)
        for sentence in (sentence for export in exports for sentence in export.told):
            say(sentence)
        say(f"written: {output}/{', '.join(written)}")
        if config.open:
            webbrowser.open((output / "index.html").resolve().as_uri())
        if not all(verdict.passed for verdict in content.verdicts):
            raise SystemExit(EXIT_FAILURE)


def read_runs(folders: Sequence[Path]) -> tuple[list[RunSummary], list[tuple[str, str]]]:
    """All whole runs, and name and reason of those left out. Raises UserError where none is whole."""
    runs, absent = whole_runs(folders)
    return runs, [(run.name, run.reason) for run in absent]


def whole_runs(folders: Sequence[Path]) -> tuple[list[RunSummary], list[AbsentRun]]:
    """All whole runs, and those left out. Raises UserError where none is whole."""
    for folder in folders:
        if not folder.is_dir():
            name = printable(str(folder))
            raise UserError(
                f"there is no folder {name}: run 'python -m horovod_flowers.train' first, or give --runs-dir"
            )
    runs, left_out = list[RunSummary](), list[AbsentRun]()
    for found in runs_in(folders):
        if isinstance(found, LeftOut):
            left_out.append(left_out_run(found.path, found.name, found.reason))
        elif (why := no_measurement(found.environment, found.result)) is not None:
            left_out.append(AbsentRun(found.name, why, options_of(found.config, found.ranks)))
        else:
            runs.append(summarise(found))
    if not runs:
        listed = "; ".join(f"{run.name}: {run.reason}" for run in left_out) or "it is empty"
        names = ", ".join(printable(str(folder)) for folder in folders)
        raise UserError(f"no finished run in {names} ({listed}): run 'python -m horovod_flowers.train' first")
    return runs, left_out


def no_measurement(environment: Environment, result: Result) -> str | None:
    """Why the times of a whole run are none of what it stands for; None where they are."""
    if environment.emulated is None:
        return None
    gauge = result.core_gauge
    problem = "nobody knows how long its ranks waited for cores" if gauge is None else gauge.problem
    return None if problem is None else f"emulated, and no measurement: {problem}"


def read_measurements(folders: Sequence[Path]) -> tuple[list[Collectives], list[tuple[str, str]]]:
    """What collective calls cost, as studies measured it beside their runs, and the files that cannot be read."""
    records, left_out = [], []
    for path in (path for folder in folders for path in sorted((folder / ".collectives").glob("*.json"))):
        try:
            record = read_collectives(path)
            if record.core_gauge is not None and record.core_gauge.problem is not None:
                raise UserError(f"emulated, and no measurement: {record.core_gauge.problem}")
            records.append(record)
        except (OSError, UserError) as error:
            left_out.append((printable(path.name), printable(str(error))))
    return records, left_out


def read_profiles(folders: Sequence[Path]) -> tuple[list[StepProfile], list[tuple[str, str]]]:
    """Measured steps of one rank that studies keep beside their runs, and the files that cannot be read."""
    records, left_out = [], []
    for path in (path for folder in folders for path in sorted((folder / ".step_profiles").glob("*.json"))):
        try:
            records.append(read_step_profile(path))
        except (OSError, UserError) as error:
            left_out.append((printable(path.name), printable(str(error))))
    return records, left_out


def read_peaks(folders: Sequence[Path]) -> tuple[list[MachinePeak], list[tuple[str, str]]]:
    """What ranks compute at most, as studies measured it beside their runs, and the files that cannot be read."""
    records, left_out = [], []
    for path in (path for folder in folders for path in sorted((folder / ".peaks").glob("*.json"))):
        try:
            records.append(read_peak(path))
        except (OSError, UserError) as error:
            left_out.append((printable(path.name), printable(str(error))))
    return records, left_out


def failed_points(folders: Sequence[Path]) -> list[tuple[str, str]]:
    """Points of studies whose last attempt failed."""
    found = [point for folder in folders for point in failures(folder)]
    return [(printable(name), printable(reason)) for name, reason in found]


if __name__ == "__main__":
    main()
