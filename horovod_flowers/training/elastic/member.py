"""One process among the ranks of an elastic job: what it trains with whichever ranks there are."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from horovod_flowers.checkpoint.format import LAST, SavedProgress, read_progress, save_checkpoint
from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.opening import open_data
from horovod_flowers.data.prepared import Prepared
from horovod_flowers.launch.job_environment import ELASTIC, JobEnvironment
from horovod_flowers.ranks.affinity import Cores, unbound
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.gloo import GlooCommunicator
from horovod_flowers.ranks.stop_request import StopRequest
from horovod_flowers.runlog.json_lines import LineLog, read_lines
from horovod_flowers.runlog.records import Cause, Change, EpochRecord
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.run_hold import RunHold
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import Stopped, UserError
from horovod_flowers.runtime.files import write_whole
from horovod_flowers.runtime.machine import core_of, machine_id, utc_now
from horovod_flowers.training.checks_before_mpi import check_before_mpi
from horovod_flowers.training.elastic.hosts import HostNews, newest
from horovod_flowers.training.elastic_commits import Commit, Commits, HostsChanged
from horovod_flowers.training.resume import IN_USE
from horovod_flowers.training.setup import agree_on_precision, begin_records, set_up, with_name
from horovod_flowers.training.trainer import Trainer


@dataclass(frozen=True)
class MemberInfo:
    """What the ranks tell each other when they meet."""

    slot: str
    committed: int
    """The step that its commit goes on with; -1 where it has none."""
    reached: int
    slots: tuple[str, ...]
    """Of all ranks before; empty in a new process."""
    cause: Cause
    """Why these parted."""
    parted_seconds: float
    """Since the ranks before parted."""
    machine: str
    cpus: frozenset[int]


class ContinuingRanks(Ranks):
    """Ranks of which some have trained already: a mistake that one of them finds on its node ends that one alone."""

    def raise_on_all(self, error: UserError | None) -> None:
        """Raise this rank's own error; HostsChanged where another rank has one and leaves."""
        found = self.allgather(error is not None)
        if error is not None:
            if self.rank != 0:  # which tells its own as ever
                host = os.uname().nodename
                print(
                    f"horovod_flowers.train: error: {error} [rank {self.rank} on {host}]", file=sys.stderr, flush=True
                )
            raise error
        if any(found):
            raise HostsChanged


