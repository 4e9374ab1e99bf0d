"""What the tests share: a way to start commands and ranks that cannot hang, and small data prepared once."""

import contextlib
import functools
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import pytest

from horovod_flowers.emulation.waiting import variables_of_waiting, waiting_library
from horovod_flowers.runtime.errors import UserError
from tests.parallel.commands_in_one_job import Command

PROJECT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

# A job that takes longer than this hangs: it is killed, all ranks with it. Generous: machines are shared and slow.
TIMEOUT_SECONDS = 420

# Small enough for seconds a run, large enough for the flower CNN's three poolings. In fp32, so that what any machine
# computes can be compared; its Dense layer of 262,144 weights counts as large.
TINY = (
    *("--data.image-size", "32", "--data.synthetic-images", "120", "--data.validation-fraction", "0.2"),
    *("--precision", "fp32", "--shard-above", "100000"),
)

# Of each file's tests one after the other. Only the order depends on them: `pytest --record-seconds` writes them anew.
SECONDS = Path(__file__).with_name("seconds.json")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="tests/single but for what is slow, and what is marked quick")
    parser.addoption("--record-seconds", action="store_true", help=f"write what each file took into {SECONDS.name}")


def file_of(nodeid: str) -> str:
    return nodeid.split("::", maxsplit=1)[0]


def scope_of(nodeid: str) -> str:
    """What runs in one process: a file's tests, since they share runs; all of those that share the one Slurm."""
    return "tests/slurm" if nodeid.startswith("tests/slurm/") else file_of(nodeid)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slurm's tests first, since they wait more than they work; then the longest files, so that processes end together.

    A file whose seconds are not known counts as long. Slurm's stay in their order: some wait for what others began.
    """
    seconds = json.loads(SECONDS.read_text(encoding="utf-8"))
    seconds["tests/slurm"] = math.inf
    items.sort(key=lambda item: -seconds.get(scope_of(item.nodeid), sys.float_info.max))
    if config.getoption("--quick"):
        quick: list[pytest.Item] = []
        rest: list[pytest.Item] = []
        for item in items:
            single = item.nodeid.startswith("tests/single/") and not item.get_closest_marker("slow")
            (quick if single or item.get_closest_marker("quick") else rest).append(item)
        config.hook.pytest_deselected(items=rest)
        items[:] = quick


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out scopes, in the order of the tests."""
    from xdist.scheduler import LoadScopeScheduling

    class ByScope(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    return ByScope(config, log)


class SecondsOfFiles:
    """Adds up what the tests of each file take."""

    def __init__(self) -> None:
        self._found: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._found[file_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self) -> None:
        known = json.loads(SECONDS.read_text(encoding="utf-8"))
        known |= {file: round(seconds, 1) for file, seconds in self._found.items()}
        there = {file: seconds for file, seconds in sorted(known.items()) if (PROJECT / file).exists()}
        SECONDS.write_text(json.dumps(there, indent=0) + "\n", encoding="utf-8")


class FairCores:
    """Lets jobs of several tests share the cores fairly, where this user may say so (root).

    Ranks that wait give up their core all the time (sched_yield). Linux' autogroups then let processes of another
    session starve beside them: one rank of the flower CNN beside four ranks that wait for each other trained 5 images
    per second with autogroups, and 13 without (Linux 6.18, 2 cores).
    """

    _SETTING = Path("/proc/sys/kernel/sched_autogroup_enabled")

    def __init__(self) -> None:
        self._before: str | None = None

    def pytest_sessionstart(self) -> None:
        if os.access(self._SETTING, os.W_OK):
            with contextlib.suppress(OSError):  # a container may show what it does not let change
                before = self._SETTING.read_text()
                self._SETTING.write_text("0\n")
                self._before = before

    def pytest_sessionfinish(self) -> None:
        if self._before is not None:
            self._SETTING.write_text(self._before)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record-seconds") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SecondsOfFiles())
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(FairCores())


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


FOREIGN = (
    *("OMPI_", "PMIX_", "PMI_", "SLURM_", "HOROVOD_", "PALS_", "HYDI_", "MPI_LOCAL", "MPIRUN_", "MV2_COMM_WORLD"),
    *("MVP_COMM_WORLD", "JSM_", "FLUX_", "ALPS_"),
)
"""How variables of launchers and schedulers begin."""


def clean_environment() -> dict[str, str]:
    """This environment without what a launcher or scheduler left in it, and with root allowed where we are root."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    if os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    python_path = [str(PROJECT), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PATH": f"{BIN}:{environment['PATH']}", "PYTHONPATH": os.pathsep.join(python_path)}


def run_command(
    words: Sequence[str | Path],
    cwd: Path,
    timeout: float = TIMEOUT_SECONDS,
    variables: dict[str, str] | None = None,
) -> Ended:
    """Run a command to its end, or kill it with everything that it started."""
    process = subprocess.Popen(
        [str(word) for word in words],
        cwd=cwd,
        env=clean_environment() | (variables or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except BaseException as error:  # also pytest's own limit and Ctrl-C: no rank may outlive its test
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            pytest.fail(f"{words} took more than {timeout} s\n{stdout[-2000:]}\n{stderr[-4000:]}")
        raise
    return Ended(process.returncode, stdout, stderr)


def start_command(
    words: Sequence[str | Path], cwd: Path, output: IO[Any], variables: dict[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a command in a session of its own, as in a terminal of its own, with all that it prints in one file."""
    return subprocess.Popen(
        [str(word) for word in words],
        cwd=cwd,
        env=clean_environment() | (variables or {}),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=answer_the_keyboard,  # noqa: PLW1509
    )


def answer_the_keyboard() -> None:
    """Ignore neither Ctrl-C nor Ctrl-\\, as tests do that a shell has started in the background."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


ANY_LINK = {"FLOWERS_LEAST_BANDWIDTH": "0", "FLOWERS_MOST_LATENCY_MS": "100000"}
"""For a preflight beside other tests, which take its ranks' cores in the middle of a call."""


WAITING_MICROSECONDS = 300
"""A rank that waits sleeps for so long at a time: as long as a message between ranks of this machine may be late."""


@functools.cache
def where_waiting_ranks_sleep() -> tuple[str, ...]:
    """Options of mpirun. Ranks that wait call sched_yield all the time, and take from two cores that all tests share
    what other ranks and other tests could compute with; with the library that emulated jobs load they sleep instead.
    None where there is no compiler to build it with."""
    try:
        variables = variables_of_waiting(str(waiting_library()), {"FLOWERS_WAITING_US": str(WAITING_MICROSECONDS)})
    except UserError:
        return ()
    return tuple(word for name, value in variables.items() for word in ("-x", f"{name}={value}"))


def mpirun(ranks: int, *words: str | Path) -> list[str | Path]:
    """A command on that many ranks of this machine, more than it has cores if need be."""
    ranks_share_cores = ("--oversubscribe", "--bind-to", "none", *where_waiting_ranks_sleep())
    return ["mpirun", "-np", str(ranks), *ranks_share_cores, *words]


@dataclass(frozen=True)
class Workplace:
    """A folder to train in, with prepared images that all tests share."""

    folder: Path
    prepared: Path

    def train(self, *options: str | Path, ranks: int | None = None, variables: dict[str, str] | None = None) -> Ended:
        """Run the train command, with tiny data unless told otherwise; under mpirun where ranks are given."""
        words = ["python", "-m", "horovod_flowers.train", *self.tiny(*options)]
        return run_command(words if ranks is None else mpirun(ranks, *words), self.folder, variables=variables)

    def tiny(self, *options: str | Path) -> list[str | Path]:
        """The train command's options, with tiny data unless told otherwise."""
        return ["--data.prepared-dir", self.prepared, *TINY, *options]

    def run(self, *words: str | Path) -> Ended:
        """Run any command here."""
        return run_command(words, self.folder)

    def training(self, *options: str | Path, variables: dict[str, str] | None = None) -> Command:
        """A training for `run_in_one_job`, with tiny data unless told otherwise."""
        return Command.of("horovod_flowers.train", *self.tiny(*options), variables=variables)

    def run_in_one_job(self, *commands: Command, ranks: int | None = None) -> list[str]:
        """Run commands one after the other in one job, all of which have to succeed: what each printed.

        Nine tenths of a tiny run are the start of its processes. The first command finds them fresh.
        """
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="job ") as name:
            job = Path(name)
            (job / "commands.json").write_bytes(msgspec.json.encode(commands))
            words: list[str | Path] = ["python", "-m", "tests.parallel.commands_in_one_job", job]
            timeout = len(commands) * TIMEOUT_SECONDS
            ended = run_command(words if ranks is None else mpirun(ranks, *words), self.folder, timeout)
            printed = [path.read_text() for path in sorted(job.glob("*.out"))]
        assert ended.status == 0, f"{ended.output}\n{''.join(printed)}"
        return printed


