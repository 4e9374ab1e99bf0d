"""Writes run folders with known times, through the run log's own writers."""

import dataclasses
from pathlib import Path

from horovod_flowers.config import RunConfig
from horovod_flowers.runlog import (
    SCHEMA,
    Environment,
    EpochRecord,
    HostEnvironment,
    LineLog,
    RankEnvironment,
    Result,
    RunFolder,
    StepRecord,
    open_step_log,
    write_json,
)

MILLISECOND = 1_000_000


def write_run(
    path: Path,
    ranks: int,
    step_ms: list[list[int]],
    *,
    config: RunConfig | None = None,
    images_per_step: int = 64,
    oversubscribed: bool = False,
    accuracy: float | None = 0.5,
    digest: str = "d" * 32,
    cpu_model: str = "Test CPU",
    precision: str = "fp32",
) -> RunFolder:
    """A finished run. `step_ms[step][rank]`: milliseconds; the first step is warm-up; a tenth is communication."""
    from horovod_flowers.command_line import to_yaml

    config = config or RunConfig(global_batch=images_per_step, threads=1)
    folder = RunFolder(path)
    folder.create(overwrite=False, resume=False)
    environment = Environment(
        schema=SCHEMA,
        world_size=ranks,
        global_batch=images_per_step,
        launcher="openmpi",
        oversubscribed=oversubscribed,
        hosts=[
            HostEnvironment(
                host="node", cpu_model=cpu_model, logical_cpus=8, memory_bytes=1, cpu_features=[], ranks=ranks
            )
        ],
        ranks=[
            RankEnvironment(
                rank=rank,
                local_rank=rank,
                local_size=ranks,
                host="node",
                cores=[rank],
                physical_cores=1,
                threads=1,
                oversubscribed=oversubscribed,
                gpu=None,
            )
            for rank in range(ranks)
        ],
        versions={},
        mpi_library=None,
        horovod_features=[],
        horovod_settings={},
        strategy=config.strategy if ranks > 1 else "one rank",
        strategy_notes=[],
        trials=[],
        precision=precision,
        yield_when_idle=True,
        commit=None,
        started_utc="2026-01-01T00:00:00+00:00",
        command=[],
    )
    folder.write_start(to_yaml(dataclasses.replace(config, name=path.name)), environment)
    for rank in range(ranks):
        log, start = open_step_log(folder, rank, ranks, "node"), 0
        for step, row in enumerate(step_ms):
            total = row[rank] * MILLISECOND
            log.write(
                StepRecord(
                    epoch=1,
                    step=step,
                    warmup=step == 0,
                    images=images_per_step // ranks,
                    loss=1.0,
                    start_ns=start,
                    input_wait_ns=0,
                    compute_ns=total - total // 10,
                    communication_ns=total // 10,
                    update_ns=0,
                    total_ns=total,
                )
            )
            start += total
        log.close()
    epochs = LineLog(folder.epochs)
    seconds = sum(max(row) for row in step_ms) / 1000
    epochs.write(
        EpochRecord(
            epoch=1,
            steps=len(step_ms),
            images=images_per_step * len(step_ms),
            learning_rate=0.001,
            training_seconds=seconds,
            training_loss=1.0,
            training_accuracy=0.4,
        )
    )
    epochs.close()
    result = Result(
        schema=SCHEMA,
        epochs=1,
        steps=len(step_ms),
        training_seconds=seconds,
        best_validation_accuracy=accuracy,
        best_epoch=None if accuracy is None else 1,
        last_validation_accuracy=accuracy,
        parameters=10,
        optimizer_bytes=[80] * ranks,
        peak_memory_bytes=[1000] * ranks,
        data_digest=digest,
        training_images=100,
        validation_images=10,
    )
    write_json(folder.result, result)
    return folder
