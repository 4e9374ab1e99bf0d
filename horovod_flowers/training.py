"""The training loop of one rank."""

import contextlib
import copy
import itertools
import math
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import keras
import msgspec
import numpy as np

from horovod_flowers import runlog
from horovod_flowers.announcement import describe_epoch, describe_result
from horovod_flowers.board import Board
from horovod_flowers.checkpoint import PartialEpoch
from horovod_flowers.checkpointing import Checkpointing
from horovod_flowers.config import RunConfig
from horovod_flowers.data.augment import Augmentation
from horovod_flowers.data.batches import Batch, Prefetcher, evaluation_batches, training_batches
from horovod_flowers.data.order import Split, per_rank_batch, steps_per_epoch
from horovod_flowers.data.prepared import Prepared
from horovod_flowers.dropout_seeds import DropoutSeeds
from horovod_flowers.elastic.commit import Commits
from horovod_flowers.errors import JobError, Stopped, UserError
from horovod_flowers.interruption import StopRequest
from horovod_flowers.learning_rate import schedule
from horovod_flowers.model import build_model, load_weights
from horovod_flowers.model_state import ModelState
from horovod_flowers.optimizer import build_over, make_optimizer
from horovod_flowers.pooled_activation import move_relu_behind_pooling
from horovod_flowers.position import POSITION
from horovod_flowers.precision import Precision
from horovod_flowers.progress import Steps, say
from horovod_flowers.ranks import Ranks
from horovod_flowers.runlog import EpochRecord, LineLog, RunFolder
from horovod_flowers.soundness import BadLoss, check_same_weights, stop_alone, stop_at_bad_loss
from horovod_flowers.standing import EpochSums, Standing
from horovod_flowers.step import Evaluation, EvaluationPass, TrainingStep, Update
from horovod_flowers.strategy.choice import make_strategy
from horovod_flowers.weight_average import WeightAverage


