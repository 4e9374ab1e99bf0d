"""The logged epochs of a run on one rank: steps, evaluation, records, checkpoints, and stopping."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np

from horovod_flowers.checkpoint.manager import CheckpointManager
from horovod_flowers.emulation.gauge import CoreReading, together
from horovod_flowers.ranks.stop_request import StopRequest
from horovod_flowers.runlog.environment import gather_core_gauge
from horovod_flowers.runlog.json_lines import LineLog, write_json
from horovod_flowers.runlog.process_resources import (
    ProcessResources,
    gpu_peak_bytes_of,
    process_resources,
    wall_seconds_of,
)
from horovod_flowers.runlog.records import SCHEMA, EpochRecord, Result
from horovod_flowers.runlog.resources import Resources
from horovod_flowers.runlog.run_folder import RunFolder, forget_epochs, open_step_log
from horovod_flowers.runlog.step_spread import bursts_in_words
from horovod_flowers.runlog.training_progress import PartialEpoch, TrainingProgress
from horovod_flowers.runtime.console import say, warn
from horovod_flowers.runtime.errors import JobError, Stopped, UserError
from horovod_flowers.runtime.heartbeat import HEARTBEAT
from horovod_flowers.training.console_log import describe_epoch, describe_result
from horovod_flowers.training.elastic_commits import Commits
from horovod_flowers.training.engine import TrainingEngine
from horovod_flowers.training.health import BadLoss, check_same_weights, stop_alone, stop_at_bad_loss
from horovod_flowers.training.step import sums_over
from horovod_flowers.training.step_loop import EpochSums, StepLoop
from horovod_flowers.training.tensorboard import TensorBoardWriter


class Trainer:
    """Trains a run from where it stands to its last epoch."""

    def __init__(
        self,
        engine: TrainingEngine,
        checkpoints: CheckpointManager,
        progress: TrainingProgress,
        folder: RunFolder,
        request: StopRequest,
        commits: Commits | None = None,
        read_cores: Callable[[], CoreReading] | None = None,
    ) -> None:
        """`progress`: how far the state is that the engine's ranks share; `commits`: of an elastic run;
        `read_cores`: of an emulated one, begins to measure how long ranks wait for cores."""
        self.engine, self.progress = engine, progress
        self.config, self.ranks, self.strategy = engine.config, engine.ranks, engine.strategy
        self.folder, self._request, self._commits = folder, request, commits
        self._checkpoints = checkpoints
        self._writes_checkpoints = self.config.checkpoint and self.strategy.trains_one_model
        self._bad_loss: BadLoss | None = None
        self._loop = StepLoop(engine, self._stop_at, read_cores)
        self._loop.reached = self._steps_before = progress.steps
        engine.learning_rate_factor = progress.plateau.factor

    @property
    def reached(self) -> int:
        """The first step of the run that this process has not done."""
        return self._loop.reached

    def run(self) -> None:
        """Train up to the last epoch, logging into the run folder that rank 0 has made. Every rank calls it.

        Raises Stopped, with a checkpoint written, after the update in which the request to stop came.
        """
        first, config = self.ranks.rank == 0, self.config
        self._keep(self.progress)
        step_log = self._open_step_log()
        if first:
            forget_epochs(self.folder, self.progress.epochs_done)
        epoch_log = LineLog(self.folder.epochs, durable=True) if first else None
        board = TensorBoardWriter(self.folder.tensorboard) if first and config.tensorboard else None
        if self._writes_checkpoints:
            self._checkpoints.open(self.folder, self.progress)
        for epoch in range(self.progress.epochs_done + 1, config.epochs + 1):
            if self.progress.epochs_without_progress(config.early_stopping_on) >= (config.early_stopping or math.inf):
                break
            if self._commits is not None:
                self._commits.check_hosts(self.ranks)
            sums = self._train_epoch(epoch, step_log)
            if sums.stopped_by is not None:
                step_log.close()
                self._stop(sums)
            record = self._finish_epoch(epoch, sums)
            self._keep(self.progress, record)
            if self._writes_checkpoints:
                step_log.sync()  # as the epoch's record below
                seconds = sums.checkpoint_seconds + self._checkpoints.copy(self.progress)
                record = msgspec.structs.replace(record, checkpoint_seconds=seconds)
            if epoch_log is not None:
                epoch_log.write(record)  # before the checkpoint: a run that goes on from it has the record
                say(describe_epoch(record, config.epochs))
            self._checkpoints.begin()
            if board is not None:
                board.write(record)
        self._finish(step_log, epoch_log)

    def _open_step_log(self) -> LineLog:
        """Open this rank's step file; UserError on all ranks where a node does not see the run folder."""
        log, error = None, None
        try:
            log = open_step_log(self.folder, self.ranks.rank, self.ranks.size, os.uname().nodename)
        except UserError as found:
            error = found
        self.ranks.raise_on_all(error)
        assert log is not None
        return log

    def _train_epoch(self, epoch: int, step_log: LineLog) -> EpochSums:
        """Run one epoch's steps, or what is left of them, up to the end or a request to stop: sums over all ranks."""
        HEARTBEAT.at("the beginning of epoch {}", epoch)
        self.ranks.barrier()  # rank 0 may still be writing a checkpoint: that is no step's time
        stopped_by = self._request.agreed_now(self.ranks)  # aligns the ranks more finely than the patient barrier, too
        own = EpochSums(stopped_by=stopped_by)
        if stopped_by is None:
            own = self._loop.run(epoch, self.progress, step_log, lambda sums, step: self._after(sums, step, step_log))
        HEARTBEAT.at("the end of the steps of epoch {}", epoch)
        self.ranks.barrier()  # independent ranks drift apart: that is no stall
        sums = self._over_ranks(own)
        # Ranks that train independently may have been told at different times.
        stopped = self.ranks.allreduce_max(own.stopped_by is not None)
        sums.stopped_by = self._request.agreed_now(self.ranks) if stopped else None
        return sums

    def _after(self, sums: EpochSums, step: int, step_log: LineLog) -> None:
        """What is done between two updates of an epoch: a checkpoint, a look for requests to stop, a commit."""
        if self._writes_checkpoints and self._checkpoints.due(step):
            step_log.sync()  # a run that goes on from the checkpoint has the records before it
            with sums.clock.paused():
                here = self._within_epoch(self._over_ranks(sums))
                self._check_weights(here)
                sums.checkpoint_seconds += self._checkpoints.save(here)
        sums.stopped_by = self._request.agreed(self.ranks, self.strategy.trains_one_model)
        if sums.stopped_by is None and self._commits is not None and self._commits.due(self.config.commit_steps):
            here = self._within_epoch(self._over_ranks(sums))
            self.engine.average_statistics()  # as at the end of an epoch: running averages of averages
            self._keep(here)
            self._commits.check_hosts(self.ranks)

    def _over_ranks(self, own: EpochSums) -> EpochSums:
        """What all ranks have done of the epoch in work. Every rank calls it.

        Raises a JobError on all of them where the loss of any is not a finite number.
        """
        by_rank = np.zeros(self.ranks.size)
        by_rank[self.ranks.rank] = own.seconds
        totals = self.ranks.allreduce_sum(np.concatenate([[own.loss_sum, own.correct, own.images], by_rank]))
        if not np.isfinite(totals[0]):
            stop_at_bad_loss(self.ranks, self._bad_loss, self.config)
        before = self.progress.partial or PartialEpoch(0, 0, 0.0, 0, 0.0)
        return replace(
            own,
            metric_sums=sums_over(self.ranks, self.engine.metrics, before.metric_sums),
            steps=before.steps + own.steps,
            loss_sum=before.loss_sum + float(totals[0]),
            correct=before.correct + round(totals[1]),
            images=before.images + round(totals[2]),
            seconds=before.training_seconds + float(totals[3:].max()),
        )

    def _within_epoch(self, sums: EpochSums) -> TrainingProgress:
        """How far the run is in the middle of an epoch; `sums` over all ranks."""
        partial = PartialEpoch(sums.steps, sums.images, sums.loss_sum, sums.correct, sums.seconds, sums.metric_sums)
        return self.progress.within_epoch(partial)

    def _finish_epoch(self, epoch: int, sums: EpochSums) -> EpochRecord:
        """Evaluate, and take the epoch into the progress. The record is the same on every rank."""
        self.progress = self.progress.after_epoch(self.engine.steps_per_epoch, sums.seconds)
        if self.strategy.trains_one_model:
            self.engine.average_statistics()
        self._check_weights(self.progress)
        metrics = self.engine.metrics
        measured = metrics.results(np.asarray(sums.metric_sums)) if metrics is not None else {}
        started = time.monotonic()
        evaluation = self.engine.validate() if self.config.validate and self.strategy.trains_one_model else None
        if evaluation is not None:
            if not math.isfinite(evaluation.loss):
                raise JobError(
                    f"the validation loss is {evaluation.loss} after epoch {epoch}: this epoch was not saved; lower "
                    "the learning rate, or look at the validation images and the model"
                )
            self.progress = self.progress.evaluated(evaluation.accuracy, evaluation.loss)
            self._follow_plateau(epoch, evaluation.loss)
        return EpochRecord(
            epoch=epoch,
            steps=self.engine.steps_per_epoch,
            images=sums.images,
            learning_rate=sums.learning_rate,
            training_seconds=sums.seconds,
            training_loss=sums.loss_sum / sums.images,
            training_accuracy=sums.correct / sums.images,
            validation_images=evaluation.images if evaluation else None,
            validation_loss=evaluation.loss if evaluation else None,
            validation_accuracy=evaluation.accuracy if evaluation else None,
            validation_seconds=time.monotonic() - started if evaluation else None,
            training_metrics=measured,
            validation_metrics=evaluation.metrics if evaluation else {},
        )

    def _follow_plateau(self, epoch: int, validation_loss: float) -> None:
        """Let the learning rate of the epochs to come fall where the validation loss has not."""
        optimizer = self.config.optimizer
        if optimizer.plateau_epochs is None:
            return
        before = self.progress.plateau
        plateau = before.after(epoch, validation_loss, optimizer.plateau_epochs, optimizer.plateau_factor)
        self.progress = msgspec.structs.replace(self.progress, plateau=plateau)
        self.engine.learning_rate_factor = plateau.factor
        if plateau.factor != before.factor and self.ranks.rank == 0:
            say(
                f"the validation loss has not fallen in {optimizer.plateau_epochs} epochs: learning rate times "
                f"{optimizer.plateau_factor:g}, {plateau.factor:g} of its schedule"
            )

    def _stop(self, sums: EpochSums) -> None:
        """Write a checkpoint of where the run stands, and raise Stopped. Every rank calls it."""
        where = f"stopped on request ({sums.stopped_by}) after epoch {self.progress.epochs_done}"
        if sums.steps:
            where += f" and {sums.steps} of {self.engine.steps_per_epoch} steps"
        if not self._writes_checkpoints:
            raise Stopped(
                f"{where}, without a checkpoint; rerunning it starts run {self.folder.path} from the beginning"
            )
        here = self._within_epoch(sums)
        self._check_weights(here)
        self._checkpoints.save(here)
        self._checkpoints.finish()
        self.ranks.barrier()  # a launcher may end the others as soon as one has gone
        raise Stopped(f"{where}; checkpoint written, --resume --name {self.folder.path.name} continues from there")

    def _stop_at(self, bad: BadLoss) -> None:
        """Have all ranks stop for a loss of this one; a rank that trains independently ends the job by itself."""
        self._bad_loss = self._bad_loss or bad
        self._request.alarm()
        if not self.strategy.trains_one_model:
            stop_alone(bad, self.config, self.ranks.size)

    def _keep(self, progress: TrainingProgress, record: EpochRecord | None = None) -> None:
        """Keep what the ranks of an elastic run go on from when one of them is lost."""
        if self._commits is not None:
            self._commits.take(self.config, progress, self.engine.held_as_on_rank_0(), record)

    def _check_weights(self, progress: TrainingProgress) -> None:
        if self.config.check_weights and self.strategy.trains_one_model:
            check_same_weights(self.ranks, self.strategy, progress.steps)

    def save(self) -> None:
        """Write a checkpoint of where the ranks start from. Every rank calls it."""
        self._checkpoints.open(self.folder, self.progress)
        self._checkpoints.save(self.progress)

    def leave(self) -> None:
        """Wait for what is still being written, before other ranks go on with the run."""
        self._checkpoints.finish()

    def _finish(self, step_log: LineLog, epoch_log: LineLog | None) -> None:
        """Wait for the last checkpoint; write the result and say it, on rank 0."""
        self._request.agreed_now(self.ranks)  # too late to stop: this only receives what is under way
        HEARTBEAT.at("the end of the run", long=True)
        waited = time.monotonic()
        self._checkpoints.finish()
        waited = time.monotonic() - waited
        step_log.close()
        own = together(self._loop.gauges)
        gauge = None if own is None else gather_core_gauge(self.ranks, own)
        times = self.ranks.gather((os.uname().nodename, self._loop.times.total, self._loop.times.work))
        taken = self.ranks.gather((self.engine.state.optimizer_bytes, process_resources()))  # last: it ends wall times
        if epoch_log is not None and taken is not None and times is not None:
            epoch_log.close()
            result = msgspec.structs.replace(self._result(taken, waited), core_gauge=gauge)
            self._checkpoints.check_folder()
            write_json(self.folder.result, result)
            for line in describe_result(result, self.folder.path, self.config.early_stopping_on):
                say(line)
            if gauge is not None and gauge.problem is not None:
                warn(f"run {self.folder.path.name} is emulated, and no measurement: {gauge.problem}")
            slowest = max((total for _, total, _ in times), key=lambda total: total.mean_seconds)
            work = {f"rank {rank} on {host}": own for rank, (host, _, own) in enumerate(times)}
            if (sentence := bursts_in_words(slowest, work)) is not None:
                say(sentence)
        self.ranks.barrier()

    def _result(self, taken: list[tuple[int, ProcessResources]], waited_seconds: float) -> Result:
        """The final record; `taken`: bytes of the optimizer's state, and what the process took, of each rank;
        `waited_seconds`: for what was still being written of checkpoints."""
        engine, written = self.engine, self._checkpoints.written
        processes = [process for _, process in taken]
        return Result(
            schema=SCHEMA,
            progress=self.progress,
            parameters=engine.parameters,
            optimizer_bytes=[optimizer for optimizer, _ in taken],
            peak_memory_bytes=[process.peak_memory_bytes for process in processes],
            data_digest=engine.prepared.digest,
            training_images=len(engine.images.training),
            validation_images=len(engine.images.validation),
            stopped_early=self.progress.epochs_done < self.config.epochs,
            resources=Resources(
                wall_seconds=wall_seconds_of(processes),
                steps_before=self._steps_before,
                gpu_peak_bytes=gpu_peak_bytes_of(processes),
                checkpoints=written.checkpoints,
                checkpoint_bytes=written.size_bytes,
                checkpoint_write_seconds=written.seconds,
                last_checkpoint_wait_seconds=waited_seconds,
                data_bytes=engine.prepared.stored_bytes,
            ),
        )
