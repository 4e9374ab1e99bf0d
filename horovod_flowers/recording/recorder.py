"""Writes the run log of a script's training: the files and types of train's own (docs/run-log.md).

A study starts the script with FLOWERS_RECORD, the path of RUNS/.study/NAME.yaml, which says what the run is
(`ScriptConfig`). The first `fit` begins the records in RUNS/NAME. The result waits as `.result.json` for the study,
which alone knows how the script ends: a run without `result.json` has not finished.
"""

import atexit
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from horovod_flowers.config.command_line import build, to_yaml
from horovod_flowers.config.script import RECORD_VARIABLE, ScriptConfig, threads_asked_for
from horovod_flowers.config.yaml_file import options_in
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.startup import take_cores
from horovod_flowers.runlog.environment import Parallelism, gather_environment
from horovod_flowers.runlog.json_lines import LineLog, write_json
from horovod_flowers.runlog.process_resources import gpu_peak_bytes_of, process_resources, wall_seconds_of
from horovod_flowers.runlog.records import SCHEMA, EpochRecord, Result, StepRecord
from horovod_flowers.runlog.resources import Resources
from horovod_flowers.runlog.run_folder import RunFolder, open_step_log
from horovod_flowers.runlog.run_hold import RunHold
from horovod_flowers.runlog.script_folder import begin_records, otherwise, waiting_result
from horovod_flowers.runlog.training_progress import BEGINNING, TrainingProgress
from horovod_flowers.runtime.console import warn
from horovod_flowers.runtime.errors import UserError

if TYPE_CHECKING:  # it imports TensorFlow
    from horovod_flowers.model.flops.step_flops import StepFlops

ACCURACIES = ("accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy", "binary_accuracy")
"""What Keras calls the share of samples whose prediction is right."""
_SAME = 1e-5
"""Relative difference up to which what ranks report is one value, rounded in another order."""


@dataclass(frozen=True)
class StepTimes:
    """When the parts of a step ended and how long they took, in monotonic nanoseconds."""

    start_ns: int
    """End of the step before, or of what was between them."""
    batch_ns: int
    """When the batch was there."""
    communication_ns: int
    update_ns: int
    end_ns: int

    def record(self, epoch: int, step: int, warmup: bool, images: int, loss: float | None) -> StepRecord:
        """This for the run log: what is neither waiting, communication nor update is computation."""
        total, waiting = self.end_ns - self.start_ns, self.batch_ns - self.start_ns
        return StepRecord(
            epoch=epoch,
            step=step,
            warmup=warmup,
            images=images,
            loss=loss,
            start_ns=self.start_ns,
            input_wait_ns=waiting,
            compute_ns=total - waiting - self.communication_ns - self.update_ns,
            communication_ns=self.communication_ns,
            update_ns=self.update_ns,
            total_ns=total,
        )


