"""Measure every strategy and precision, and the peers that are installed, in turn and in one run.

    python -m horovod_flowers.bench
    python -m horovod_flowers.bench --ranks 1,2 --repetitions 7 --torch-python /path/to/python

Each repetition runs all contenders once, in an order drawn anew, each in processes of its own: what a shared machine
does to one it does to its neighbours, and ratios are taken within a repetition. Writes bench.json and bench.csv.
"""

import csv
import io
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from horovod_flowers.bench.contenders import (
    HERE,
    Contender,
    Measurement,
    Timing,
    Workload,
    installed_peers,
    our_contenders,
)
from horovod_flowers.bench.table import print_costs, print_ratios, print_table
from horovod_flowers.config.choices import INDEPENDENT, PRECISION_CHOICES, STRATEGIES
from horovod_flowers.config.command_line import parse
from horovod_flowers.config.data import DataConfig
from horovod_flowers.config.options import check_limits, option, rank_counts
from horovod_flowers.data.order import steps_per_epoch, validation_range
from horovod_flowers.data.prepared import find
from horovod_flowers.data.preparing import prepare_with_progress
from horovod_flowers.data.sources import open_source
from horovod_flowers.launch.job import run_job
from horovod_flowers.model.precision import BF16_FEATURES, choose
from horovod_flowers.runlog.collectives import Collectives, read_collectives
from horovod_flowers.runtime.console import Steps, say
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.runtime.files import temporary_folder, writable_folder, write_whole
from horovod_flowers.runtime.machine import cpu_flags, own_command

SCHEMA = 2
INDEPENDENT_FIRST = tuple(sorted(STRATEGIES, key=lambda name: name != INDEPENDENT))


