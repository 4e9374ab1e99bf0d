"""Studies whose true scaling is known: runs of a law with noise, as the report summarises recorded ones.

Nothing is written: a summary is what the report keeps of a run's records.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from horovod_flowers.config.run import RunConfig
from horovod_flowers.report.analysis.laws import Law, amdahl, gustafson, karp_flatt, peak, universal
from horovod_flowers.report.analysis.run_summary import WORK_QUANTILES, RunSummary, Timeline
from horovod_flowers.runlog.records import SCHEMA, Environment, EpochRecord, HostEnvironment, RankEnvironment, Result
from horovod_flowers.runlog.training_progress import TrainingProgress

STEPS = 20
"""Timed ones of each run."""
ONE_RANK_SECONDS = 0.5
"""Of a step."""
STEP_NOISE = 0.01
COMMUNICATION_SHARE = 0.1
"""Of a step of several ranks."""
REPETITIONS = 6
NOISE = 0.03
"""Standard deviation of a run's seconds over their mean."""


@dataclass(frozen=True)
class Truth:
    """A law with its parameters."""

    name: str
    law: Law
    """The one that holds."""
    contention: float
    """The serial fraction, of Amdahl and Gustafson."""
    coherency: float = 0.0

    @property
    def scaling(self) -> str:
        """strong or weak."""
        return "weak" if self.law == "Gustafson" else "strong"

    @property
    def batch(self) -> int:
        """Of all ranks together (strong), or of each (weak)."""
        return 32 if self.scaling == "weak" else 2048

    @property
    def peak_ranks(self) -> float | None:
        """Where throughput is largest; None where it only grows."""
        return peak(self.contention, self.coherency) if self.law == "USL" else None

    def speed_up(self, ranks: int) -> float:
        """Of so many ranks over one."""
        if self.law == "Gustafson":
            return float(gustafson(ranks, self.contention))
        if self.law == "Amdahl":
            return float(amdahl(ranks, self.contention))
        return float(universal(ranks, self.contention, self.coherency))

    def serial_fraction(self, ranks: int) -> float:
        """Karp and Flatt's."""
        return float(karp_flatt(self.speed_up(ranks), ranks))

    def images_per_step(self, ranks: int) -> int:
        """Over all ranks."""
        return self.batch * ranks if self.scaling == "weak" else self.batch

    def step_seconds(self, ranks: int) -> float:
        """Without noise."""
        return ONE_RANK_SECONDS * self.images_per_step(ranks) / self.images_per_step(1) / self.speed_up(ranks)

    def images_per_second(self, ranks: int) -> float:
        """Without noise."""
        return self.images_per_step(ranks) / self.step_seconds(ranks)


TRUTHS = (
    Truth("Amdahl", "Amdahl", 0.05),
    Truth("Gustafson", "Gustafson", 0.05),
    Truth("USL with a peak", "USL", 0.05, 0.005),
    Truth("USL without a peak", "USL", 0.05, 0.0),
)
"""The peak is at 13.8 ranks."""


def study(
    truth: Truth,
    rank_counts: Sequence[int],
    seed: int,
    repetitions: int = REPETITIONS,
    noise: float = NOISE,
) -> list[RunSummary]:
    """Runs of each number of ranks, started in random order within each repetition, as a study starts them.

    A run's seconds are the law's times 1 + `noise` times a normal value, its steps scatter by STEP_NOISE beside.
    """
    draw = np.random.default_rng([seed, len(rank_counts), len(truth.name)])
    runs, minute = [], 0
    for repetition in range(1, repetitions + 1):
        for ranks in draw.permutation(rank_counts).tolist():
            seconds = truth.step_seconds(ranks) * draw.normal(1, noise)
            steps = seconds * draw.normal(1, STEP_NOISE, STEPS)
            runs.append(run_of(truth, ranks, repetition, minute, steps))
            minute += 1
    return runs