class RunRecorder:
    """Records what one process trains, on its rank. Every rank calls every method but `step` together."""

    def __init__(self, config_path: Path) -> None:
        """`config_path`: what FLOWERS_RECORD names. Raises UserError where it is not there, or no ScriptConfig."""
        if not config_path.is_file():
            raise UserError(
                f"{RECORD_VARIABLE} is {config_path}, which is not there on {os.uname().nodename}: the study writes "
                "it; start python -m horovod_flowers.study again, with a --runs-dir that all nodes share"
            )
        self.config = build(ScriptConfig, options_in(config_path))
        self.folder = RunFolder(config_path.absolute().parent.parent / str(self.config.name))
        self.step_count = 0
        """Steps recorded so far."""
        self._model_id: int | None = None
        self._told_of_another = False
        self._ranks: Ranks | None = None
        self._parallelism: Parallelism | None = None
        self._global_batch: int | None = None
        self._count_flops: Callable[[int], StepFlops] | None = None
        self._step_log: LineLog | None = None
        self._epoch_log: LineLog | None = None
        self._progress: TrainingProgress = BEGINNING
        self._epoch = 0
        self._epoch_sums = _EpochSums()
        self._most_images = 0

    @staticmethod
    def from_environment() -> "RunRecorder | None":
        """The recorder that a study asks for; None where no study does. Raises UserError as the constructor does."""
        given = os.environ.get(RECORD_VARIABLE, "")
        return RunRecorder(Path(given)) if given else None

    def begin(
        self,
        ranks: Ranks,
        model: object,
        parallelism: Parallelism,
        global_batch: int | None = None,
        count_flops: "Callable[[int], StepFlops] | None" = None,
    ) -> bool:
        """A `fit` of a model begins: whether it is recorded.

        `global_batch`: samples of a step over all ranks; None where the first epoch has to show it. `count_flops`:
        counts what a step on so many samples takes, called on rank 0 once batches have been seen. A run is of one
        model, the first that is trained; another one is left out, and that is said. Raises UserError on all ranks
        where the run's folder cannot be made, or belongs to another run.
        """
        if self._ranks is None:
            self._ranks, self._model_id = ranks, id(model)
            self._parallelism, self._global_batch, self._count_flops = parallelism, global_batch, count_flops
            self._open(ranks)
        elif self._model_id != id(model):
            if not self._told_of_another and ranks.rank == 0:
                warn(
                    f"run {self.folder.path.name} records the model that the script trained first; the fit of another "
                    "one is left out: start one command for each model to record them all"
                )
            self._told_of_another = True
            return False
        if ranks.rank == 0:
            waiting_result(self.folder).unlink(missing_ok=True)
        return True

    def _open(self, ranks: Ranks) -> None:
        """Make the run's folder on rank 0, and open this rank's step file."""
        error = None
        if ranks.rank == 0:
            try:
                self._make_folder()
            except (UserError, OSError) as found:
                error = found if isinstance(found, UserError) else UserError(f"run {self.folder.path}: {found}")
        ranks.raise_on_all(error)
        try:
            self._step_log = open_step_log(self.folder, ranks.rank, ranks.size, os.uname().nodename)
        except UserError as found:
            error = found
        ranks.raise_on_all(error)

    def _make_folder(self) -> None:
        hold = RunHold(f"the script of run {self.folder.path.name}")
        atexit.register(hold.give_up)
        hold.take(self.folder.path, "wait for its end, or give the study another name")
        begin_records(self.folder, to_yaml(self.config))
        self._epoch_log = LineLog(self.folder.epochs, durable=True)

    def begin_epoch(self) -> None:
        """An epoch begins."""
        self._epoch += 1
        self._epoch_sums = _EpochSums()

    def step(self, times: StepTimes, images: int, loss: float | None, warmup: bool) -> None:
        """A step of this rank has ended. `images`: this rank's samples in it; called from any thread, in order."""
        if self._step_log is None:
            return
        if loss is not None and not math.isfinite(loss):
            loss = None
        self._step_log.write(times.record(self._epoch, self.step_count, warmup, images, loss))
        self.step_count += 1
        self._most_images = max(self._most_images, images)
        sums = self._epoch_sums
        sums.steps += 1
        sums.images += images
        sums.nanoseconds += times.end_ns - times.start_ns

    def end_epoch(
        self, logs: Mapping[str, float], learning_rate: float | None, validation_seconds: float | None = None
    ) -> None:
        """An epoch has ended, validation included. `logs`: what Keras reports of it on this rank; finite or not."""
        assert self._ranks is not None
        own, ranks = self._epoch_sums, self._ranks
        every = ranks.allgather((own.steps, own.images, own.nanoseconds, self._most_images, dict(logs)))
        images = sum(of_rank[1] for of_rank in every)
        if not all(of_rank[0] for of_rank in every):
            return  # no step of it was seen: nothing is known of it
        if self._progress is BEGINNING:
            self._describe(sum(of_rank[3] for of_rank in every))
        seconds = max(of_rank[2] for of_rank in every) / 1e9
        metrics = over_ranks([(of_rank[1], of_rank[4]) for of_rank in every])
        validation = {name[4:]: value for name, value in metrics.items() if name.startswith("val_")}
        training = {name: value for name, value in metrics.items() if not name.startswith("val_")}
        accuracy = _accuracy_in(validation)
        self._progress = self._progress.after_epoch(self.step_count - self._progress.steps_done, seconds)
        self._progress = self._progress.evaluated(accuracy, validation.get("loss"))
        if self._epoch_log is not None:
            self._epoch_log.write(
                EpochRecord(
                    epoch=self._epoch,
                    steps=own.steps,
                    images=images,
                    learning_rate=learning_rate,
                    training_seconds=seconds,
                    training_loss=metrics.get("loss"),
                    training_accuracy=_accuracy_in(metrics),
                    validation_loss=validation.get("loss"),
                    validation_accuracy=accuracy,
                    validation_seconds=validation_seconds,
                    training_metrics=_without_loss(training),
                    validation_metrics=_without_loss(validation),
                )
            )

    def _describe(self, most_images: int) -> None:
        """Write what the run runs on, once its batch is known. `most_images`: of a step over all ranks, as seen.

        Raises UserError, on all ranks, where that is not what the study asked for: it would be told in the end.
        """
        assert self._ranks is not None
        assert self._parallelism is not None
        import tensorflow as tf

        from horovod_flowers.recording.model_flops import flops_of_step

        cores = take_cores(self._ranks, "none", 0)
        set_here = tf.config.threading.get_intra_op_parallelism_threads()
        threads = set_here or threads_asked_for(os.environ) or len(os.sched_getaffinity(0))
        batch = self._global_batch or most_images
        flops = None
        if self._count_flops is not None and self._ranks.rank == 0:
            flops = flops_of_step(self._count_flops, batch, self._ranks.size)
        environment = gather_environment(self._ranks, cores, threads, batch, self._parallelism, model_flops=flops)
        told = None
        if environment is not None:
            write_json(self.folder.environment, environment)
            told = otherwise(self.config, environment)
        if (told := self._ranks.broadcast(told)) is not None:
            raise UserError(f"run {self.folder.path.name} is not what its study asks for: {told}")

    def finish(self, parameters: int, optimizer_bytes: int) -> None:
        """A `fit` has ended as it should: leave the result for the study. Another fit may follow.

        `parameters`: of the model; `optimizer_bytes`: of the optimizer's state that this rank keeps.
        """
        assert self._ranks is not None
        taken = self._ranks.gather((optimizer_bytes, process_resources()))
        if self._step_log is not None:
            self._step_log.sync()
        self._ranks.barrier()  # all records are there before the result
        if taken is None or not self._progress.epochs_done:
            return
        processes = [process for _, process in taken]
        result = Result(
            schema=SCHEMA,
            progress=msgspec.structs.replace(self._progress, steps_done=self.step_count),
            parameters=parameters,
            optimizer_bytes=[optimizer for optimizer, _ in taken],
            peak_memory_bytes=[process.peak_memory_bytes for process in processes],
            data_digest=None,
            training_images=None,
            validation_images=None,
            resources=Resources(
                wall_seconds=wall_seconds_of(processes), steps_before=0, gpu_peak_bytes=gpu_peak_bytes_of(processes)
            ),
        )
        write_json(waiting_result(self.folder), result)


