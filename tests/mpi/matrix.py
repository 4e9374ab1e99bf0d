"""Try every MPI under every launcher, and write what became of it as tables in Markdown: `python -m tests.mpi.matrix`.

    for mpi in openmpi5 mpich intel; do ./flowers --mpi $mpi run true; done     # build them, once
    ./flowers run python -m tests.mpi.matrix --output matrix.md                 # about a quarter of an hour on 2 cores

The MPIs whose environments are built are tried: .venv and .venv-NAME, or NAME in the folder $FLOWERS_ENVIRONMENTS; with
.venv-tensorflow-VERSION also Open MPI 4 with that TensorFlow (`--mpi tensorflow-VERSION`). --slurm starts a Slurm of
virtual nodes for srun (root, Debian). --speed also runs the flower CNN on one and two ranks, the MPIs taking turns.
Status 1 where anything neither worked nor was refused in a sentence.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from horovod_flowers.mpi.identify import installed_library
from tests.mpi import cells
from tests.mpi.cells import Cell, Failure, Place
from tests.mpi.environments import MpiEnvironment, built_environments

COLUMNS = ("train", "study", "SIGUSR1", "killed rank", "another MPI's mpirun")
LAUNCHERS = ("mpirun", "mpiexec", "horovodrun")
SRUN_TYPES = ("pmix", "pmi2", "")
"""Of srun --mpi=; the last is the site's default."""


@dataclass(frozen=True)
class Row:
    """An MPI under a launcher."""

    mpi: MpiEnvironment
    launcher: str
    srun_type: str | None = None

    @property
    def title(self) -> str:
        if self.srun_type is None:
            return f"`{self.launcher}`"
        return f"`srun --mpi={self.srun_type}`" if self.srun_type else "`srun`, the site's default"


@dataclass
class Results:
    """What became of each cell, and what each sentence was."""

    failures: list[str] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)
    losses: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def text_of(self, title: str, tried: Callable[[], Cell]) -> str:
        """Try it; the cell's text."""
        begun = time.monotonic()
        try:
            cell = tried()
        except Failure as failure:
            self.failures.append(f"{title}: {failure}")
            text = "**fails**"
        else:
            if cell.losses:
                self.losses[title] = cell.losses
            if cell.refusal is None:
                text = "works"
            else:
                text = f"refused ({self.refusals.setdefault(cell.refusal, len(self.refusals) + 1)})"
        print(f"{title}: {text} ({time.monotonic() - begun:.0f} s)", file=sys.stderr, flush=True)
        return text


def rows_of(environments: Mapping[str, MpiEnvironment], slurm: bool) -> list[Row]:
    """Every MPI with each launcher that it, or Slurm, has."""
    rows = []
    for mpi in environments.values():
        rows += [Row(mpi, launcher) for launcher in LAUNCHERS if mpi.has(launcher)]
        rows += [Row(mpi, "srun", srun_type) for srun_type in SRUN_TYPES if slurm]
    return rows