@pytest.fixture(scope="session")
def prepared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def workplace(tmp_path: Path, prepared_folder: Path) -> Workplace:
    return Workplace(tmp_path, prepared_folder)


@pytest.fixture
def refused_here(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """refused_here("train", *words, ranks=2): a command that ends with a mistake before it starts MPI or TensorFlow, as
    rank 0 of that many, in this process and the test's workplace; `variables` for more of a launcher's."""

    def call(
        command: str, *words: str | Path, ranks: int | None = None, variables: dict[str, str] | None = None
    ) -> Ended:
        with monkeypatch.context() as patch:
            patch.chdir(workplace.folder)
            for name in filter(lambda name: name.startswith(FOREIGN), list(os.environ)):
                patch.delenv(name)
            of_mpirun = {} if ranks is None else {"SIZE": ranks, "LOCAL_SIZE": ranks, "RANK": 0, "LOCAL_RANK": 0}
            told = {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in of_mpirun.items()}
            for name, value in (told | (variables or {})).items():
                patch.setenv(name, value)
            capsys.readouterr()
            with pytest.raises(SystemExit) as end:
                importlib.import_module(f"horovod_flowers.{command}").main([str(word) for word in words])
        said = capsys.readouterr()
        return Ended(int(end.value.code or 0), said.out, said.err)

    return call


@pytest.fixture(scope="session")
def shared_workplace(tmp_path_factory: pytest.TempPathFactory, prepared_folder: Path) -> Workplace:
    """A workplace whose runs several tests look at."""
    return Workplace(tmp_path_factory.mktemp("shared"), prepared_folder)


def write_photos_in(folder: Path, **classes: int) -> Path:
    """A folder of photos below another: red=3, blue=4 draws three and four single-coloured noisy JPEG files."""
    import numpy as np
    from PIL import Image

    root = folder / "photos"
    random = np.random.default_rng(0)
    for number, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for k in range(count):
            pixels = random.integers(0, 60, (40, 50, 3)) + np.eye(3)[number % 3] * 190
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{k:03d}.jpg")
    return root


@pytest.fixture
def write_photos(tmp_path: Path) -> Callable[..., Path]:
    """write_photos(red=3, blue=4): a folder of photos of the test's own."""
    return functools.partial(write_photos_in, tmp_path)