@dataclass
class _EpochSums:
    """Of this rank's steps in an epoch."""

    steps: int = 0
    images: int = 0
    nanoseconds: int = 0


def over_ranks(of_ranks: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """What all ranks report alike, and the training loss and accuracy where they report their own.

    Means over a rank's samples, weighted by how many these are, give the mean over all samples. Other values of one
    rank, such as an AUC, say nothing about all of them: they are left out.
    """
    _, first = of_ranks[0]
    found: dict[str, float] = {}
    for name, value in first.items():
        values = [logs.get(name, math.nan) for _, logs in of_ranks]
        if not all(isinstance(each, int | float) and math.isfinite(each) for each in values):
            continue
        if all(math.isclose(each, value, rel_tol=_SAME, abs_tol=1e-12) for each in values):
            found[name] = float(value)
        elif name == "loss" or name in ACCURACIES:
            total = sum(images for images, _ in of_ranks)
            found[name] = math.fsum(images * each for (images, _), each in zip(of_ranks, values, strict=True)) / total
    return found


def _without_loss(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value for name, value in metrics.items() if name != "loss"}


def _accuracy_in(metrics: Mapping[str, float]) -> float | None:
    for name in ACCURACIES:
        if name in metrics and 0 <= metrics[name] <= 1:
            return metrics[name]
    return None
