"""Measure a training step on one rank: when each gradient is there, what an update takes, and how much that varies.

    python -m horovod_flowers.step_profile --rows 32,16,8 --output FILE.json [options of train]

Takes the options of train, of which those count that decide what a step computes, and computes on images of noise: the
photos need not be prepared. Predictions for many ranks start from its record, and emulated runs sleep for it
(docs/emulation.md). One process, without mpirun.
"""

import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from horovod_flowers.config.command_line import given_options, parse
from horovod_flowers.config.options import option
from horovod_flowers.config.run import RunConfig, with_overrides
from horovod_flowers.data.opening import find_images
from horovod_flowers.model.precision import choose, may_be_bf16, take
from horovod_flowers.model.registry import check_file, check_name
from horovod_flowers.ranks.startup import connect, find_job, start_tensorflow, take_cores
from horovod_flowers.runlog.step_profile import StepProfile, extended, read_step_profile, write_step_profile
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import error_boundary
from horovod_flowers.runtime.files import writable_folder
from horovod_flowers.runtime.machine import cpu_flags

MOST_ROWS = 65_536


@dataclass(frozen=True)
class StepProfileConfig(RunConfig):
    """Options of the measurement: those of train, and its own."""

    output: str = option("step_profile.json", "step_profile: file to write")
    rows: str | None = option(
        None,
        "step_profile: images of a step on a rank, separated by commas, such as 32,16,8 (default: --per-rank-batch)",
    )
    timed_steps: int = option(20, "step_profile: steps that count, of each batch", at_least=3)
    extend: bool = option(
        False, "step_profile: keep the batches that the file has, measured of the same work, and add those of --rows"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.per_rank_batches
        if self.emulate.profile is not None:
            raise UserError(
                f"emulate.profile is {self.emulate.profile}, and a step that sleeps is nothing to measure: leave out "
                "--emulate.profile"
            )
        if self.accumulate > 1:
            raise UserError(
                f"accumulate is {self.accumulate}, and the step that is measured ends with an update: leave out "
                "--accumulate"
            )

    @property
    def per_rank_batches(self) -> list[int]:
        """Those of `rows`. Raises UserError."""
        words = str(self.per_rank_batch or 32) if self.rows is None else self.rows
        found = [int(word) if word.isascii() and word.isdigit() else 0 for word in words.split(",")]
        if not all(0 < each <= MOST_ROWS for each in found) or len(set(found)) < len(found):
            raise UserError(
                f"rows is {words!r}: give whole numbers from 1 to {MOST_ROWS}, each once, separated by commas, such as "
                "32,16,8"
            )
        return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.step_profile`."""
    with error_boundary("horovod_flowers.step_profile"):
        job = find_job()
        config = parse(StepProfileConfig, "horovod_flowers.step_profile", __doc__, arguments, job.rank)
        words = list(sys.argv[1:] if arguments is None else arguments)
        run = with_overrides(config, given_options(StepProfileConfig, words))
        if job.size > 1:
            raise UserError(f"{job.size} ranks were started: a step is measured on one, so leave out mpirun")
        check_name(config.model.name, config.model.options)
        check_file(config.model.name)
        output = Path(config.output)
        writable_folder(output.parent, "choose another file with --output")
        before = _before(output, config.per_rank_batches) if config.extend else None
        found = find_images(config)
        of_images = found.prepared if found.prepared is not None else found.source
        assert of_images is not None
        ranks = connect(job, config.threads, config.bind)
        cores = take_cores(ranks, config.bind, config.threads)
        threads = config.threads or cores.physical
        gpu = start_tensorflow(ranks, threads, bf16=may_be_bf16(config.precision, cpu_flags()))
        precision = take(choose(config.precision, cpu_flags(), gpu), config.precision)
        from horovod_flowers.training.step_profile import measure

        # Where the weights start from, and how much images count, changes no step's time.
        run = replace(
            run,
            model=replace(run.model, weights=None),
            data=replace(run.data, class_weights="none", sample_weights=None),
        )
        record = measure(
            run, ranks, of_images.class_names, config.per_rank_batches, config.timed_steps, threads, precision
        )
        if before is not None:
            record = extended(before, record, output)
        write_step_profile(output, record)
        for line in described(record):
            say(line)
        say(f"step profile in {output}")


def _before(output: Path, rows: Sequence[int]) -> StepProfile:
    """What is to be extended. Raises UserError where there is none, or it has one of these batches."""
    try:
        before = read_step_profile(output)
    except OSError as error:
        raise UserError(f"step profile {output} cannot be read ({error.strerror}): leave out --extend") from error
    for batch in before.batches:
        if batch.rows in rows:
            raise UserError(f"step profile {output} has a batch of {batch.rows} images: leave it out of --rows")
    return before


def described(record: StepProfile) -> Iterator[str]:
    """What was measured, a line for each batch."""
    yield (
        f"model {record.model}: {record.elements:,} trained parameters in {len(record.weights)} weights, "
        f"{record.precision}, {record.threads} thread(s)"
    )
    for batch in record.batches:
        seconds, ready = batch.step_seconds, batch.gradient_ready_seconds
        yield (
            f"{batch.rows} images: {statistics.median(seconds):.4f} s a step, {min(seconds):.4f} to {max(seconds):.4f} "
            f"in {len(seconds)} steps: loss after {batch.forward_seconds:.4f}, gradients from {min(ready):.4f} to "
            f"{batch.gradients_seconds:.4f}, update {batch.update_seconds:.4f}"
        )


if __name__ == "__main__":
    main()
