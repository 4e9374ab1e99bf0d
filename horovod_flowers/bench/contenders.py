"""What the bench compares: our strategies and precisions, and the peers that are installed. Each is a command that runs
once and leaves step times behind."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from horovod_flowers.config.choices import INDEPENDENT
from horovod_flowers.launch.launchers import Mpirun
from horovod_flowers.launch.slots import Slots
from horovod_flowers.mpi.identify import all_yield_variables
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runtime.errors import UserError

PEERS = Path(__file__).resolve().parents[2] / "benchmarks"
PROBE_SECONDS = 120
HERE = Mpirun(Slots(((os.uname().nodename, 1),), "this machine"), oversubscribe=True)
"""More ranks than cores are measured too, and marked."""


@dataclass(frozen=True)
class Workload:
    """The same for all: images per rank and step, timed steps, steps before them."""

    per_rank_batch: int
    steps: int
    warmup_steps: int


@dataclass(frozen=True)
class Timing:
    """One repetition of one contender."""

    images_per_second: float
    """Images of all ranks over the seconds of the slowest."""
    median_step_seconds: float
    oversubscribed: bool
    parts: dict[str, float] | None = None
    """Seconds of the parts of a mean step; None for peers, which do not tell."""


@dataclass(frozen=True)
class Measurement:
    """One contender's repetitions; those that failed are counted, with the reason of the last."""

    contender: str
    ranks: int
    by_repetition: dict[int, Timing]
    failures: int = 0
    reason: str | None = None
    peer: bool = False

    @property
    def rates(self) -> list[float]:
        """Images per second of each repetition."""
        return [timing.images_per_second for timing in self.by_repetition.values()]

    @property
    def oversubscribed(self) -> bool:
        """Whether ranks shared a core in any repetition."""
        return any(timing.oversubscribed for timing in self.by_repetition.values())


class Contender(Protocol):
    """Something to measure."""

    @property
    def name(self) -> str:
        """As the table shows it."""
        ...

    @property
    def ranks(self) -> int:
        """Processes."""
        ...

    @property
    def peer(self) -> bool:
        """Whether it is somebody else's way."""
        ...

    def command(self, folder: Path) -> list[str]:
        """Words that run it once, its results below `folder`."""
        ...

    def variables(self) -> dict[str, str]:
        """Environment variables to add."""
        ...

    def read(self, folder: Path) -> Timing:
        """What it left. Raises UserError where that is incomplete."""
        ...


@dataclass(frozen=True)
class Ours:
    """The train command."""

    strategy: str
    precision: str
    ranks: int
    work: Workload
    prepared_dir: str
    options: tuple[str, ...] = ()
    peer: bool = False

    @property
    def name(self) -> str:
        """Strategy, precision and what else was given."""
        strategy = "one rank" if self.ranks == 1 else self.strategy
        return " ".join([strategy, self.precision, *(word.lstrip("-") for word in self.options)])

    def command(self, folder: Path) -> list[str]:
        """One run without checkpoints and validation, one core per rank."""
        words = [sys.executable, "-m", "horovod_flowers.train", "--runs-dir", str(folder), "--name", "run"]
        words += ["--data.prepared-dir", self.prepared_dir, "--threads", "1", "--no-checkpoint", "--no-validate"]
        words += ["--per-rank-batch", str(self.work.per_rank_batch), "--warmup-steps", str(self.work.warmup_steps)]
        words += ["--steps", str(self.work.warmup_steps + self.work.steps), "--precision", self.precision]
        return HERE.command(self.ranks, [*words, "--strategy", self.strategy, *self.options])

    def variables(self) -> dict[str, str]:
        """None."""
        return {}

    def read(self, folder: Path) -> Timing:
        """From the run log."""
        run = read_run(folder / "run")
        seconds = run.part_ns.mean(axis=(0, 1)) / 1e9
        parts = dict(zip(("input_wait", "compute", "communication", "update"), seconds.tolist(), strict=True))
        rate = run.images / run.timed_seconds
        return Timing(rate, run.median_step_seconds, run.environment.oversubscribed, parts)


