"""One process among the ranks of an elastic job: what it trains with whichever ranks there are."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from horovod_flowers import checkpoint
from horovod_flowers.affinity import Cores, core_of, machine_id, unbound
from horovod_flowers.announcement import announce
from horovod_flowers.command_line import to_yaml
from horovod_flowers.config import RunConfig
from horovod_flowers.data.order import per_rank_batch
from horovod_flowers.data.prepared import Prepared
from horovod_flowers.elastic.commit import Commit, Commits, HostNews, HostsChanged, newest
from horovod_flowers.elastic.world import GlooWorld
from horovod_flowers.environment import Division, gather_environment, utc_now
from horovod_flowers.errors import Stopped, UserError
from horovod_flowers.files import write_whole
from horovod_flowers.interruption import StopRequest
from horovod_flowers.launch import ELASTIC, Launch
from horovod_flowers.precision import switch_on
from horovod_flowers.progress import say
from horovod_flowers.ranks import Ranks
from horovod_flowers.runlog import Cause, Change, EpochRecord, LineLog, RunFolder, read_lines
from horovod_flowers.train import agree_on_precision, check_before_mpi, open_data, with_name
from horovod_flowers.training import Training


@dataclass(frozen=True)
class Told:
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


class GoingOn(Ranks):
    """Ranks of which some have trained already: a mistake that one of them finds on its node ends that one alone."""

    def agree(self, error: UserError | None) -> None:
        """Raise this rank's own error; HostsChanged where another rank has one and leaves."""
        found = self.mpi.allgather(error is not None)
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

    def __init__(self, config: RunConfig, launch: Launch, slot: str, threads: int, gpu: bool, news: HostNews) -> None:
        self._config, self._launch, self._slot, self._threads, self._gpu = config, launch, slot, threads, gpu
        self._commits = Commits(news)
        self._training: Training | None = None
        self._prepared: Prepared | None = None
        self._reached = 0
        self._slots: tuple[str, ...] = ()
        self._cause: Cause = "hosts changed"
        self._parted = time.monotonic()

    def part(self, cause: Cause) -> None:
        """Note why the ranks part, unless they had not begun to train since they last did; give up the model."""
        if self._training is not None:
            self._cause, self._parted, self._reached = cause, time.monotonic(), self._training.reached
            self._training.leave()
        self._training = None

    def stop_if_told(self, request: StopRequest) -> None:
        """While no other ranks are there: write a checkpoint of the last commit and raise Stopped, where told to."""
        if request.told is not None:
            where = self.save_commit() or "without a checkpoint"
            raise Stopped(f"stopped on request ({request.told}) while waiting for other ranks, {where}")

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
        if _steps_in(folder.checkpoints / checkpoint.LAST) < commit.step:
            progress = commit.standing.progress(config.model.name, prepared.class_names, prepared.digest)
            checkpoint.save(folder.checkpoints, commit.tensors, progress, config.keep_checkpoints)
        where = f"checkpoint written after step {commit.step}"
        say(f"{where}; --resume --name {config.name} goes on from there")
        return where

    def train(self, request: StopRequest) -> None:
        """Train with the ranks that there are. Raises HostsChanged, or an error that `is_lost`, where they change."""
        world = GlooWorld()
        committed = self._commits.last.step if self._commits.last else -1
        own = Told(
            slot=self._slot,
            committed=committed,
            reached=self._reached,
            slots=self._slots,
            cause=self._cause,
            parted_seconds=time.monotonic() - self._parted,
            machine=machine_id(),
            cpus=frozenset(os.sched_getaffinity(0)),
        )
        told: list[Told] = world.allgather(own)
        met, rank, machines = time.monotonic(), world.Get_rank(), [each.machine for each in told]
        here = [number for number, machine in enumerate(machines) if machine == own.machine]
        root = max(range(len(told)), key=lambda number: (told[number].committed, -number))
        going_on = told[root].committed >= 0
        ranks = (GoingOn if going_on else Ranks)(rank, len(told), here.index(rank), len(here), ELASTIC, world)
        if going_on:
            commit = newest(world, self._commits.last, root)
            self._commits.begin(commit, rank)
            config = commit.config
        else:
            config = self._config_of_first_ranks(ranks)
        masks = [told[number].cpus for number in here]
        cores = unbound(masks, {cpu: core_of(cpu) for mask in masks for cpu in mask}, here.index(rank))
        folder = RunFolder(Path(config.runs_dir) / str(config.name))
        training = self._prepare(config, ranks, cores, folder, new=not going_on)
        if going_on and rank == 0:
            change = _change(told, root, going_on_at=training.reached, waited_seconds=time.monotonic() - met)
            _write(folder, change)
            _mend_epochs(folder, commit)
        if going_on and config.checkpoint and commit.standing.partial is None and commit.standing.epochs_done:
            training.save(folder)  # rank 0 may have been lost before it did
        ranks.barrier()
        self._slots, self._training, self._prepared = tuple(each.slot for each in told), training, training.prepared
        training.run(folder, request)

    def _config_of_first_ranks(self, ranks: Ranks) -> RunConfig:
        """What all ranks, those that come later too, go by. Raises UserError on all of them."""
        launch = replace(
            self._launch, rank=ranks.rank, size=ranks.size, local_rank=ranks.local_rank, local_size=ranks.local_size
        )
        error = None
        try:
            check_before_mpi(self._config, launch)
        except UserError as found:
            error = found
        ranks.agree(error)
        named: RunConfig = ranks.broadcast(with_name(self._config, ranks.size))
        precision = agree_on_precision(named, ranks, self._gpu)
        batch = named.global_batch_for(ranks.size)
        return replace(named, global_batch=batch, per_rank_batch=None, precision=precision, bind="none")

    def _prepare(self, config: RunConfig, ranks: Ranks, cores: Cores, folder: RunFolder, new: bool) -> Training:
        """The model as it stands, and a folder for its records."""
        prepared, images = open_data(config, ranks)
        precision = agree_on_precision(config, ranks, self._gpu)
        switch_on(precision)
        training = Training(config, ranks, prepared, images, config.strategy, precision)
        chosen = training.strategy
        traffic = chosen.traffic(per_rank_batch(training.global_batch, ranks.size))
        division = Division(chosen.name, chosen.notes, [], precision, traffic)
        environment = gather_environment(ranks, cores, self._threads, training.global_batch, division)
        training.start(folder, self._commits)
        if new and environment is not None:
            folder.create(config.overwrite, config.resume)
            begun = replace(config, overwrite=False, resume=False, resume_or_start=False)
            folder.write_start(to_yaml(begun), environment)
            announce(config, environment, training.parameters, prepared.class_names, images)
        if new:  # where a rank is lost before the first commit, the others begin again
            self._config = replace(config, overwrite=not config.resume)
        return training