class Training:
    """Model, optimizer and strategy of one rank, and the epochs it runs."""

    def __init__(
        self, config: RunConfig, ranks: Ranks, prepared: Prepared, images: Split, strategy: str, precision: Precision
    ) -> None:
        """Build everything. `strategy` is the one that was chosen, where the configuration says 'auto'.

        Raises UserError where the model cannot be built, or the strategy finds nothing to divide in it.
        """
        self.config, self.ranks, self.prepared, self.images = config, ranks, prepared, images
        POSITION.at("building the model", long=True)
        keras.backend.clear_session()  # names of layers count from the first model that a process builds
        keras.utils.set_random_seed(config.seed)
        self.model = build_model(config.model.name, prepared.image_size, len(prepared.class_names))
        begins = not config.resume or config.replay_step is not None
        if config.model.weights is not None and ranks.rank == 0 and begins:  # the others get them from it
            load_weights(self.model, Path(config.model.weights))
        self.parameters = self.model.count_params()
        move_relu_behind_pooling(self.model)
        self.strategy = make_strategy(strategy, config, ranks, precision, self.model)
        self.state = ModelState(self.model, self.strategy)
        self.optimizer = make_optimizer(config.optimizer)
        build_over(self.optimizer, self.strategy.updated, [part.shape for part in self.strategy.parts])
        self.state.add_optimizer(self.optimizer)
        self.global_batch = config.global_batch_for(ranks.size)
        whole_epoch = steps_per_epoch(len(images.training), self.global_batch)
        self.steps_per_epoch = min(config.steps or whole_epoch, whole_epoch)
        update_batch = self.global_batch * config.accumulate
        self.schedule = schedule(config.optimizer, update_batch, self.steps_per_epoch, config.epochs)
        self.average = None
        if config.average_decay:
            decay = config.average_decay ** (update_batch / config.optimizer.base_batch)
            self.average = WeightAverage(self.strategy, self.state.statistics, decay)
            self.state.add_average(self.average.variables)
        self.step = TrainingStep(
            self.model,
            self.optimizer,
            self.strategy,
            ranks.size,
            precision,
            label_smoothing=config.label_smoothing,
            average=self.average,
        )
        self._evaluate = EvaluationPass(self.model, ranks)
        self._checkpoints = Checkpointing(config, ranks, prepared, self.state)
        self._writes_checkpoints = config.checkpoint and self.strategy.trains_one_model
        self.standing = Standing()
        self._bad_loss: BadLoss | None = None
        self._steps_here = 0  # steps of this process: its first ones are warm-up
        self._dropout = DropoutSeeds(self.model)
        self._commits: Commits | None = None
        self.reached = 0
        """The first step that was not done yet; with --elastic."""

    def start(self, folder: RunFolder, commits: Commits | None = None) -> None:
        """Restore a checkpoint on rank 0 where asked to, and give every rank the same state. Changes no file.

        `commits`: of an elastic run, on every rank; what rank 0 holds in it counts instead of a checkpoint.

        Raises UserError where the checkpoint does not fit or nothing is left to train.
        """
        tensors, standing = None, None
        if self.ranks.rank == 0 and commits is not None and commits.last is not None:
            tensors, standing = commits.last.tensors, copy.copy(commits.last.standing)
        elif self.ranks.rank == 0 and self.config.resume:
            tensors, standing = self._checkpoints.restore(folder)
        self.standing = self.ranks.broadcast(standing) or Standing()
        self.state.share(tensors)
        if self.average is not None and not self.ranks.broadcast(tensors is not None):
            self.average.begin()
        if commits is not None:
            self._commits, self.reached = commits, self.standing.steps
        self._dropout.offset(self.ranks.rank)

    def time_steps(self, updates: int) -> list[float]:
        """Seconds a step of the slowest rank, in each of some updates of the weights. Every rank calls it."""
        seconds, accumulate = [], self.config.accumulate
        batches = itertools.cycle(self.batches(1))
        for _ in range(updates):
            own = list(itertools.islice(batches, accumulate))
            images = sum(batch.global_images for batch in own)
            self.ranks.barrier()
            self.ranks.total(np.zeros(1))  # aligns the ranks more finely than the patient barrier
            started = time.monotonic()
            for number, batch in enumerate(own, 1):
                self.step(batch, self.schedule.at(0), Update(images, accumulate, last=number == accumulate))
            seconds.append(self.ranks.largest(time.monotonic() - started) / accumulate)
        return seconds

    def run(self, folder: RunFolder, request: StopRequest) -> None:
        """Train up to the last epoch, logging into a run folder that rank 0 has made. Every rank calls it.

        Raises Stopped, with a checkpoint written, after the update in which the `request` to stop came.
        """
        standing = self.standing
        self._keep(standing)
        ranks, first = self.ranks, self.ranks.rank == 0
        step_log = self._open_step_log(folder)
        if first:
            runlog.forget_epochs(folder, standing.epochs_done)
        epoch_log = LineLog(folder.epochs, durable=True) if first else None
        board = Board(folder.tensorboard) if first and self.config.tensorboard else None
        if self._writes_checkpoints:
            self._checkpoints.open(folder, standing)
        for epoch in range(standing.epochs_done + 1, self.config.epochs + 1):
            if standing.epochs_without_progress >= (self.config.early_stopping or math.inf):
                break
            if self._commits is not None:
                self._commits.check_hosts(ranks)
            sums = self._train_epoch(epoch, standing, step_log, request)
            if sums.stopped_by is not None:
                step_log.close()
                self._stop(folder, standing, sums)
            record = self._finish_epoch(epoch, standing, sums)
            self._keep(standing, record)
            if self._writes_checkpoints:
                step_log.sync()  # as the epoch's record below
                seconds = sums.checkpoint_seconds + self._checkpoints.copy(standing)
                record = msgspec.structs.replace(record, checkpoint_seconds=seconds)
            if epoch_log is not None:
                epoch_log.write(record)  # before the checkpoint: a run that goes on from it has the record
                say(describe_epoch(record, self.config.epochs))
            self._checkpoints.begin()
            if board is not None:
                board.write(record)
        request.agreed_now(ranks)  # too late to stop: this only receives what is under way
        POSITION.at("the end of the run", long=True)
        self._checkpoints.finish()
        step_log.close()
        memory = ranks.gather((self.state.optimizer_bytes, _peak_memory_bytes()))
        if epoch_log is not None and memory is not None:
            epoch_log.close()
            self._finish(folder, standing, memory)
        ranks.barrier()

    def _open_step_log(self, folder: RunFolder) -> LineLog:
        """Open this rank's step file; UserError on all ranks where a node does not see the run folder."""
        log, error = None, None
        try:
            log = runlog.open_step_log(folder, self.ranks.rank, self.ranks.size, os.uname().nodename)
        except UserError as found:
            error = found
        self.ranks.agree(error)
        assert log is not None
        return log

    def _train_epoch(self, epoch: int, standing: Standing, step_log: LineLog, request: StopRequest) -> EpochSums:
        """Run one epoch's steps, or what is left of them, up to the end or a request to stop: sums over all ranks."""
        POSITION.at("the beginning of epoch {}", epoch)
        self.ranks.barrier()  # rank 0 may still be writing a checkpoint: that is no step's time
        stopped_by = request.agreed_now(self.ranks)  # aligns the ranks more finely than the patient barrier, too
        own = (
            self._run_steps(epoch, standing, step_log, request)
            if stopped_by is None
            else EpochSums(stopped_by=stopped_by)
        )
        POSITION.at("the end of the steps of epoch {}", epoch)
        self.ranks.barrier()  # independent ranks drift apart: that is no stall
        sums = self._over_ranks(standing, own)
        # Ranks that train apart may have been told at different times.
        stopped = self.ranks.largest(own.stopped_by is not None)
        sums.stopped_by = request.agreed_now(self.ranks) if stopped else None
        return sums

    def _over_ranks(self, standing: Standing, own: EpochSums) -> EpochSums:
        """What all ranks have done of the epoch in work. Every rank calls it.

        Raises a JobError on all of them where the loss of any is not a finite number.
        """
        by_rank = np.zeros(self.ranks.size)
        by_rank[self.ranks.rank] = own.seconds
        totals = self.ranks.total(np.concatenate([[own.loss_sum, own.correct, own.images], by_rank]))
        if not np.isfinite(totals[0]):
            stop_at_bad_loss(self.ranks, self._bad_loss, self.config)
        before = standing.partial or PartialEpoch(0, 0, 0.0, 0, 0.0)
        return replace(
            own,
            steps=before.steps + own.steps,
            loss_sum=before.loss_sum + float(totals[0]),
            correct=before.correct + round(totals[1]),
            images=before.images + round(totals[2]),
            seconds=before.training_seconds + float(totals[3:].max()),
        )

    def _finish_epoch(self, epoch: int, standing: Standing, sums: EpochSums) -> EpochRecord:
        """Evaluate, and bring `standing` up to date. The record is the same on every rank."""
        standing.epochs_done = epoch
        standing.steps_done += self.steps_per_epoch
        standing.partial = None
        standing.training_seconds += sums.seconds
        if self.strategy.trains_one_model:
            self.average_statistics()
        self._check_weights(standing)
        started = time.monotonic()
        evaluation = self._validate() if self.config.validate and self.strategy.trains_one_model else None
        if evaluation is not None:
            if not math.isfinite(evaluation.loss):
                raise JobError(
                    f"the validation loss is {evaluation.loss} after epoch {epoch}: this epoch was not saved; lower "
                    "the learning rate, or look at the validation images and the model"
                )
            standing.evaluated(evaluation.accuracy)
        return EpochRecord(
            epoch=epoch,
            steps=self.steps_per_epoch,
            images=sums.images,
            learning_rate=sums.learning_rate,
            training_seconds=sums.seconds,
            training_loss=sums.loss_sum / sums.images,
            training_accuracy=sums.correct / sums.images,
            validation_images=evaluation.images if evaluation else None,
            validation_loss=evaluation.loss if evaluation else None,
            validation_accuracy=evaluation.accuracy if evaluation else None,
            validation_seconds=time.monotonic() - started if evaluation else None,
        )

    def _stop(self, folder: RunFolder, standing: Standing, sums: EpochSums) -> None:
        """Write a checkpoint of where the run stands, and raise Stopped. Every rank calls it."""
        where = f"stopped on request ({sums.stopped_by}) after epoch {standing.epochs_done}"
        if sums.steps:
            where += f" and {sums.steps} of {self.steps_per_epoch} steps"
        if not self._writes_checkpoints:
            raise Stopped(f"{where}, without a checkpoint; starting run {folder.path} again begins anew")
        here = standing.within_epoch(sums)
        self._check_weights(here)
        self._checkpoints.save(here)
        self._checkpoints.finish()
        self.ranks.barrier()  # a launcher may end the others as soon as one has gone
        raise Stopped(f"{where}; checkpoint written, --resume --name {folder.path.name} goes on from there")

    def _run_steps(self, epoch: int, standing: Standing, step_log: LineLog, request: StopRequest) -> EpochSums:
        """This rank's sums over the steps that it ran."""
        sums, done = EpochSums(), standing.steps_into_epoch
        label = f"epoch {epoch}/{self.config.epochs}"
        batches = itertools.islice(self.batches(epoch, done), self.steps_per_epoch - done)
        with (
            Prefetcher(batches) as ready,
            Steps(label, self.steps_per_epoch - done, "steps", muted=self.ranks.rank != 0) as progress,
        ):
            started_ns = previous_ns = time.monotonic_ns()
            paused_ns = 0
            POSITION.at("reading the first batch of epoch {}", epoch)
            for place, batch in enumerate(ready, done):
                batch_ns = time.monotonic_ns()
                step, update = standing.steps_done + place, self.update_of(place)
                sums.learning_rate = self.schedule.at(step)
                traces = self._steps_here < self.config.accumulate  # a graph for all of an update, one for its end
                POSITION.at("step {} of epoch {}", step, epoch, long=traces)
                outcome = self.step(batch, sums.learning_rate, update)
                POSITION.at("the record of step {} of epoch {}", step, epoch)
                warmup = self._steps_here < self.config.warmup_steps
                step_log.write(outcome.record(epoch, step, batch.rank_images, warmup, previous_ns, batch_ns))
                POSITION.at("reading the batch after step {} of epoch {}", step, epoch)
                previous_ns = outcome.end_ns
                self._steps_here += 1
                sums.steps += 1
                sums.loss_sum += outcome.loss_sum
                sums.correct += outcome.correct
                sums.images += batch.rank_images
                if not math.isfinite(outcome.loss_sum):
                    where = f"{label}, step {place + 1} of {self.steps_per_epoch}"
                    self._stop_at(BadLoss.of(self.ranks, step, where, outcome.loss_sum, batch), request)
                progress.advance(detail=f"loss {sums.loss_sum / sums.images:.3f}" if sums.images else "")
                self.reached = step + 1
                # Not after the last step: the epoch's end comes first.
                if update.last and place + 1 < self.steps_per_epoch:
                    if self._writes_checkpoints and self._checkpoints.due(step + 1):
                        step_log.sync()  # a run that goes on from the checkpoint has the records before it
                        sums.seconds = (previous_ns - started_ns - paused_ns) / 1e9
                        sums.checkpoint_seconds += self._save_within_epoch(standing, sums)
                        POSITION.at("reading the batch after step {} of epoch {}", step, epoch)
                        paused_ns += time.monotonic_ns() - previous_ns
                        previous_ns = time.monotonic_ns()
                    sums.stopped_by = request.agreed(self.ranks, self.strategy.trains_one_model)
                    if sums.stopped_by is not None:
                        break
                    if self._commits is not None and self._commits.due(self.config.commit_steps):
                        sums.seconds = (previous_ns - started_ns - paused_ns) / 1e9
                        self._commit(self._commits, standing.within_epoch(self._over_ranks(standing, sums)))
        sums.seconds = (previous_ns - started_ns - paused_ns) / 1e9
        return sums

    def _commit(self, commits: Commits, here: Standing) -> None:
        """Keep where the run stands in the middle of an epoch. Raises HostsChanged where there are other hosts."""
        self.average_statistics()  # as at the end of an epoch: running averages of averages
        self._keep(here)
        commits.check_hosts(self.ranks)

    def _keep(self, standing: Standing, record: EpochRecord | None = None) -> None:
        """Keep what the ranks of an elastic run go on from when one of them is lost."""
        if self._commits is None:
            return
        self._dropout.offset(0)  # as rank 0 has it
        self._commits.take(self.config, standing, self.state.held_here(), record)
        self._dropout.offset(self.ranks.rank)

    def _stop_at(self, bad: BadLoss, request: StopRequest) -> None:
        """Have all ranks stop for a loss of this one; a rank that trains apart from them ends the job by itself."""
        self._bad_loss = self._bad_loss or bad
        request.alarm()
        if not self.strategy.trains_one_model:
            stop_alone(bad, self.config, self.ranks.size)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """This rank's batches of an epoch, from a step of it on."""
        return training_batches(
            self.prepared,
            self.images.training,
            global_batch=self.global_batch,
            rank=self.ranks.rank,
            size=self.ranks.size,
            seed=self.config.seed,
            epoch=epoch,
            augmentation=Augmentation.of(self.config.data),
            first_step=first_step,
        )

    def update_of(self, step: int) -> Update:
        """The update that a step of an epoch belongs to; an epoch's last one may have fewer steps."""
        first = step // self.config.accumulate * self.config.accumulate
        end = min(first + self.config.accumulate, self.steps_per_epoch)
        images = min(end * self.global_batch, len(self.images.training)) - first * self.global_batch
        return Update(images, end - first, last=step == end - 1)

    def _validate(self) -> Evaluation:
        """Evaluate every validation image exactly once over the ranks."""
        batches = evaluation_batches(
            self.prepared,
            self.images.validation,
            batch=per_rank_batch(self.global_batch, self.ranks.size),
            rank=self.ranks.rank,
            size=self.ranks.size,
        )
        with self._averaged_weights(), Prefetcher(batches) as ready:
            return self._evaluate(ready)

    def _averaged_weights(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.average is None else self.average.in_place_of_weights()

    def average_statistics(self) -> None:
        """Average over the ranks, at the end of an epoch, what training moves without gradients, such as
        batch-normalisation statistics. Every rank calls it."""
        for variable in [*self.state.statistics, *(self.average.statistics if self.average else ())]:
            value = np.asarray(variable)
            variable.assign((self.ranks.total(np.ascontiguousarray(value)) / self.ranks.size).astype(value.dtype))

    def save(self, folder: RunFolder) -> None:
        """Write a checkpoint of where the ranks start from. Every rank calls it."""
        self._checkpoints.open(folder, self.standing)
        self._checkpoints.save(self.standing)

    def leave(self) -> None:
        """Wait for what is still being written, before other ranks go on with the run."""
        self._checkpoints.finish()

    def _save_within_epoch(self, standing: Standing, own: EpochSums) -> float:
        """Write a checkpoint in the middle of an epoch: seconds that this rank waited for it. Every rank calls it."""
        here = standing.within_epoch(self._over_ranks(standing, own))
        self._check_weights(here)
        return self._checkpoints.save(here)

    def _check_weights(self, standing: Standing) -> None:
        if self.config.check_weights and self.strategy.trains_one_model:
            check_same_weights(self.ranks, self.strategy, standing.steps)

    def _finish(self, folder: RunFolder, standing: Standing, memory: list[tuple[int, int]]) -> None:
        """Write the result and say it, on rank 0."""
        result = standing.result(
            parameters=self.parameters,
            optimizer_bytes=[optimizer for optimizer, _ in memory],
            peak_memory_bytes=[peak for _, peak in memory],
            data_digest=self.prepared.digest,
            training_images=len(self.images.training),
            validation_images=len(self.images.validation),
            stopped_early=standing.epochs_done < self.config.epochs,
        )
        runlog.write_json(folder.result, result)
        for line in describe_result(result, folder.path):
            say(line)


def _peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux gives KiB