@dataclass(frozen=True)
class Peer:
    """A program of the benchmarks folder."""

    name: str
    program: str
    ranks: int
    work: Workload
    python: str = sys.executable
    options: tuple[str, ...] = ()
    extra_variables: tuple[tuple[str, str], ...] = ()
    batches: int = 1
    """Per-rank batches of each step, for one process that does the work of several ranks."""
    peer: bool = True

    def command(self, folder: Path) -> list[str]:
        """The program under mpirun, which also pins nothing: each rank keeps to its own core by itself."""
        words = [self.python, str(PEERS / self.program), "--output", str(folder), *self.options]
        words += ["--batch", str(self.work.per_rank_batch * self.batches), "--steps", str(self.work.steps)]
        return HERE.command(self.ranks, [*words, "--warmup-steps", str(self.work.warmup_steps)])

    def variables(self) -> dict[str, str]:
        """Those that the peer is known to need."""
        return {"TF_CPP_MIN_LOG_LEVEL": "3", **dict(self.extra_variables)}

    def read(self, folder: Path) -> Timing:
        """From one file a rank."""
        try:
            records = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(self.ranks)]
        except (OSError, ValueError) as error:
            raise UserError(f"{self.name} left no step times ({error})") from error
        slowest = max(sum(record["step_seconds"]) for record in records)
        images = sum(record["batch"] * len(record["step_seconds"]) for record in records)
        steps = [max(step) for step in zip(*(record["step_seconds"] for record in records), strict=True)]
        cores = len(os.sched_getaffinity(0))
        return Timing(images / slowest, sorted(steps)[len(steps) // 2], self.ranks > cores)


def our_contenders(
    strategies: Sequence[str], precisions: Sequence[str], ranks: Sequence[int], work: Workload, prepared_dir: str
) -> list[Ours]:
    """Every strategy and precision at every number of ranks; on one rank all strategies are the same."""
    found = []
    for size in ranks:
        for precision in precisions:
            for strategy in strategies if size > 1 else (INDEPENDENT,):
                if strategy == "mesh" and size < 4:
                    continue  # a mesh of groups that are neither one rank nor all of them
                options = ("--model-parallel-size", str(size // 2)) if strategy == "mesh" else ()
                found.append(Ours(strategy, precision, size, work, prepared_dir, options))
    return found


def installed_peers(ranks: Sequence[int], work: Workload, torch_python: str | None) -> tuple[list[Any], list[str]]:
    """The peers that can run here, and why the others cannot."""
    found, absent = list[Peer](), []
    if not PEERS.is_dir():
        return [], [f"peers: there is no folder {PEERS}; it comes with a checkout, not with the package"]
    most = max(ranks)
    found.append(Peer("Keras fit, one core", "keras_fit.py", 1, work, options=("--cores", "one")))
    found.append(Peer("Keras fit, all cores", "keras_fit.py", 1, work, options=("--cores", "all"), batches=most))
    several = [size for size in ranks if size > 1]
    for size, strategy in ((1, "none"), *((size, name) for size in several for name in ("allreduce", "sharded"))):
        options = ("--strategy", strategy)
        name = "Keras fit, distributed" if size == 1 else f"Keras fit, {strategy}"
        found.append(Peer(name, "keras_fit_ranks.py", size, work, options=options))
    if importlib.util.find_spec("tf_keras") is not None:
        for size in several:
            found.append(Peer("Horovod Keras", "horovod_keras.py", size, work))
            yielding = tuple(all_yield_variables().items())  # of each MPI: another than its own does not read one
            found.append(Peer("Horovod Keras, yielding", "horovod_keras.py", size, work, extra_variables=yielding))
            found.append(Peer("MultiWorkerMirrored", "multi_worker_mirrored.py", size, work))
    else:
        absent.append("Horovod Keras and MultiWorkerMirrored: tf-keras is not installed (uv sync --group peers)")
    python = torch_python or sys.executable
    if _has_torch(python):
        for size in several:
            for precision in ("fp32", "bf16"):
                options = ("--precision", precision)
                found.append(Peer(f"PyTorch DDP {precision}", "torch_ddp.py", size, work, python, options))
    else:
        absent.append("PyTorch DDP: torch is not installed; give --torch-python, the Python of one that has it")
    return found, absent


def _has_torch(python: str) -> bool:
    probe = [python, "-c", "import torch, numpy"]
    try:
        return subprocess.run(probe, capture_output=True, timeout=PROBE_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