class Member:
    """This process, whatever its rank."""

    def __init__(
        self,
        config: RunConfig,
        job: JobEnvironment,
        slot: str,
        threads: int,
        gpu: bool,
        news: HostNews,
        hold: RunHold,
    ) -> None:
        self._config, self._job, self._slot, self._threads, self._gpu = config, job, slot, threads, gpu
        self._commits, self._hold = Commits(news), hold
        self._trainer: Trainer | None = None
        self._prepared: Prepared | None = None
        self._reached = 0
        self._slots: tuple[str, ...] = ()
        self._cause: Cause = "hosts changed"
        self._parted = time.monotonic()

    def leave(self, cause: Cause) -> None:
        """Note why the ranks part, unless they had not begun to train since they last did; give up the model."""
        if self._trainer is not None:
            self._cause, self._parted, self._reached = cause, time.monotonic(), self._trainer.reached
            self._trainer.leave()
        self._trainer = None

    def stop_if_requested(self, request: StopRequest) -> None:
        """While no other ranks are there: where this process was asked to stop, save its commit and raise Stopped."""
        if request.received is not None:
            where = self.save_commit() or "without a checkpoint"
            raise Stopped(f"stopped on request ({request.received}) while waiting for other ranks, {where}")

    def save_commit(self) -> str | None:
        """Write a checkpoint of this process' last commit, unless another rank has; where it stands.

        None where there is nothing to write.
        """
        commit = self._commits.last
        if commit is None or self._prepared is None or not commit.config.checkpoint:
            return None
        config, prepared = commit.config, self._prepared
        folder = RunFolder(Path(config.runs_dir) / str(config.name))
        # One after the other: whoever was the lowest rank is enough.
        time.sleep(min(int(os.environ["HOROVOD_RANK"]) * 0.3, 3.0))
        if _steps_in(folder.checkpoints / LAST) < commit.step:
            progress = SavedProgress.of(
                commit.progress,
                model=config.model.name,
                class_names=prepared.class_names,
                data_digest=prepared.digest,
            )
            save_checkpoint(folder.checkpoints, commit.tensors, progress, config.keep_checkpoints)
        where = f"checkpoint written after step {commit.step}"
        say(f"{where}; --resume --name {config.name} continues from there")
        return where

    def train(self, request: StopRequest) -> None:
        """Train with the ranks that there are. Raises HostsChanged, or an error that `is_lost`, where they change."""
        world = GlooCommunicator()
        committed = self._commits.last.step if self._commits.last else -1
        own = MemberInfo(
            slot=self._slot,
            committed=committed,
            reached=self._reached,
            slots=self._slots,
            cause=self._cause,
            parted_seconds=time.monotonic() - self._parted,
            machine=machine_id(),
            cpus=frozenset(os.sched_getaffinity(0)),
        )
        members: list[MemberInfo] = world.allgather(own)
        met, rank, machines = time.monotonic(), world.rank, [each.machine for each in members]
        same_machine = [number for number, machine in enumerate(machines) if machine == own.machine]
        root = max(range(len(members)), key=lambda number: (members[number].committed, -number))
        continuing = members[root].committed >= 0
        ranks = (ContinuingRanks if continuing else Ranks)(
            rank, len(members), same_machine.index(rank), len(same_machine), ELASTIC, world
        )
        if continuing:
            commit = newest(world, self._commits.last, root)
            self._commits.begin(commit, rank)
            config = commit.config
        else:
            config = self._config_of_first_ranks(ranks)
        if rank == 0:  # it may have been another's place until now
            self._hold.take(Path(config.runs_dir) / str(config.name), IN_USE)
        else:
            self._hold.give_up()
        masks = [members[number].cpus for number in same_machine]
        cores = unbound(masks, {cpu: core_of(cpu) for mask in masks for cpu in mask}, same_machine.index(rank))
        trainer = self._set_up(config, ranks, cores, request, new=not continuing)
        if continuing and rank == 0:
            change = _change(members, root, first_step=trainer.reached, waited_seconds=time.monotonic() - met)
            _write(trainer.folder, change)
            _mend_epochs(trainer.folder, commit)
        if continuing and config.checkpoint and commit.progress.partial is None and commit.progress.epochs_done:
            trainer.save()  # rank 0 may have been lost before it did
        ranks.barrier()
        self._slots, self._trainer = tuple(each.slot for each in members), trainer
        self._prepared = trainer.engine.prepared
        trainer.run()

    def _config_of_first_ranks(self, ranks: Ranks) -> RunConfig:
        """What all ranks, those that come later too, go by. Raises UserError on all of them."""
        job = replace(
            self._job, rank=ranks.rank, size=ranks.size, local_rank=ranks.local_rank, local_size=ranks.local_size
        )
        error = None
        try:
            check_before_mpi(self._config, job, self._hold)
        except UserError as found:
            error = found
        ranks.raise_on_all(error)
        named = with_name(self._config, ranks, self._hold)
        precision = agree_on_precision(named, ranks, self._gpu)
        batch = named.global_batch_for(ranks.size)
        return replace(named, global_batch=batch, per_rank_batch=None, precision=precision, bind="none")

    def _set_up(self, config: RunConfig, ranks: Ranks, cores: Cores, request: StopRequest, new: bool) -> Trainer:
        """The run as it stands, and a folder for its records."""
        prepared, images = open_data(config, ranks)
        precision = agree_on_precision(config, ranks, self._gpu)
        trainer, environment = set_up(
            config, ranks, prepared, images, cores, self._threads, precision, request, self._commits
        )
        if new:
            begin_records(trainer, environment)
            # Where a rank is lost before the first commit, the others begin again.
            self._config = replace(config, overwrite=not config.resume)
        return trainer


def _steps_in(path: Path) -> int:
    """How many steps a checkpoint holds; -1 where it cannot be read."""
    try:
        progress = read_progress(path)
    except UserError:
        return -1
    return progress.steps


def _change(members: Sequence[MemberInfo], root: int, first_step: int, waited_seconds: float) -> Change:
    before, after = members[root].slots, [each.slot for each in members]
    return Change(
        utc=utc_now(),
        monotonic_ns=time.monotonic_ns(),
        cause=members[root].cause,
        step=first_step,
        steps_lost=max(each.reached for each in members) - first_step if any(each.slots for each in members) else 0,
        ranks_before=len(before),
        ranks_after=len(after),
        left=[slot for slot in before if slot not in after],
        joined=[slot for slot in after if slot not in before],
        slots=after,
        pause_seconds=members[root].parted_seconds + waited_seconds,
    )


def _write(folder: RunFolder, change: Change) -> None:
    """Record it, and say it."""
    log = LineLog(folder.changes)
    log.write(change)
    log.close()
    who = [f"lost {', '.join(change.left)}"] if change.left else []
    who += [f"joined by {', '.join(change.joined)}"] if change.joined else []
    lost_steps = f", {change.steps_lost} steps to repeat" if change.steps_lost else ""
    say(
        f"{change.ranks_before} -> {change.ranks_after} ranks ({'; '.join(who) or change.cause}): continuing with step "
        f"{change.step}{lost_steps}, after {change.pause_seconds:.1f} s"
    )


def _mend_epochs(folder: RunFolder, commit: Commit) -> None:
    """Leave out records of epochs that are done again, and add the last one where rank 0 was lost before it did."""
    records = list(read_lines(folder.epochs, EpochRecord)) if folder.epochs.exists() else []
    done = [record for record in records if record.epoch <= commit.progress.epochs_done]
    last = commit.epoch
    if last is not None and all(record.epoch < last.epoch for record in done):
        done.append(last)
    if done != records:
        write_whole(folder.epochs, "".join(f"{msgspec.json.encode(record).decode()}\n" for record in done))