def _steps_in(path: Path) -> int:
    """How many steps a checkpoint holds; -1 where it cannot be read."""
    try:
        progress = checkpoint.read_progress(path)
    except UserError:
        return -1
    return progress.steps


def _change(told: Sequence[Told], root: int, going_on_at: int, waited_seconds: float) -> Change:
    before, after = told[root].slots, [each.slot for each in told]
    return Change(
        utc=utc_now(),
        monotonic_ns=time.monotonic_ns(),
        cause=told[root].cause,
        step=going_on_at,
        steps_lost=max(each.reached for each in told) - going_on_at if any(each.slots for each in told) else 0,
        ranks_before=len(before),
        ranks_after=len(after),
        left=[slot for slot in before if slot not in after],
        joined=[slot for slot in after if slot not in before],
        slots=after,
        pause_seconds=told[root].parted_seconds + waited_seconds,
    )


def _write(folder: RunFolder, change: Change) -> None:
    """Record it, and say it."""
    log = LineLog(folder.changes)
    log.write(change)
    log.close()
    went = [f"lost {', '.join(change.left)}"] if change.left else []
    went += [f"joined by {', '.join(change.joined)}"] if change.joined else []
    again = f", {change.steps_lost} steps to do again" if change.steps_lost else ""
    say(
        f"{change.ranks_before} -> {change.ranks_after} ranks ({'; '.join(went) or change.cause}): going on with step "
        f"{change.step}{again}, after {change.pause_seconds:.1f} s"
    )


def _mend_epochs(folder: RunFolder, commit: Commit) -> None:
    """Leave out records of epochs that are done again, and add the last one where rank 0 was lost before it did."""
    records = list(read_lines(folder.epochs, EpochRecord)) if folder.epochs.exists() else []
    done = [record for record in records if record.epoch <= commit.standing.epochs_done]
    last = commit.epoch
    if last is not None and all(record.epoch < last.epoch for record in done):
        done.append(last)
    if done != records:
        write_whole(folder.epochs, "".join(f"{msgspec.json.encode(record).decode()}\n" for record in done))
