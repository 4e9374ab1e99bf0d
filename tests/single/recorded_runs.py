"""Writes run folders with known times, through the run log's own writers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from horovod_flowers.config.run import RunConfig
from horovod_flowers.runlog.emulation import CoreGauge, Emulation
from horovod_flowers.runlog.json_lines import LineLog, write_json
from horovod_flowers.runlog.model_flops import ModelFlops
from horovod_flowers.runlog.records import (
    SCHEMA,
    CommunicationVolume,
    Environment,
    EpochRecord,
    HostEnvironment,
    RankEnvironment,
    Result,
    StepRecord,
)
from horovod_flowers.runlog.resources import Resources
from horovod_flowers.runlog.run_folder import RunFolder, open_step_log
from horovod_flowers.runlog.training_progress import TrainingProgress

MILLISECOND = 1_000_000


def _parts(step: int | tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    return (0, step - step / 10, step / 10, 0) if isinstance(step, int) else step


def write_run(
    path: Path,
    ranks: int,
    step_ms: Sequence[Sequence[int | tuple[int, int, int, int]]],
    *,
    config: RunConfig | None = None,
    images_per_step: int = 64,
    oversubscribed: bool = False,
    accuracy: float | None = 0.5,
    digest: str = "d" * 32,
    cpu_model: str = "Test CPU",
    precision: str = "fp32",
    commit: str | None = None,
    traffic: list[CommunicationVolume] | None = None,
    validation: Sequence[float] = (),
    horovod_settings: dict[str, str] | None = None,
    emulated: Emulation | None = None,
    core_gauge: CoreGauge | None = None,
    gpu: str | None = None,
    cpu_features: Sequence[str] = (),
    hosts: int = 1,
    yield_when_idle: bool = True,
    started_utc: str = "2026-01-01T00:00:00+00:00",
    resources: Resources | None = None,
    node_cores: int | None = None,
    peak_memory_bytes: Sequence[int] | None = None,
    cpu_governor: str | None = None,
    max_mhz: float | None = None,
    mhz: float | None = None,
    mpi_settings: dict[str, str] | None = None,
    cpu_models: Sequence[str] = (),
    model_flops: ModelFlops | None = None,
) -> RunFolder:
    """A finished run.

    step_ms[step][rank]: milliseconds of the step, a tenth of which is communication, or of its four parts (input wait,
    compute, communication, update). The first step is warm-up. validation: accuracies of its epochs, all of which but
    the first have no steps. cpu_models: one a host, in place of cpu_model.
    """
    from horovod_flowers.config.command_line import to_yaml

    config = config or RunConfig(global_batch=images_per_step, threads=1)
    epochs_done = max(1, len(validation))
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
                host=f"node{number or ''}",
                cpu_model=cpu_models[number] if cpu_models else cpu_model,
                logical_cpus=8,
                memory_bytes=1,
                cpu_features=list(cpu_features),
                physical_cores=node_cores,
                ranks=ranks // hosts + (number < ranks % hosts),
                cpu_governor=cpu_governor,
                max_mhz=max_mhz,
                mhz=mhz,
            )
            for number in range(hosts)
        ],
        ranks=[
            RankEnvironment(
                rank=rank,
                local_rank=rank % -(-ranks // hosts),
                local_size=-(-ranks // hosts),
                host=f"node{rank // -(-ranks // hosts) or ''}",
                cores=[rank],
                physical_cores=1,
                threads=1,
                oversubscribed=oversubscribed,
                gpu=gpu,
            )
            for rank in range(ranks)
        ],
        versions={},
        mpi_library=None,
        horovod_features=[],
        horovod_settings=horovod_settings or {},
        strategy=config.strategy if ranks > 1 else "one rank",
        strategy_notes=[],
        trials=[],
        precision=precision,
        yield_when_idle=yield_when_idle,
        commit=commit,
        communication_volume=traffic,
        emulated=emulated,
        model_flops=model_flops,
        started_utc=started_utc,
        mpi_settings=mpi_settings or {},
        command=[],
    )
    folder.write_start(to_yaml(dataclasses.replace(config, name=path.name)), environment)
    for rank in range(ranks):
        log, start = open_step_log(folder, rank, ranks, "node"), 0
        for step, row in enumerate(step_ms):
            parts = [part * MILLISECOND for part in _parts(row[rank])]
            total = round(sum(parts))
            log.write(
                StepRecord(
                    epoch=1,
                    step=step,
                    warmup=step == 0,
                    images=images_per_step // ranks,
                    loss=1.0,
                    start_ns=start,
                    input_wait_ns=round(parts[0]),
                    compute_ns=round(parts[1]),
                    communication_ns=round(parts[2]),
                    update_ns=round(parts[3]),
                    total_ns=total,
                )
            )
            start += total
        log.close()
    epochs = LineLog(folder.epochs)
    seconds = max(sum(sum(_parts(row[rank])) for row in step_ms) for rank in range(ranks)) / 1000
    for epoch in range(1, 1 + epochs_done):
        epochs.write(
            EpochRecord(
                epoch=epoch,
                steps=len(step_ms) if epoch == 1 else 0,
                images=images_per_step * len(step_ms) if epoch == 1 else 0,
                learning_rate=0.001,
                training_seconds=seconds,
                training_loss=1.0,
                training_accuracy=0.4,
                validation_accuracy=validation[epoch - 1] if validation else None,
            )
        )
    epochs.close()
    result = Result(
        schema=SCHEMA,
        progress=TrainingProgress(
            epochs_done=epochs_done,
            steps_done=len(step_ms),
            training_seconds=seconds * epochs_done,
            validation_accuracy=accuracy,
            best_validation_accuracy=accuracy,
            best_epoch=None if accuracy is None else 1,
        ),
        parameters=10,
        optimizer_bytes=[80] * ranks,
        peak_memory_bytes=list(peak_memory_bytes or [1000] * ranks),
        data_digest=digest,
        training_images=100,
        validation_images=10,
        core_gauge=core_gauge,
        resources=resources,
        stopped_early=epochs_done < config.epochs,
    )
    write_json(folder.result, result)
    return folder