def try_row(row: Row, environments: Mapping[str, MpiEnvironment], results: Results, folder: Path,
            slurm: Mapping[str, str]) -> list[str]:  # fmt: skip
    """The texts of its cells."""
    place = Place(row.mpi, row.launcher, cells.fresh(folder / f"{row.mpi.name} {row.launcher} {row.srun_type or ''}"))
    if row.srun_type is not None:
        place.allocation = ("salloc", "--quiet", "-N", "2", "--ntasks-per-node", "1")
        place.variables = {**slurm, "FLOWERS_SRUN_MPI": row.srun_type}
    library = installed_library(str(row.mpi.python))
    another = environments.get("mpich" if library is not None and library.abi == "Open MPI" else "openmpi")
    of_columns: list[Callable[[], Cell] | None] = [
        lambda: cells.train(place),
        lambda: cells.study(place),
        lambda: cells.ending_early(place),
        lambda: cells.killed_rank(place),
        # Whose ranks are started directly: the launchers of ours take the one on the PATH.
        (lambda: cells.wrong_launcher(place, another)) if another and row.launcher == "mpirun" else None,
    ]
    return [
        "–" if tried is None else results.text_of(f"{row.mpi.title}, {row.title}, {column}", tried)
        for column, tried in zip(COLUMNS, of_columns, strict=True)
    ]


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [header, ["---"] * len(header), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def loss_lines(losses: Mapping[str, tuple[float, ...]]) -> str:
    """What the trainings learned, which has to be the same wherever they ran. Raises Failure where it is not."""
    reference = next(iter(losses.values()))
    for title, found in losses.items():
        if len(found) != len(reference) or any(abs(a - b) > 1e-6 * b for a, b in zip(found, reference, strict=True)):
            raise Failure(f"{title}: losses {found}, not {reference}")
    said = " and ".join(f"{loss:.6f}" for loss in reference)
    return f"The {len(losses)} trainings on two ranks ended their epochs with the same losses: {said}.\n"


SPEED_OPTIONS = ("--data.synthetic-images", "1280", "--data.validation-fraction", "0.1", "--global-batch", "64",
                 "--threads", "1", "--epochs", "1", "--no-checkpoint")  # fmt: skip


def speed_table(
    environments: Mapping[str, MpiEnvironment], folder: Path, repetitions: int, precision: str = "auto"
) -> str:
    """The flower CNN on one and two ranks of each MPI, which take turns: medians of the steps of the slowest rank.

    The last column has the steps of one rank, turn by turn, as multiples of those of the first row.
    """
    seconds: dict[tuple[str, int], list[float]] = {}
    for repetition in range(repetitions):
        for name, mpi in environments.items():
            for ranks in (1, 2):
                place = Place(mpi, "mpirun", cells.fresh(folder / f"speed {name} {ranks} {repetition}"))
                words = ["python", "-m", "horovod_flowers.launcher", "--ranks", str(ranks), "--", "python", "-m"]
                options = ("--data.prepared-dir", str(folder / "prepared"), "--precision", precision, "--name", "v")
                ended = place.run([*words, "horovod_flowers.train", *SPEED_OPTIONS, *options])
                if ended.status != 0:
                    raise Failure(f"{mpi.title}, {ranks} rank(s)\n{ended.output}")
                found = place.run(["python", "-m", "horovod_flowers.report", "--format", "json"])
                (point,) = json.loads((place.folder / "report" / "scaling.json").read_text())["points"]
                seconds.setdefault((name, ranks), []).append(point["median_step_seconds"])
                print(f"{mpi.title}, {ranks} rank(s): {point['median_step_seconds']:.3f} s a step", file=sys.stderr)
                assert found.status == 0, found.output
    lines, first = [], seconds[next(iter(environments)), 1]
    for name, mpi in environments.items():
        one, two = (statistics.median(seconds[name, ranks]) for ranks in (1, 2))
        of_runs = ", ".join(f"{a / b:.2f}" for a, b in zip(seconds[name, 1], seconds[name, 2], strict=True))
        against_first = ", ".join(f"{a / b:.2f}" for a, b in zip(seconds[name, 1], first, strict=True))
        medians = [f"{one * 1000:.0f}", f"{two * 1000:.0f}", f"{one / two:.2f}"]
        lines.append([mpi.title, *medians, of_runs, against_first])
    header = ["MPI", "step on 1 rank, ms", "on 2 ranks, ms", "speed-up (medians)", f"of the {repetitions} turns"]
    header.append("1 rank against the first row's")
    return table(header, lines)


@contextlib.contextmanager
def slurm_of_two_nodes(wanted: bool) -> Iterator[dict[str, str]]:
    """Variables of a Slurm of virtual nodes; none where it is not wanted."""
    if not wanted:
        yield {}
        return
    from tests.slurm.conftest import running_cluster

    with running_cluster(2, "host") as variables:
        yield variables


def main() -> None:
    """Entry point of `python -m tests.mpi.matrix`."""
    parser = argparse.ArgumentParser(prog="tests.mpi.matrix", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="file for the tables (default: printed)")
    parser.add_argument("--mpi", action="append", help="try this one only, may be given several times")
    parser.add_argument(
        "--launcher", action="append", choices=(*LAUNCHERS, "srun"), help="under this one only, likewise"
    )
    parser.add_argument("--slurm", action="store_true", help="under srun too, on virtual nodes")
    parser.add_argument("--speed", type=int, default=0, metavar="TURNS", help="measure speed-ups, so many times")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of --speed")
    parser.add_argument("--only-speed", action="store_true", help="without the cells; on an otherwise idle machine")
    arguments = parser.parse_args()
    environments = built_environments()
    chosen = {name: mpi for name, mpi in environments.items() if arguments.mpi is None or name in arguments.mpi}
    results, lines = Results(), []
    with (
        tempfile.TemporaryDirectory(prefix="flowers-matrix-") as name,
        slurm_of_two_nodes(arguments.slurm) as slurm,
    ):
        folder = Path(name)
        rows = [] if arguments.only_speed else rows_of(chosen, arguments.slurm)
        for row in rows if arguments.launcher is None else [row for row in rows if row.launcher in arguments.launcher]:
            lines.append([row.mpi.title, row.title, *try_row(row, environments, results, folder, slurm)])
        written = table(["MPI", "launcher", *COLUMNS], lines) if lines else ""
        written += "".join(f"\n{number}. {sentence}" for sentence, number in results.refusals.items()) + "\n\n"
        try:
            written += loss_lines(results.losses) if results.losses else ""
            if arguments.speed:
                written += "\n" + speed_table(chosen, folder, arguments.speed, arguments.precision)
        except Failure as failure:
            results.failures.append(str(failure))
    if arguments.output:
        arguments.output.write_text(written, encoding="utf-8")
    else:
        print(written)
    if results.failures:
        raise SystemExit("\n\n".join(results.failures))


if __name__ == "__main__":
    main()
