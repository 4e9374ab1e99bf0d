"""What the figures rest on: factors varied and held, runs counted, failed and left out, and how to make them again."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from horovod_flowers.config.command_line import build, flags
from horovod_flowers.config.options import Effect, flat_options, names_of
from horovod_flowers.config.run import RunConfig
from horovod_flowers.config.script import ScriptConfig, is_script
from horovod_flowers.mpi.identify import library_from_text
from horovod_flowers.mpi.open_mpi import OpenMpi
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.report.analysis.run_factors import values_of
from horovod_flowers.report.analysis.run_summary import RunSummary

MOST_COMMANDS = 40


@dataclass(frozen=True)
class Provenance:
    """See the module."""

    varied: dict[str, list[str]]
    held: dict[str, str]
    runs: int
    first_started_utc: str
    last_started_utc: str
    commands: list[tuple[str, int]]
    """Each different command without its --name, --seed and --runs-dir, and how many runs it made."""


def provenance_of(runs: Sequence[RunSummary]) -> Provenance:
    """The provenance of all runs that figures rest on."""
    values = values_of(runs)
    started = sorted(run.environment.started_utc for run in runs)
    return Provenance(
        varied={name: sorted(found, key=_by_number) for name, found in values.items() if len(found) > 1},
        held={name: next(iter(found)) for name, found in values.items() if len(found) == 1},
        runs=len(runs),
        first_started_utc=started[0],
        last_started_utc=started[-1],
        commands=commands_of(runs),
    )


def _by_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def commands_of(runs: Sequence[RunSummary]) -> list[tuple[str, int]]:
    """The commands that make these runs again, each with the number of runs, those of most ranks last."""
    counted: dict[str, int] = {}
    for run in sorted(runs, key=lambda run: (run.ranks, run.name)):
        command = shlex.join(script_command(run) if is_script(run.config) else train_command(run))
        counted[command] = counted.get(command, 0) + 1
    return list(counted.items())


def script_command(run: RunSummary) -> list[str]:
    """The command of a script's run. It leaves a record only where a study starts it."""
    words = build(ScriptConfig, run.config).words(run.ranks)
    return [*start_words(run, run.ranks), *words]


def train_command(run: RunSummary) -> list[str]:
    """The command that makes a run like this one: its options, as far as they differ from the defaults."""
    defaults = flat_options(asdict(RunConfig()))
    left_out = names_of(RunConfig, Effect.FOLDER)
    differing = {
        name: value
        for name, value in flat_options(run.config).items()
        if name not in left_out and value != defaults.get(name)
    }
    return [*start_words(run, run.ranks), "python", "-m", "horovod_flowers.train", *flags(differing)]


def start_words(run: RunSummary, ranks: int) -> list[str]:
    """What starts so many ranks of the run's own MPI on a machine; Open MPI's words for a run without MPI."""
    told = run.environment.mpi_library
    library = OpenMpi("") if told is None else library_from_text(told)
    return library.typed_start(ranks)


def baseline_command(point: Point) -> str:
    """The command that makes a point's one-rank baseline, beside the run that lacks it."""
    if is_script(point.runs[0].config):
        return "python -m horovod_flowers.study JOBFILE --ranks 1"
    emulated = point.runs[0].environment.emulated
    if emulated is not None and emulated.network is not None:  # which a study makes
        return "python -m horovod_flowers.study JOBFILE --ranks 1 --emulate"
    work, defaults = dict(point.work), flat_options(asdict(RunConfig()))
    words = [*start_words(point.runs[0], 1)[:3], "python", "-m", "horovod_flowers.train"]
    flag = "--global-batch" if work["scaling"] == "strong" else "--per-rank-batch"
    words += [flag, str(work.get("global_batch", work.get("per_rank_batch"))), "--threads", str(work["threads"][0])]
    words += ["--precision", work["precision"]]
    # What the words above say, or belongs to another number of ranks.
    left_out = names_of(RunConfig, Effect.FOLDER, Effect.RESOLVED, Effect.STRATEGY)
    differing = {
        name: value
        for name, value in flat_options(point.runs[0].config).items()
        if name not in left_out and value != defaults.get(name)
    }
    return shlex.join([*words, *flags(differing)])
