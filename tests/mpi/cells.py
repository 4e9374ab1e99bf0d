"""What is tried with an MPI and a launcher: to train, a study, an early end, a killed rank, another MPI's launcher.

Each is one job of two ranks, in a folder of its own, and either works or is refused in one sentence. Anything else (a
hang, a traceback, a status that says nothing, a process that is left) is a failure.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from horovod_flowers.runlog.reading.run import RecordedRun, read_run
from tests.conftest import ANY_LINK, TINY, Ended, clean_environment
from tests.mpi.environments import MpiEnvironment

LIMIT_SECONDS = 300
STOPPED_EARLY = 75

# One thread a rank, so that sums are added up in the same order whatever carries them.
OPTIONS = ("--global-batch", "16", "--threads", "1", "--strategy", "allreduce")
STUDY_OPTIONS: dict[str, Any] = {
    "data": {"image_size": 32, "synthetic_images": 120, "validation_fraction": 0.2},
    "epochs": 2,
    "global_batch": 16,
    "threads": 1,
    "shard_above": 100000,
}


class Failure(Exception):
    """A job that neither worked nor was refused; the message holds what it printed."""


@dataclass(frozen=True)
class Cell:
    """What became of one thing that was tried."""

    refusal: str | None = None
    """The sentence; None where it worked."""
    losses: tuple[float, ...] = ()
    """Of a training, after each epoch."""


@dataclass
class Place:
    """A folder to start jobs of one MPI and one launcher in."""

    mpi: MpiEnvironment
    launcher: str
    """mpirun, mpiexec, horovodrun or srun."""
    folder: Path
    allocation: Sequence[str] = ()
    """Words that give a Slurm allocation to the command behind them."""
    variables: dict[str, str] = field(default_factory=dict)
    """Beside those of the environment."""

    def environment(self) -> dict[str, str]:
        """Of commands here."""
        more = {"FLOWERS_OVERSUBSCRIBE": "1", "FLOWERS_LAUNCHER": self.launcher, **ANY_LINK, **self.variables}
        return clean_environment() | self.mpi.variables | more

    def on_two_ranks(self, *words: str | Path) -> list[str]:
        """A command of ours on two ranks, started as job scripts start it."""
        start = [*self.allocation, "python", "-m", "horovod_flowers.launcher", "--ranks", "2", "--", "python", "-m"]
        return [str(word) for word in (*start, *words)]

    def training(self, name: str, *options: str | Path) -> list[str]:
        """A tiny training on two ranks."""
        return self.on_two_ranks("horovod_flowers.train", *self.tiny(name, *options))

    def tiny(self, name: str, *options: str | Path) -> list[str]:
        """Options of a tiny training."""
        words = ("--data.prepared-dir", self.folder.parent / "prepared", *TINY, *OPTIONS, "--name", name, *options)
        return [str(word) for word in words]

    def run(self, words: Sequence[str | Path]) -> Ended:
        """A command to its end, which leaves no process behind. Raises Failure."""
        with self.job(words) as job:
            return job.end()

    @contextlib.contextmanager
    def job(self, words: Sequence[str | Path]) -> Iterator["RunningJob"]:
        """Start a command; whatever is left of it is killed."""
        log = self.folder / "output"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [str(word) for word in words],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        job = RunningJob(process, log)
        try:
            yield job
        finally:
            for left in job.processes():
                with contextlib.suppress(psutil.Error):
                    left.kill()
            process.wait()

    def recorded(self, name: str) -> RecordedRun:
        """A run that has ended."""
        return read_run(self.folder / "runs" / name)


@dataclass(frozen=True)
class RunningJob:
    """A command that runs, and all that it has started: everything whose working directory is its folder."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """Of it and its ranks, zombies left out."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(self.log.parent) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def of_module(self, module: str) -> list[psutil.Process]:
        """The processes that are `python -m MODULE`, the oldest first."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[1:3] == ["-m", module]:
                    found.append(process)
        return sorted(found, key=lambda process: process.create_time())

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Until it is true. Raises Failure where the command ends first, or it takes too long."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not condition():
            if self.process.poll() is not None:
                raise Failure(f"ended with status {self.process.returncode} before {what}\n{self.output}")
            if time.monotonic() > deadline:
                raise Failure(f"no {what} within {LIMIT_SECONDS} s\n{self.output}")
            time.sleep(0.02)

    def end(self, limit_seconds: float = LIMIT_SECONDS) -> Ended:
        """Its end, and that of every process of it."""
        try:
            status = self.process.wait(limit_seconds)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"still there after {limit_seconds} s\n{self.output}") from error
        deadline = time.monotonic() + 10
        while left := self.processes():
            if time.monotonic() > deadline:
                raise Failure(f"ended with status {status}, and left {left}\n{self.output}")
            time.sleep(0.1)
        return Ended(status if status >= 0 else 128 - status, self.output, "")


def refusal_in(ended: Ended) -> str:
    """The sentence with which a job was refused. Raises Failure where there is not just one, or more than sentences."""
    said = dict.fromkeys(re.findall(r"^horovod_flowers\.\w+: (?:error: )?(.+)$", ended.output, flags=re.MULTILINE))
    if ended.status == 0 or "Traceback" in ended.output or len(said) != 1:
        raise Failure(f"status {ended.status}, and not one sentence:\n{ended.output}")
    return next(iter(said))


def started_or_refused(place: Place, words: Sequence[str]) -> Cell | Ended:
    """A job that ended well, or the cell of its refusal."""
    ended = place.run(words)
    return ended if ended.status == 0 else Cell(refusal_in(ended))


def train(place: Place) -> Cell:
    """A training of two epochs."""
    ended = started_or_refused(place, place.training("t", "--epochs", "2"))
    if isinstance(ended, Cell):
        return ended
    return Cell(losses=losses_of(place.recorded("t")))


def losses_of(run: RecordedRun) -> tuple[float, ...]:
    """Mean training loss of each epoch."""
    return tuple(loss for epoch in run.epochs if (loss := epoch.training_loss) is not None)


def study(place: Place) -> Cell:
    """A study of one and two ranks with its preflight, and the report's figures of it."""
    data = STUDY_OPTIONS["data"] | {"prepared_dir": str(place.folder.parent / "prepared")}
    file = {"name": "s", "ranks": [1, 2], "repetitions": 1, "precisions": ["fp32"]}
    (place.folder / "s.yaml").write_text(json.dumps(file | {"options": STUDY_OPTIONS | {"data": data}}))
    ended = started_or_refused(place, [*place.allocation, "python", "-m", "horovod_flowers.study", "s.yaml"])
    if isinstance(ended, Cell):
        return ended
    reported = place.run(["python", "-m", "horovod_flowers.report", "--format", "json"])
    if reported.status != 0:
        raise Failure(f"no report\n{ended.output}\n{reported.output}")
    one, two = json.loads((place.folder / "report" / "scaling.json").read_text())["points"]
    if (one["ranks"], two["ranks"]) != (1, 2) or not two["speed_up"]:
        raise Failure(f"no speed-up of two ranks against one in {one} and {two}")
    (run,) = (place.folder / "runs").glob("s-2ranks-*")
    return Cell(losses=losses_of(read_run(run)))


