"""Run every point of one or more job files that is not there yet, in random order, and record what became of each.

    python -m horovod_flowers.study jobs/strong.yaml --dry-run           every command, without running it
    python -m horovod_flowers.study jobs/strong.yaml jobs/weak.yaml
    python -m horovod_flowers.study jobs/strong.yaml --ranks 1,2 -- --data.source tf_flowers
    python -m horovod_flowers.study jobs/emulated.yaml --emulate         on virtual nodes of this machine

Words behind -- are options of train, for every point. A point that fails is recorded and the next one is run; started
again, the study runs what is missing.
"""

import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from horovod_flowers.config.command_line import parse
from horovod_flowers.config.options import check_limits, option, positional, rank_counts
from horovod_flowers.emulation.launcher import VirtualNodes, check_can_emulate, on_virtual_nodes
from horovod_flowers.launch.job import Ending
from horovod_flowers.launch.launchers import Launcher, LauncherChoice, choose_launcher, launcher_options
from horovod_flowers.launch.ranks_job import run_ranks
from horovod_flowers.runlog.run_hold import holder_of
from horovod_flowers.runlog.study_attempts import Attempt, PointFiles, held_points, scheduler_job
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import Stopped, UserError
from horovod_flowers.runtime.exit import EXIT_FAILURE, EXIT_STOPPED, error_boundary
from horovod_flowers.runtime.files import writable_folder
from horovod_flowers.runtime.machine import utc_now
from horovod_flowers.study.file import read_study
from horovod_flowers.study.point import Point
from horovod_flowers.study.points import in_order, points_of
from horovod_flowers.study.profiles import measure_profiles, missing_profiles

SECONDS_BETWEEN_LOOKS = 1.0
"""At a job that is waited for."""


