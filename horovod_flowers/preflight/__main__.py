"""Look at the ranks, nodes, data and links of a job before it starts, and say what will go wrong.

    mpirun -np 4 --bind-to none python -m horovod_flowers.preflight
    srun --mpi=pmix python -m horovod_flowers.preflight --global-batch 64 --data.source tf_flowers

Takes the options of train too: start it as the job will be started. Ends with 'ready' and status 0, or with every
problem, its remedy and status 1.
"""

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from horovod_flowers.config.command_line import parse
from horovod_flowers.config.options import option
from horovod_flowers.config.run import RunConfig
from horovod_flowers.data.opening import find_images, split_checked
from horovod_flowers.data.prepared import Prepared, open_prepared
from horovod_flowers.data.preparing import command_for
from horovod_flowers.launch.launchers import oversubscription_asked_for
from horovod_flowers.model.registry import check_name
from horovod_flowers.preflight import problems, table
from horovod_flowers.preflight.link import measure_link
from horovod_flowers.preflight.rank_facts import NOT_LOOKED_AT, RankFacts, gather_facts, interfaces_used, of_nodes
from horovod_flowers.ranks.communicator import Ranks
from horovod_flowers.ranks.mpi_start import loaded_library, start_note
from horovod_flowers.ranks.startup import (
    connect,
    find_job,
    horovod_features,
    start_horovod,
    start_tensorflow,
    take_cores,
)
from horovod_flowers.runtime.console import say
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import EXIT_FAILURE, error_boundary
from horovod_flowers.runtime.files import writable_folder
from horovod_flowers.training.setup import agree_on_precision, may_all_be_bf16


@dataclass(frozen=True)
class PreflightConfig(RunConfig):
    """Options of the preflight: those of train, and what is accepted."""

    oversubscribe: bool = option(
        False, "preflight: ranks that share cores are meant to, and only noted (or FLOWERS_OVERSUBSCRIBE=1)"
    )
    images: bool = option(
        True, "preflight: look at the images that train would read (--no-images: before a command of one's own)"
    )
    least_bandwidth: float | None = option(
        None,
        "preflight: GB/s that an allreduce has to move (default: $FLOWERS_LEAST_BANDWIDTH, else 0.1, Gigabit Ethernet)",
    )
    most_latency_ms: float | None = option(
        None,
        "preflight: milliseconds that a small allreduce may take at its best (default: $FLOWERS_MOST_LATENCY_MS, "
        "else 20)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._limit("least_bandwidth", 0.1)
        self._limit("most_latency_ms", 20.0)

    def _limit(self, name: str, usual: float) -> float:
        """The option, else what the site's variable says, else what is usual (UserError)."""
        given, where = getattr(self, name), name
        if given is None:
            where = f"FLOWERS_{name.upper()}"
            given = os.environ.get(where, usual)
        try:
            value = float(given)
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise UserError(f"{where} is {given}: give 0 or a positive number")
        return value

    @property
    def limits(self) -> problems.Limits:
        """In bytes and seconds."""
        shared = self.oversubscribe or oversubscription_asked_for(os.environ)
        bandwidth, latency = self._limit("least_bandwidth", 0.1) * 1e9, self._limit("most_latency_ms", 20.0) / 1e3
        return problems.Limits(shared, bandwidth, latency)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.preflight`; every rank calls it."""
    with error_boundary("horovod_flowers.preflight"):
        job = find_job()
        config = parse(PreflightConfig, "horovod_flowers.preflight", __doc__, arguments, job.rank)
        check_name(config.model.name)
        config.global_batch_for(job.size)
        config.model_parallel_size_for(job.size, job.local_size)
        ranks = connect(job, config.threads, config.bind)
        bound_to = frozenset(os.sched_getaffinity(0))
        cores = take_cores(ranks, config.bind, config.threads)
        threads = config.threads or ranks.allreduce_min(cores.physical)
        fields: dict[str, Any] = gather_facts(ranks, bound_to, cores, threads)
        digest, data = look_at_data(config, ranks) if config.images else (NOT_LOOKED_AT, None)
        fields |= {"digest": digest, "data": data, "runs_dir": look_at_runs_dir(config, ranks)}
        gpu = start_tensorflow(ranks, threads, bf16=may_all_be_bf16(config, ranks))
        precision = agree_on_precision(config, ranks, gpu)
        if ranks.size > 1:
            ranks = start_horovod(ranks, config.horovod, 1)
        link = measure_link(ranks)
        fields |= {"gpus": int(gpu), "interfaces": interfaces_used() if reaches_others(ranks) else ()}
        gathered = ranks.gather(RankFacts(**fields))
        ready = True
        if gathered is not None:
            facts = of_nodes(gathered)
            mpi_library = ranks.communicator.mpi_library
            for line in table.facts(facts, job.launcher, mpi_library, horovod_features(), precision):
                say(line)
            table.print_nodes(facts)
            if link is not None:
                say(table.describe_link(link))
            found = problems.find(facts, link, horovod_features(), config.limits, loaded_library())
            if (note := start_note()) is not None:
                found.append(problems.Finding(note, None))
            for line in table.findings(found):
                say(line)
            ready = all(finding.remedy is None for finding in found)
        ready = ranks.broadcast(ready)
        ranks.barrier()
        if not ready:
            raise SystemExit(EXIT_FAILURE)


def reaches_others(ranks: Ranks) -> bool:
    """Whether the ranks are on more than one node."""
    return ranks.size > ranks.allreduce_min(ranks.local_size)


def look_at_data(config: RunConfig, ranks: Ranks) -> tuple[str | None, str | None]:
    """Digest of the prepared images, and what is wrong with them on this node, as 'what: remedy'. Every rank calls it.

    Drawn flowers that are not there yet are nothing wrong: the first run draws them.
    """
    found, problem = None, None
    root = Path(config.data.prepared_dir)
    if ranks.rank == 0:
        try:
            found = find_images(config).prepared
            if found is not None:
                split_checked(found, config, ranks.size)
            elif config.data.source != "synthetic":
                problem = f"the photos are not prepared: run {command_for(config.data)} on the login node"
        except UserError as error:
            problem = str(error)
    digest, problem = ranks.broadcast((found.digest if found is not None else None, problem))
    if problem is not None or digest is None:
        return digest, problem
    try:
        read_ends(open_prepared(root / "objects" / digest))
    except (OSError, ValueError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        remedy = "choose a --data.prepared-dir that all nodes share"
        return digest, f"cannot read the prepared images in {root} ({reason}): {remedy}"
    return digest, None


def read_ends(prepared: Prepared) -> None:
    """Read the first and the last image and every label: they are there, and whole."""
    prepared.image(0).sum()
    prepared.image(len(prepared) - 1).sum()
    if len(prepared.labels) != len(prepared):
        raise ValueError(f"{len(prepared.labels)} labels of {len(prepared)} images")


def look_at_runs_dir(config: RunConfig, ranks: Ranks) -> str | None:
    """Whether a file that rank 0 writes into the folder of the runs can be seen here. Every rank calls it."""
    folder, token, error = Path(config.runs_dir), None, None
    if ranks.rank == 0:
        try:
            token = writable_folder(folder, "choose another with --runs-dir") / f".preflight-{secrets.token_hex(8)}"
            token.touch()
        except (UserError, OSError) as found:
            error = str(found)
    token, error = ranks.broadcast((token, error))
    seen = token is not None and token.exists()
    ranks.barrier()
    if ranks.rank == 0 and token is not None:
        token.unlink()
    return error or (None if seen else f"does not see the runs folder {folder} of rank 0")


if __name__ == "__main__":
    main()
