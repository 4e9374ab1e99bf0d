"""A study's job file: what it may hold, and reading it."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from horovod_flowers.config.choices import PrecisionChoice, StrategyChoice
from horovod_flowers.config.emulated_network import EmulatedNetwork
from horovod_flowers.config.options import MOST_RANKS, MOST_THREADS
from horovod_flowers.config.yaml_file import load_yaml
from horovod_flowers.runtime.errors import UserError

Positive = Annotated[int, msgspec.Meta(ge=1)]
Ranks = Annotated[int, msgspec.Meta(ge=1, le=MOST_RANKS)]
Seed = Annotated[int, msgspec.Meta(ge=0)]
SomeRanks = Annotated[tuple[Ranks, ...], msgspec.Meta(min_length=1)]
SomeSeeds = Annotated[tuple[Seed, ...], msgspec.Meta(min_length=1)]
SomeStrategies = Annotated[tuple[StrategyChoice, ...], msgspec.Meta(min_length=1)]
Threads = Annotated[int, msgspec.Meta(ge=0, le=MOST_THREADS)]
SomeWords = Annotated[tuple[str | int | float, ...], msgspec.Meta(min_length=1)]
SomePrecisions = Annotated[tuple[PrecisionChoice, ...], msgspec.Meta(min_length=1)]


class StudyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a job file may hold. Every combination of the lists is run `repetitions` times."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+]{0,31}$")]
    """First word of the names of its runs."""
    ranks: SomeRanks
    strategies: SomeStrategies = ("allreduce",)
    """On one rank all are the same: that point is run once."""
    precisions: SomePrecisions = ("auto",)
    seeds: SomeSeeds = (0,)
    """Of weights, image order and augmentation."""
    repetitions: Positive = 3
    """Of each combination, seeds included: of the same training, at another time."""
    order_seed: Seed = 0
    """Of the order in which the points are run."""
    timeout_minutes: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """After which a point is ended, and counts as failed."""
    collectives: bool = False
    """Measure collective calls too: once a repetition for each number of ranks above one."""
    peak: bool = False
    """Measure what the ranks compute at most, too: once a repetition for each number of ranks."""
    network: EmulatedNetwork | None = None
    """Virtual nodes on this machine that the points are run on (study --emulate)."""
    options: dict[str, Any] = {}
    """Of `python -m horovod_flowers.train`, as its --print-config shows them."""
    command: str | SomeWords | None = None
    """Run instead of train: a script of one's own, with PLACEHOLDERS in braces (script.py)."""
    global_batch: Positive | None = None
    """Of a command, samples in a step over all ranks: strong scaling."""
    per_rank_batch: Positive | None = None
    """Of a command, samples in a step on each rank: weak scaling."""
    threads: Threads | None = None
    """Of a command, TensorFlow threads of each rank; by default as many as its share of the node's cores."""
    warmup_steps: Seed | None = None
    """Of a command, first steps of each fit that timings leave out; by default as many as of train."""


def read_study(path: Path) -> StudyFile:
    """Read and check a job file. Raises UserError naming the file and what is wrong in it."""
    try:
        document = load_yaml(path, pipe=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no job file {path}: give one such as jobs/strong.yaml") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"job file {path} cannot be read ({' '.join(str(error).split())})") from error
    try:
        return msgspec.convert(document, StudyFile)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the latter: half of a character
        kind, where = (StudyFile, "") if "$.network" not in str(error) else (EmulatedNetwork, " in network")
        as_in = "as in jobs/strong.yaml" if kind is StudyFile else "such as {nodes: 8, ranks_per_node: 2, mbit: 200}"
        raise UserError(
            f"job file {path}: {error}: allowed{where} are {', '.join(kind.__struct_fields__)}, {as_in}"
        ) from error
