"""What the report takes for large runs: seconds and peak memory, for synthetic runs of several numbers of ranks.

python benchmarks/report_at_scale.py --ranks 1024 2048 4096 --steps 2000

Each size is written into a temporary folder beside a one-rank run of the same work, reported on in a process of its
own, and deleted. The last column compares the time a record with that of the first size. The records hold plausible
times: 0.25 s a step that all ranks end together, a third of it communication, noise on all parts.
"""

import argparse
import dataclasses
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from horovod_flowers.config.command_line import to_yaml
from horovod_flowers.config.run import RunConfig
from horovod_flowers.runlog.json_lines import LineLog, write_json
from horovod_flowers.runlog.records import SCHEMA, Environment, EpochRecord, HostEnvironment, RankEnvironment, Result
from horovod_flowers.runlog.run_folder import RunFolder, open_step_log
from horovod_flowers.runlog.training_progress import TrainingProgress
from horovod_flowers.runtime.files import write_whole

PER_RANK_BATCH = 32
RANKS_A_NODE = 64
RECORD_BYTES = 300  # an upper bound, to see whether the disk has room
RECORD = (
    b'{"kind":"step","epoch":1,"step":%d,"warmup":%s,"images":%d,"loss":1.0986122886681098,"start_ns":%d,'
    b'"input_wait_ns":%d,"compute_ns":%d,"communication_ns":%d,"update_ns":%d,"total_ns":%d}\n'
)


@dataclass(frozen=True)
class Measured:
    """One report."""

    records: int
    seconds: float
    peak_bytes: int


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1024, 2048, 4096], help="one report each")
    parser.add_argument("--steps", type=int, default=2000, help="of each run, three of them warm-up")
    parser.add_argument("--folder", type=Path, help="where to write the runs (default: the temporary folder)")
    options = parser.parse_args()
    print(f"{'ranks':>6} {'records':>10} {'seconds':>8} {'records/s':>10} {'peak MiB':>9} {'time a record':>14}")
    first = None
    for ranks in options.ranks:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measured = measure(Path(folder), ranks, options.steps)
        a_record = measured.seconds / measured.records
        first = first or a_record
        print(
            f"{ranks:6} {measured.records:10} {measured.seconds:8.2f} {measured.records / measured.seconds:10.0f} "
            f"{measured.peak_bytes / 2**20:9.0f} {a_record / first:12.2f} ×",
            flush=True,
        )


def measure(folder, ranks, steps):
    """Write a run and its one-rank baseline, and report on both."""
    needed, free = ranks * steps * RECORD_BYTES, shutil.disk_usage(folder).free
    if needed > free * 0.9:
        raise SystemExit(
            f"{ranks} ranks x {steps} steps need {needed / 1e9:.1f} GB in {folder}, {free / 1e9:.1f} are free"
        )
    runs = folder / "runs"
    for size in sorted({1, ranks}):
        write_run(runs / f"n{size}", size, steps)
    words = [sys.executable, "-m", "horovod_flowers.report", "--runs-dir", str(runs), "--output", str(folder / "out")]
    started = time.monotonic()
    with open(folder / "log", "wb") as log:
        actions = [(os.POSIX_SPAWN_DUP2, log.fileno(), 1), (os.POSIX_SPAWN_DUP2, log.fileno(), 2)]
        _, status, usage = os.wait4(os.posix_spawn(words[0], words, os.environ, file_actions=actions), 0)
    seconds = time.monotonic() - started
    text = (folder / "log").read_text()
    if status or (ranks > 1 and "speed-up" not in text):
        raise SystemExit(f"the report failed:\n{text}")
    return Measured((ranks + (ranks > 1)) * steps, seconds, usage.ru_maxrss * 1024)  # Linux gives KiB


def write_run(path, ranks, steps):
    """A finished run: what training would have written, through the run log's own types but for the step records."""
    folder, nodes = RunFolder(path), -(-ranks // RANKS_A_NODE)
    folder.create(overwrite=False, resume=False)
    config = RunConfig(name=path.name, per_rank_batch=PER_RANK_BATCH, threads=1)
    write_whole(folder.config, to_yaml(dataclasses.replace(config, name=path.name)))
    write_json(folder.environment, environment_of(ranks, nodes))
    random = np.random.default_rng(ranks)
    ends = (250e6 * random.lognormal(0, 0.03, steps)).astype(np.int64)
    for rank in range(ranks):
        open_step_log(folder, rank, ranks, f"node{rank // RANKS_A_NODE:04d}").close()
        with open(folder.steps(rank), "ab") as file:
            file.write(step_lines(random, ends, steps))
    epochs = LineLog(folder.epochs)
    epochs.write(
        EpochRecord(
            epoch=1,
            steps=steps,
            images=steps * ranks * PER_RANK_BATCH,
            learning_rate=0.001,
            training_seconds=float(ends.sum()) / 1e9,
            training_loss=1.1,
            training_accuracy=0.5,
        )
    )
    epochs.close()
    result = Result(
        schema=SCHEMA,
        progress=TrainingProgress(
            epochs_done=1,
            steps_done=steps,
            training_seconds=float(ends.sum()) / 1e9,
            validation_accuracy=0.5,
            best_validation_accuracy=0.5,
            best_epoch=1,
        ),
        parameters=26_310_725,
        optimizer_bytes=[210_485_800] * ranks,
        peak_memory_bytes=[1_500_000_000] * ranks,
        data_digest="d" * 32,
        training_images=steps * ranks * PER_RANK_BATCH,
        validation_images=100,
    )
    write_json(folder.result, result)


def step_lines(random, ends, steps):
    """Bytes of the records of one rank, each step beginning where the one before ended.

    ends: nanoseconds of each step; ranks end it together, and whatever their own work leaves of it is communication.
    """
    wait, compute, update = ((mean * random.lognormal(0, 0.1, steps)).astype(np.int64) for mean in (2e6, 150e6, 8e6))
    total = np.maximum(ends + random.integers(-200_000, 200_000, steps), wait + compute + update)
    communication = total - wait - compute - update
    start = 10**15 + np.cumsum(total) - total
    number = np.arange(steps)
    warmup = [b"true" if step < 3 else b"false" for step in range(steps)]
    columns = (number, warmup, [PER_RANK_BATCH] * steps, start, wait, compute, communication, update, total)
    rows = zip(*(column if isinstance(column, list) else column.tolist() for column in columns), strict=True)
    return b"".join([RECORD % row for row in rows])


def environment_of(ranks, nodes):
    """Nodes of 64 cores, a core a rank."""
    own = [min(RANKS_A_NODE, ranks - node * RANKS_A_NODE) for node in range(nodes)]
    return Environment(
        schema=SCHEMA,
        world_size=ranks,
        global_batch=ranks * PER_RANK_BATCH,
        launcher="openmpi",
        oversubscribed=False,
        hosts=[
            HostEnvironment(
                host=f"node{node:04d}",
                cpu_model="Synthetic CPU",
                logical_cpus=RANKS_A_NODE,
                memory_bytes=256 * 2**30,
                cpu_features=["avx2"],
                ranks=own[node],
            )
            for node in range(nodes)
        ],
        ranks=[
            RankEnvironment(
                rank=rank,
                local_rank=rank % RANKS_A_NODE,
                local_size=own[rank // RANKS_A_NODE],
                host=f"node{rank // RANKS_A_NODE:04d}",
                cores=[rank % RANKS_A_NODE],
                physical_cores=1,
                threads=1,
                oversubscribed=False,
                gpu=None,
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
        started_utc="2026-01-01T00:00:00+00:00",
        command=[],
    )


if __name__ == "__main__":
    main()
