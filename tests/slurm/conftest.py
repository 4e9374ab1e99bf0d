"""A real Slurm cluster of virtual nodes on this machine, and a folder of a user's to submit from."""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from tests.conftest import BIN, PROJECT, TIMEOUT_SECONDS, TINY, Ended, clean_environment, run_command

CLUSTER = Path(__file__).with_name("cluster.sh")
# A training whose steps take long while the file $SLOW_WHILE exists.
SLOW = (
    *(*TINY, "--global-batch", "16", "--threads", "1", "--data.augment", "--epochs", "30", "--warmup-steps", "1"),
    *("--model.name", "tests.parallel.slow_model:slow"),
)
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


@dataclass(frozen=True)
class Cluster:
    """Slurm, and a user's folder from which jobs are submitted."""

    folder: Path
    """With a space in its name, as its parents may have."""
    variables: dict[str, str]

    def run(self, *words: str | Path, **more: str) -> Ended:
        """A command of the user's on the login node, with more variables."""
        return run_command(words, self.folder, variables=self.variables | more)

    def submit(self, *words: str | Path, **more: str) -> str:
        """sbatch; the job's number."""
        ended = self.run("sbatch", "--parsable", *words, **more)
        assert ended.status == 0, ended.output
        return ended.stdout.strip()

    def show(self, job: str) -> dict[str, str]:
        """What Slurm knows of a job (the first record of an array)."""
        shown = self.run("scontrol", "show", "job", job)
        assert shown.status == 0, shown.output
        return dict(re.findall(r"(\w+)=(\S*)", shown.stdout.split("\n\n")[0]))

    def states(self, job: str) -> set[str]:
        """The states of all tasks of a job."""
        shown = self.run("scontrol", "show", "job", job)
        return set(re.findall(r"JobState=(\S+)", shown.stdout))

    def wait(self, job: str, seconds: float = TIMEOUT_SECONDS) -> str:
        """Wait for a job's end: its state."""
        self.until(lambda: self.states(job) <= set(ENDED), f"the end of job {job}", seconds)
        return self.show(job)["JobState"]

    def wait_for_restart(self, job: str) -> None:
        """Wait until a job is put back into the queue and runs again, at once instead of after 20 s."""

        def runs_again() -> bool:
            # Before it is pending it looks like one that has failed. Started within the second in which it was stopped,
            # it would be taken for the one that was ("credential revoked").
            if "PENDING" in self.states(job):
                time.sleep(2)
                self.run("scontrol", "update", f"JobId={job}", "StartTime=now")
            return "restart 1 of" in self.log(job)

        self.until(runs_again, f"restart of job {job}")

    def until(self, condition: Callable[[], object], what: str, seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait for a condition; with all logs where it does not come true."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(f"== {path.name}\n{path.read_text()}" for path in self.folder.glob("*.log"))
                pytest.fail(f"no {what} within {seconds} s\n{logs[-8000:]}")
            time.sleep(0.3)

    def log(self, job: str) -> str:
        """The output of a job."""
        return "".join(path.read_text() for path in sorted(self.folder.glob(f"*-{job}.log")))

    def processes(self) -> list[psutil.Process]:
        """Everything that works for this user's folder, zombies left out."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = any("horovod_flowers." in word for word in process.cmdline()) or process.name() == "orted"
                if ours and process.cwd() == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def refuse_here() -> str | None:
    """Why no virtual cluster can be started here, None where one can."""
    if os.geteuid() != 0:
        return "a virtual Slurm cluster needs root"
    if not shutil.which("apt-get") and not shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin"):
        return "there is neither Slurm nor apt-get to install it"
    tried = subprocess.run(["unshare", "--uts", "--mount", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"this machine allows no namespaces ({tried.stderr.strip()})"


@contextlib.contextmanager
def running_cluster(nodes: int, network: str) -> Iterator[dict[str, str]]:
    """Start Slurm, yield the variables that its commands need, stop it."""
    if reason := refuse_here():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="flowers-slurm-") as name:  # munge wants folders that all may enter
        folder = Path(name)
        folder.chmod(0o755)
        started = run_command(["bash", CLUSTER, "start", folder, str(nodes), network], folder, timeout=300)
        try:
            assert started.status == 0, started.output
            yield {"SLURM_CONF": str(folder / "etc" / "slurm.conf")}
        finally:
            run_command(["bash", CLUSTER, "stop", folder], folder, timeout=120)


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """Four nodes of four CPUs, declared ones; two of them apart, for a job that takes its time."""
    with running_cluster(4, "host") as variables:
        yield variables


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job scripts in a folder with a space in its name, with this machine's site file.

    A job that was put back is no longer slow (tests.parallel.slow_model).
    """
    project = tmp_path_factory.mktemp("the project") / "flowers of mine"
    for part in ("slurm", "jobs"):
        shutil.copytree(PROJECT / part, project / part, ignore=shutil.ignore_patterns("site.sh"))
    (project / "slurm" / "site.sh").write_text(
        f"export PATH='{BIN}':$PATH PYTHONPATH='{PROJECT}'\nexport OMPI_MCA_btl_tcp_if_include=lo\n"
        # What else this machine does must not make a job fail: the link itself has a test of its own.
        "export FLOWERS_LEAST_BANDWIDTH=0 FLOWERS_MOST_LATENCY_MS=100000\n"
        'if ((${SLURM_RESTART_COUNT:-0})); then rm -f "${SLOW_WHILE:-}"; fi\n'
    )
    return project


def users_folder(slurm: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A folder to submit from. All ranks share this machine's cores: oversubscription is asked for."""
    folder = tmp_path_factory.mktemp("work of mine")
    keep = ("PATH", "PYTHONPATH", "OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
    own = {name: value for name, value in clean_environment().items() if name in keep}
    return Cluster(folder, own | slurm | {"FLOWERS_OVERSUBSCRIBE": "1", "OMPI_MCA_btl_tcp_if_include": "lo"})


@pytest.fixture(scope="module")
def cluster(slurm: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A user's folder of each module's own."""
    return users_folder(slurm, tmp_path_factory)


@pytest.fixture(scope="session")
def networked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes with addresses of their own, on wires that a test can take away."""
    with running_cluster(2, "own") as variables:
        cluster = users_folder(variables, tmp_path_factory)
        yield replace(cluster, variables=cluster.variables | {"OMPI_MCA_btl_tcp_if_include": "eth0"})


def submit_slow(cluster: Cluster, project: Path, prepared: Path, *of_sbatch: str, **variables: str) -> str:
    """Submit train.sbatch; its steps take long until the job is put back."""
    with tempfile.NamedTemporaryFile(prefix="slow ", dir=cluster.folder, delete=False) as slow:
        pass
    script = str(project / "slurm" / "train.sbatch")
    words = ("-N", "2", "--ntasks-per-node", "1", *of_sbatch, script, *SLOW, "--data.prepared-dir", str(prepared))
    return cluster.submit(*words, SLOW_WHILE=slow.name, **variables)


@pytest.fixture(scope="session")
def time_limited(
    slurm: dict[str, str], project: Path, prepared_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Cluster, str]:
    """A job of one minute, which is signalled before its end (Slurm may do so 30 s early). It waits, mostly: modules
    that come first ask for it, so that its minute passes while they run."""
    cluster = users_folder(slurm, tmp_path_factory)
    of_sbatch = ("--partition=apart", "--time=1", "--signal=B:USR1@1")
    return cluster, submit_slow(cluster, project, prepared_folder, *of_sbatch)