@dataclass(frozen=True)
class BenchConfig:
    """Options of the bench."""

    ranks: str = option("1,2", "numbers of ranks, separated by commas")
    strategies: str = option(
        ",".join(INDEPENDENT_FIRST), "strategies to measure, separated by commas (mesh from 4 ranks on)"
    )
    precisions: str = option("auto", "of fp32, bf16, fp16, separated by commas; auto: fp32, and bf16 where there is it")
    per_rank_batch: int = option(32, "images per rank and step", at_least=1)
    repetitions: int = option(7, "runs of each contender", at_least=1)
    steps: int = option(10, "timed steps per run", at_least=1)
    warmup_steps: int = option(4, "steps before them", at_least=1)
    peers: str = option(
        "all",
        "programs of the benchmarks folder to measure too: all, none, or words of names, separated by commas",
    )
    torch_python: str | None = option(None, "the Python of an environment with PyTorch (default: this one)")
    seed: int = option(0, "of the order of the contenders")
    timeout_seconds: int = option(600, "after which a run is ended and counts as failed", at_least=1)
    output: str = option("bench", "folder to write bench.json and bench.csv into")
    prepared_dir: str = option("data/prepared", "where prepared images are kept")

    def __post_init__(self) -> None:
        check_limits(self)
        _ = self.rank_counts
        for name, allowed in (("strategies", INDEPENDENT_FIRST), ("precisions", PRECISION_CHOICES)):
            for word in getattr(self, name).split(","):
                if word not in allowed:
                    raise UserError(f"{name} names {word!r}: allowed are {', '.join(allowed)}, separated by commas")

    @property
    def rank_counts(self) -> list[int]:
        """In ascending order. Raises UserError for a word that is none."""
        return sorted(set(rank_counts(self.ranks)))

    @property
    def precision_names(self) -> list[str]:
        """With 'auto' resolved by this machine's CPU."""
        if self.precisions != "auto":
            return self.precisions.split(",")
        return ["fp32", "bf16"] if set(BF16_FEATURES) & cpu_flags() else ["fp32"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.bench`."""
    with error_boundary("horovod_flowers.bench"):
        config = parse(BenchConfig, "horovod_flowers.bench", __doc__, arguments)
        output = writable_folder(Path(config.output), "choose another folder with --output")
        work = Workload(config.per_rank_batch, config.steps, config.warmup_steps)
        strategies = config.strategies.split(",")
        ours = our_contenders(strategies, config.precision_names, config.rank_counts, work, config.prepared_dir)
        peers, absent = chosen_peers(config, work)
        for line in absent:
            say(f"not measured: {line}")
        refuse_what_cannot_run(config)
        source = open_source(DataConfig(prepared_dir=config.prepared_dir))
        if find(Path(config.prepared_dir), source) is None:
            prepare_with_progress(Path(config.prepared_dir), source)
        # First: it fails within seconds where ranks cannot talk, instead of after half an hour of runs.
        costs = measure_communication(config) if max(config.rank_counts) > 1 else None
        measurements = measure([*ours, *peers], config)
        write_files(output, config, measurements, costs, absent)
        print_table(measurements)
        print_ratios(measurements)
        if costs is not None:
            print_costs(costs)
        for measurement in measurements:
            if measurement.failures:
                say(f"failed {measurement.failures} times: {measurement.contender}: {measurement.reason}")
        say(f"written: {output}/bench.json, bench.csv")
        if not any(measurement.by_repetition for measurement in measurements):
            raise UserError("no run of the bench succeeded: fix what the lines above name")


def refuse_what_cannot_run(config: BenchConfig) -> None:
    """Refuse a precision that this machine lacks, and steps that an epoch of the drawn images lacks (UserError)."""
    for name in config.precision_names:
        choose(name, cpu_flags(), gpu=Path("/dev/nvidiactl").exists())  # type: ignore[arg-type]
    data, most = DataConfig(), max(config.rank_counts)
    images = validation_range(data.synthetic_images, data)[0]
    there, asked = steps_per_epoch(images, config.per_rank_batch * most), config.warmup_steps + config.steps
    if asked > there:
        raise UserError(
            f"{asked} steps ({config.warmup_steps} to warm up) of {config.per_rank_batch} images on {most} ranks are "
            f"more than the {there} of an epoch of {images} images: lower --steps or --per-rank-batch"
        )


def chosen_peers(config: BenchConfig, work: Workload) -> tuple[list[Contender], list[str]]:
    """The peers asked for that can run here, and why others cannot. Raises UserError for a name that none has."""
    if config.peers == "none":
        return [], []
    found, absent = installed_peers(config.rank_counts, work, config.torch_python)
    if config.peers == "all":
        return found, absent
    words = [word.strip().lower() for word in config.peers.split(",")]
    for word in words:
        if not any(word in name.lower() for name in [*(peer.name for peer in found), *absent]):
            known = ", ".join(peer.name for peer in found)
            raise UserError(f"peers names {word!r}: installed are {known}; give words of these names, all or none")
    absent = [line for line in absent if any(word in line.lower() for word in words)]
    return [peer for peer in found if any(word in peer.name.lower() for word in words)], absent


def measure(contenders: Sequence[Contender], config: BenchConfig) -> list[Measurement]:
    """Run every contender once a repetition, in an order drawn anew each time."""
    timings: dict[int, dict[int, Timing]] = {number: {} for number in range(len(contenders))}
    failures: dict[int, list[str]] = {number: [] for number in range(len(contenders))}
    shuffler = random.Random(config.seed)
    with Steps("bench", config.repetitions * len(contenders), "runs") as progress:
        for repetition in range(config.repetitions):
            for number in shuffler.sample(range(len(contenders)), len(contenders)):
                try:
                    timings[number][repetition] = run_once(contenders[number], config.timeout_seconds)
                except UserError as error:
                    failures[number].append(str(error))
                progress.advance(detail=contenders[number].name)
    return [
        Measurement(
            contender.name,
            contender.ranks,
            timings[number],
            len(failures[number]),
            failures[number][-1] if failures[number] else None,
            peer=contender.peer,
        )
        for number, contender in enumerate(contenders)
    ]


def run_once(contender: Contender, timeout_seconds: int) -> Timing:
    """One run in a folder of its own. Raises UserError, with the end of its output, where it fails."""
    with temporary_folder("bench") as folder:
        run_to_its_end(contender.command(folder), contender.variables(), timeout_seconds)
        return contender.read(folder)


def run_to_its_end(words: list[str], variables: dict[str, str], timeout_seconds: int) -> None:
    """Run a job to its end, or end it with all that it started. Raises UserError where it fails."""
    with tempfile.TemporaryFile() as output:
        ending = run_job(
            words, output=output, timeout_seconds=timeout_seconds, variables=variables, ranks_end_together=True
        )
        output.seek(0)
        lines = [line for line in output.read().decode(errors="replace").splitlines() if line.strip()]
    if ending.asked_to_stop:
        raise KeyboardInterrupt
    if ending.given_up:
        raise UserError(ending.given_up)
    if ending.timed_out:
        raise UserError(f"took more than {timeout_seconds} s")
    if ending.status != 0:
        told = next((line for line in lines if "rror:" in line), lines[-1] if lines else "no output")
        raise UserError(f"status {ending.exit_status}: {told.strip()[:300]}")


def measure_communication(config: BenchConfig) -> Collectives:
    """Run the microbenchmark on the largest number of ranks."""
    with temporary_folder("bench") as folder:
        file = folder / "microbenchmark.json"
        words = [sys.executable, "-m", "horovod_flowers.microbenchmark", "--output", str(file)]
        run_to_its_end(HERE.command(max(config.rank_counts), words), {}, config.timeout_seconds)
        return read_collectives(file)


def write_files(
    output: Path,
    config: BenchConfig,
    measurements: Sequence[Measurement],
    costs: Collectives | None,
    absent: Sequence[str],
) -> None:
    """Write every timing, each file whole or not at all."""
    rows = [
        {
            "contender": measurement.contender,
            "ranks": measurement.ranks,
            "repetition": repetition,
            "images_per_second": timing.images_per_second,
            "median_step_seconds": timing.median_step_seconds,
            "oversubscribed": timing.oversubscribed,
            **{f"{part}_seconds": seconds for part, seconds in (timing.parts or {}).items()},
        }
        for measurement in measurements
        for repetition, timing in measurement.by_repetition.items()
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(output / "bench.csv", table.getvalue())
    failed = [
        {"contender": m.contender, "ranks": m.ranks, "failures": m.failures, "reason": m.reason}
        for m in measurements
        if m.failures
    ]
    document = {
        "schema": SCHEMA,
        "config": asdict(config),
        "command": own_command(),
        "timings": rows,
        "failed": failed,
        "absent": list(absent),
        "communication": None if costs is None else msgspec.to_builtins(costs),
    }
    write_whole(output / "bench.json", json.dumps(document, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