class Work(Protocol):
    """What runs did, as far as a summary tells."""

    @property
    def scaling(self) -> str:
        """strong or weak."""

    @property
    def batch(self) -> int:
        """Of all ranks together (strong), or of each (weak)."""

    def images_per_step(self, ranks: int) -> int:
        """Over all ranks."""


def run_of(truth: Work, ranks: int, repetition: int, minute: int, steps: np.ndarray) -> RunSummary:
    """A run of these seconds a step, started in that minute of a day."""
    name = f"synthetic-{ranks}ranks-allreduce-fp32-seed0-run{repetition}"
    strong = truth.scaling == "strong"
    batch = {"global_batch": truth.batch} if strong else {"per_rank_batch": truth.batch}
    config = asdict(RunConfig(**batch, threads=1, epochs=1, name=name))  # type: ignore[arg-type]
    shown = COMMUNICATION_SHARE if ranks > 1 else 0.0
    own = steps * (1 - shown)
    total = float(steps.sum())
    images = truth.images_per_step(ranks) * len(steps)
    every = np.full(ranks, float(np.median(own)))
    return RunSummary(
        name=name,
        path=Path(name),
        config=config,
        environment=_environment(truth, ranks, minute),
        result=_result(ranks, len(steps), total),
        epochs=[
            EpochRecord(
                epoch=1, steps=len(steps), images=images, learning_rate=0.001, training_seconds=total,
                training_loss=1.0, training_accuracy=0.5,
            )
        ],
        images=images,
        timed_seconds=total,
        slowest_seconds=steps,
        fastest_seconds=steps,
        part_seconds={
            "input_wait": 0.0, "compute": float(own.sum()), "communication": total * shown, "update": 0.0,
        },
        imbalance_seconds=0.0,
        rank_step_seconds=np.full(ranks, float(np.median(steps))),
        rank_work_seconds=every,
        rank_work_mean_seconds=np.full(ranks, float(own.mean())),
        work_quantile_seconds=np.quantile(own, np.linspace(0, 1, WORK_QUANTILES)),
        rank_last_share=np.full(ranks, 1 / ranks),
        timeline=Timeline(np.arange(1), np.zeros((1, ranks)), np.zeros((1, ranks, 4))),
    )  # fmt: skip


def _environment(truth: Work, ranks: int, minute: int) -> Environment:
    return Environment(
        schema=SCHEMA,
        world_size=ranks,
        global_batch=truth.images_per_step(ranks),
        launcher="openmpi",
        oversubscribed=False,
        hosts=[
            HostEnvironment(
                host="node", cpu_model="Synthetic CPU", logical_cpus=64, memory_bytes=2**36, cpu_features=["avx2"],
                ranks=ranks,
            )
        ],
        ranks=[
            RankEnvironment(
                rank=rank, local_rank=rank, local_size=ranks, host="node", cores=[rank], physical_cores=1, threads=1,
                oversubscribed=False, gpu=None,
            )
            for rank in range(ranks)
        ],
        versions={},
        mpi_library=None,
        horovod_features=[],
        horovod_settings={},
        yield_when_idle=False,
        strategy="allreduce" if ranks > 1 else "one rank",
        strategy_notes=[],
        trials=[],
        precision="fp32",
        commit=None,
        started_utc=f"2026-01-01T{minute // 60:02}:{minute % 60:02}:00+00:00",
        command=[],
    )  # fmt: skip


def _result(ranks: int, steps: int, seconds: float) -> Result:
    return Result(
        schema=SCHEMA,
        progress=TrainingProgress(
            epochs_done=1, steps_done=steps, training_seconds=seconds, validation_accuracy=0.5,
            best_validation_accuracy=0.5, best_epoch=1,
        ),
        parameters=26_310_725,
        optimizer_bytes=[8] * ranks,
        peak_memory_bytes=[2**30] * ranks,
        data_digest="d" * 32,
        training_images=4096,
        validation_images=100,
    )  # fmt: skip