@dataclass(frozen=True)
class StudyConfig:
    """Options of the study command."""

    files: tuple[str, ...] = positional("job files, such as jobs/strong.yaml")
    dry_run: bool = option(False, "print every command that would be run, and run none")
    list: bool = option(False, "print number, ranks, name and state of every point")
    point: int | None = option(None, "run only the point of this number, as --list gives it (for job arrays)")
    ranks: str | None = option(None, "numbers of ranks, separated by commas, instead of the job files'")
    fit: bool = option(False, "leave out points of more ranks than there is room for")
    repetitions: int | None = option(None, "runs of each combination, instead of the job files'", at_least=1)
    runs_dir: str = option("runs", "folder that holds the runs")
    preflight: bool = option(True, "run the preflight first, at the largest number of ranks (--no-preflight)")
    emulate: bool = option(
        False, "run the points on the virtual network that the job file describes, on this machine (docs/emulation.md)"
    )
    launcher: LauncherChoice = option(
        "auto", "program that starts the ranks (default: $FLOWERS_LAUNCHER, else mpirun, or what there is)"
    )
    hosts: str | None = option(
        None,
        "nodes and ranks on each, such as n1:2,n2:2 (default: $FLOWERS_HOSTS, else the scheduler's, else this one)",
    )
    oversubscribe: bool = option(False, "allow more ranks than cores; runs are marked (or FLOWERS_OVERSUBSCRIBE=1)")

    def __post_init__(self) -> None:
        if self.ranks is not None:
            rank_counts(self.ranks)
        check_limits(self)
        if self.emulate and (self.hosts is not None or self.launcher not in ("auto", VirtualNodes.name)):
            given = f"launcher is {self.launcher}" if self.hosts is None else "hosts are given"
            raise UserError(
                f"emulate and {given}: virtual nodes are of this machine, and mpirun starts their ranks: leave out one"
            )
        if self.emulate and self.oversubscribe:
            raise UserError(
                "emulate and oversubscribe are given: virtual nodes have room for as many ranks as the job file says: "
                "leave out --oversubscribe, and raise nodes or ranks_per_node of its network"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.study`."""
    with error_boundary("horovod_flowers.study"):
        words = list(sys.argv[1:] if arguments is None else arguments)
        split = words.index("--") if "--" in words else len(words)
        config = parse(StudyConfig, "horovod_flowers.study", __doc__, words[:split])
        points = read_points(config, words[split + 1 :])
        runs_dir = Path(config.runs_dir)
        if config.list:
            for number, point in enumerate(points):
                print(f"{number}\t{point.ranks}\t{point.name}\t{state_of(point, runs_dir)}")
            return
        launchers = Launchers(config)
        missing = [point for point in chosen(points, config.point) if state_of(point, runs_dir) != "finished"]
        if config.fit:
            missing = fitting(missing, launchers)
        look = config.preflight and not config.emulate  # which judges real links, and cores that are not shared
        if config.dry_run:
            print_commands(missing, launchers, look)
            return
        for point in missing:
            launchers.of(point).check(point.ranks, point.command_words())
        say(f"study: {len(points)} points, {len(missing)} to run")
        if missing:
            writable_folder(runs_dir, "choose another folder with --runs-dir")
            if config.emulate:
                check_can_emulate()
                measure_profiles(missing)
            if look:
                look_first(missing, launchers)
            run_points(missing, launchers, runs_dir)


def read_points(config: StudyConfig, more_options: Sequence[str]) -> list[Point]:
    """The points of all job files, in the order in which they are run. Raises UserError."""
    points, order_seed = list[Point](), 0
    for file in config.files:
        study = read_study(Path(file))
        if config.emulate and study.network is None and study.command is not None:
            raise UserError(
                f"emulate is given, and job file {file} has a command: emulation is for train, since a script of one's "
                "own computes, for which the cores of one machine are too few; leave out --emulate"
            )
        if config.emulate != (study.network is not None):
            raise UserError(
                f"job file {file} has a network, which is emulated: add --emulate, or leave it out to run on real nodes"
                if study.network is not None
                else f"emulate is given, and job file {file} has no network: add one, such as "
                "'network: {nodes: 4, mbit: 200}'"
            )
        if config.ranks is not None:
            study = msgspec.structs.replace(study, ranks=tuple(rank_counts(config.ranks)))
        if config.repetitions is not None:
            study = msgspec.structs.replace(study, repetitions=config.repetitions)
        order_seed += study.order_seed
        points += points_of(study, Path(file), config.runs_dir, more_options)
    (name, times), *_ = Counter(point.name for point in points).most_common(1)
    if times > 1:
        raise UserError(f"two points are called {name}: give each job file a name of its own, and no value twice")
    return in_order(points, order_seed)


def chosen(points: Sequence[Point], number: int | None) -> list[Point]:
    """All points, or the one of that number. Raises UserError where there is none of it."""
    if number is None:
        return list(points)
    if not 0 <= number < len(points):
        raise UserError(f"point is {number}: the study has the points 0 to {len(points) - 1}, see --list")
    return [points[number]]


class Launchers:
    """What starts each point: the launcher of the options, or of its virtual nodes."""

    def __init__(self, config: StudyConfig) -> None:
        """Raises UserError where there is no such launcher here."""
        self._chosen = None if config.emulate else choose_launcher(config.launcher, config.hosts, config.oversubscribe)

    def of(self, point: Point) -> Launcher:
        """That of a point."""
        if self._chosen is not None:
            return self._chosen
        assert point.network is not None
        return on_virtual_nodes(point.network, launcher_options(os.environ))


def fitting(points: Sequence[Point], launchers: Launchers) -> list[Point]:
    """The points that there is room for; says how many are left out."""
    fit = [point for point in points if launchers.of(point).fits(point.ranks)]
    if len(fit) < len(points):
        most = max(launchers.of(point).slots.total for point in points)
        print(
            f"study: {len(points) - len(fit)} points left out, of more than the {most} ranks that fit",
            file=sys.stderr,
            flush=True,
        )
    return fit


def state_of(point: Point, runs_dir: Path) -> str:
    """finished, failed, stopped, unfinished or missing.

    Raises UserError where a finished run of the point's name is of other options: it must not stand for it.
    """
    if point.finished(runs_dir):
        return "finished"
    attempts = PointFiles(runs_dir, point.name).attempts()
    if attempts and attempts[-1].outcome != "finished":
        return attempts[-1].outcome
    return "unfinished" if point.begun(runs_dir) else "missing"


def command_of(point: Point, launchers: Launchers) -> list[str]:
    """The command that runs a point."""
    return launchers.of(point).command(point.ranks, point.command_words())


def preflight(points: Sequence[Point], launcher: Launcher) -> tuple[int, list[str]]:
    """Ranks and command that look at the machine, with the options of the point with most ranks."""
    most = max(points, key=lambda point: point.ranks)
    words = [sys.executable, "-m", "horovod_flowers.preflight", *most.preflight_words()]
    return most.ranks, words + (["--oversubscribe"] if launcher.oversubscribe else [])


def print_commands(points: Sequence[Point], launchers: Launchers, look: bool) -> None:
    """What would be run, each as a line for a shell."""
    for profile in missing_profiles(points):
        print(shlex.join(profile.command()))
    if points and look:
        launcher = launchers.of(points[0])
        print(shlex.join(launcher.command(*preflight(points, launcher))))
    for point in points:
        print(shlex.join(command_of(point, launchers)))


def look_first(points: Sequence[Point], launchers: Launchers) -> None:
    """Run the preflight; end with its status where it finds a problem, or is asked to stop."""
    launcher = launchers.of(points[0])
    ending = run_ranks(launcher, *preflight(points, launcher), own=True)
    if ending.asked_to_stop:
        raise Stopped(f"stopped on request ({ending.asked_to_stop}) before the first point")
    if ending.status != 0:
        say("study: the preflight found problems: fix them, or add --no-preflight to run anyway")
        if ending.given_up:
            say(f"study: {ending.given_up}")
        raise SystemExit(ending.exit_status)


def run_points(points: Sequence[Point], launchers: Launchers, runs_dir: Path) -> None:
    """Run the points one after the other.

    Raises Stopped where a signal asked for it, SystemExit(1) at the end where points failed.
    """
    outcomes = Counter[str]()
    for number, point in enumerate(points, 1):
        label = f"study: {number}/{len(points)} {point.name}"
        if wait_for_cores(point, runs_dir, label) and state_of(point, runs_dir) == "finished":
            say(f"{label}: is finished by now")
            outcomes["finished"] += 1
            continue
        outcome = run_point(point, launchers, runs_dir, label)
        outcomes[outcome] += 1
        if outcome == "stopped":
            raise Stopped(
                f"stopped on request with {len(points) - number} points not begun: rerun the same command to continue"
            )
    if elsewhere := outcomes["running elsewhere"]:
        say(f"study: {elsewhere} of {len(points)} points are running elsewhere, and were not waited for")
    if failed := outcomes["failed"]:
        say(f"study: {failed} of {len(points)} points failed; rerun the study to retry them")
        raise SystemExit(EXIT_FAILURE)
    say(f"study: {outcomes['finished'] if elsewhere else 'all'} of {len(points)} points finished")


Outcome: TypeAlias = Literal["finished", "failed", "stopped", "running elsewhere"]


def run_point(point: Point, launchers: Launchers, runs_dir: Path, label: str) -> Outcome:
    """Run one point and record what became of it."""
    files = PointFiles(runs_dir, point.name)
    with files.locked_log() as log:
        if log is None:
            say(f"{label}: is running elsewhere, skipped")
            return "running elsewhere"
        point.prepare(runs_dir)
        say(f"{label}: started")
        started, utc = time.monotonic(), utc_now()
        launcher, words = launchers.of(point), point.command_words()
        command = launcher.command(point.ranks, words)
        limit = point.timeout_seconds
        ending = run_ranks(launcher, point.ranks, words, output=log, timeout_seconds=limit, own=True)
        seconds = time.monotonic() - started
        outcome, reason = judged(ending, point, files, runs_dir)
        files.add(
            Attempt(
                outcome=outcome,
                reason=reason,
                status=ending.exit_status,
                elapsed_seconds=seconds,
                started_utc=utc,
                job=scheduler_job(),
                command=command,
            )
        )
    say(f"{label}: {outcome} after {seconds:.1f} s" + (f": {reason} (output in {files.log})" if reason else ""))
    return "stopped" if ending.asked_to_stop else outcome


def wait_for_cores(point: Point, runs_dir: Path, label: str) -> bool:
    """Wait while a job on this machine is at this point, or has outlived its study: whether there was one.

    Two jobs on the same cores would both be measured wrongly. Raises UserError where it goes on for longer than the
    point may take.
    """
    deadline, waited = time.monotonic() + point.timeout_seconds, False
    while holder := holder_of_cores(point, runs_dir):
        name, who = holder
        if not waited:
            say(f"{label}: waits for {name}, which has been running {who}")
        waited = True
        if time.monotonic() >= deadline:
            raise UserError(
                f"{name} has been running {who}, and is still there after {point.timeout_seconds / 60:g} minutes: end "
                "it, or wait for it"
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return waited


def holder_of_cores(point: Point, runs_dir: Path) -> tuple[str, str] | None:
    """The point that a job here is at, if it has to end before this one begins, and since when and by whom."""
    for files, holder in held_points(runs_dir):
        if holder.shares_cores and (files.point == point.name or holder.left_its_job_behind):
            return files.point, str(holder)
    # A rank outlives its mpirun by a moment, in which the log is nobody's, and the run still its own.
    found = holder_of(runs_dir / point.name)
    if found is not None and found.holder is not None and found.shares_cores:
        return point.name, found.holder.since
    return None


def judged(
    ending: Ending, point: Point, files: PointFiles, runs_dir: Path
) -> tuple[Literal["finished", "failed", "stopped"], str | None]:
    """The outcome of an attempt, and the reason where it did not finish."""
    if ending.status == 0:
        failure = point.conclude(runs_dir)
        return ("finished", None) if failure is None else ("failed", failure)
    if ending.status == EXIT_STOPPED or ending.asked_to_stop:
        return "stopped", ending.given_up or f"asked to stop ({ending.asked_to_stop or 'its ranks were'})"
    if ending.given_up:
        return "failed", ending.given_up
    if ending.timed_out:
        return "failed", f"took more than {point.timeout_seconds / 60:g} minutes"
    return "failed", f"status {ending.exit_status}: {files.reason()}"


if __name__ == "__main__":
    main()