SLOW = ("--model.name", "tests.parallel.slow_model:slow", "--epochs", "50")


def in_the_second_epoch(place: Place, job: RunningJob, name: str) -> None:
    """Wait until it trains, and has something to lose."""
    steps = place.folder / "runs" / name / "steps" / "rank-00000.jsonl"
    job.wait_for(lambda: steps.exists() and steps.read_bytes().count(b'"epoch":2') >= 2, "step of the second epoch")


def ending_early(place: Place) -> Cell:
    """SIGUSR1 to the launcher, as batch scripts pass it on: a checkpoint, and status 75."""
    with place.job(place.training("e", *SLOW)) as job:
        try:
            in_the_second_epoch(place, job, "e")
        except Failure:
            return Cell(refusal_in(job.end()))
        launcher, *_ = job.of_module("horovod_flowers.launcher")  # and what it has just forked
        launcher.send_signal(signal.SIGUSR1)
        ended = job.end(60)
    checkpoints = place.folder / "runs" / "e" / "checkpoints"
    if ended.status != STOPPED_EARLY or not (checkpoints / "last.safetensors").exists():
        raise Failure(f"status {ended.status}, not {STOPPED_EARLY}, or no checkpoint\n{ended.output}")
    return Cell()


def killed_rank(place: Place) -> Cell:
    """SIGKILL to a rank: all end, with a status that is not 0, and whoever started them says what happened."""
    with place.job(place.training("k", *SLOW)) as job:
        try:
            in_the_second_epoch(place, job, "k")
        except Failure:
            return Cell(refusal_in(job.end()))
        ranks = job.of_module("horovod_flowers.train")
        if len(ranks) != 2:
            raise Failure(f"{ranks} are not two ranks\n{job.output}")
        ranks[1].kill()
        ended = job.end(60)
    # By us, by Intel MPI with status 255, or with a status of another rank, beside what the launcher says of the first.
    said = re.search("a rank was killed|KILLED BY SIGNAL: 9|a rank was ended by a signal", ended.output)
    if ended.status == 0 or not said or "Traceback" in ended.output:
        raise Failure(f"status {ended.status} after a rank was killed\n{ended.output}")
    return Cell()


def wrong_launcher(place: Place, other: MpiEnvironment) -> Cell:
    """Ranks of this MPI started by another's mpirun: refused, never N jobs of one rank."""
    # By its path: mpirun puts its own folder before the PATH.
    words = [str(place.mpi.python), "-m", "horovod_flowers.train", *place.tiny("w", "--epochs", "1")]
    ended = place.run([str(other.folder / "bin" / "mpirun"), "-np", "2", *words])
    if (place.folder / "runs" / "w" / "result.json").exists():
        raise Failure(f"trained under another MPI's mpirun\n{ended.output}")
    return Cell(refusal_in(ended))


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return Path(os.path.realpath(folder))
