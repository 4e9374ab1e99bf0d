"""What a run of somebody's own script is: the command that a study starts, and what it asks of it.

Declared as the options of train are, so that the report compares runs of both kinds by the same rules.
"""

import shlex
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from horovod_flowers.config.options import MOST_SEED, MOST_THREADS, Effect, check_limits, option
from horovod_flowers.runtime.errors import UserError

RECORD_VARIABLE = "FLOWERS_RECORD"
"""Names the file that holds a ScriptConfig: set by a study for the processes of a command."""

THREADS_VARIABLE = "TF_NUM_INTRAOP_THREADS"
"""TensorFlow's own: compute threads of a process that sets none."""

PLACEHOLDERS = {
    "ranks": "how many ranks run the command",
    "global_batch": "samples of a step over all ranks",
    "per_rank_batch": "samples of a step on each rank",
    "strategy": "how the ranks divide the work",
    "precision": "in which they compute",
    "seed": "of this run",
    "name": "of this run: for files of its own",
}
"""What a command of a job file may hold in braces."""


@dataclass(frozen=True)
class ScriptConfig:
    """One run of a script."""

    command: str = option("", "the command as the job file has it, as words for a shell", Effect.WORK)
    script_digest: str | None = option(
        None, "of the files that the command names (default: it names none)", Effect.WORK
    )
    name: str | None = option(None, "name of the run, a folder in --runs-dir", Effect.FOLDER)
    runs_dir: str = option("runs", "folder that holds the runs", Effect.FOLDER)
    global_batch: int | None = option(
        None, "samples per step over all ranks: strong scaling, the work stays the same", Effect.RESOLVED, at_least=1
    )
    per_rank_batch: int | None = option(
        None, "samples per step on each rank: weak scaling, the work grows with the ranks", Effect.RESOLVED, at_least=1
    )
    strategy: str | None = option(None, "what stands for {strategy} (default: nothing does)", Effect.RESOLVED)
    precision: str | None = option(None, "what stands for {precision} (default: nothing does)", Effect.RESOLVED)
    seed: int | None = option(
        None, "what stands for {seed} (default: nothing does)", Effect.REPETITION, at_least=0, at_most=MOST_SEED
    )
    threads: int = option(
        0,
        "TensorFlow threads, and cores, of each rank; 0: as many as its share of the node's cores",
        Effect.RESOLVED,
        at_least=0,
        at_most=MOST_THREADS,
    )
    warmup_steps: int = option(3, "first steps of each fit that timings leave out", Effect.SPEED, at_least=0)

    def __post_init__(self) -> None:
        check_limits(self)
        if self.global_batch is not None and self.per_rank_batch is not None:
            raise UserError(
                f"both global_batch ({self.global_batch}) and per_rank_batch ({self.per_rank_batch}) are given: give "
                "one"
            )
        placeholders_in(words_of(self.command))

    def global_batch_for(self, ranks: int) -> int:
        """Samples of a step over so many ranks. Raises UserError where the configuration names no batch."""
        if self.global_batch is not None:
            return self.global_batch
        if self.per_rank_batch is None:
            raise UserError("neither global_batch nor per_rank_batch is there: give one")
        return self.per_rank_batch * ranks

    def words(self, ranks: int) -> list[str]:
        """The words of the command at so many ranks, placeholders filled in. Raises UserError (`filled_in`)."""
        batch = self.global_batch_for(ranks)
        values = {"ranks": ranks, "global_batch": batch, "strategy": self.strategy, "precision": self.precision}
        values |= {"seed": self.seed, "name": self.name}
        words = words_of(self.command)
        used = placeholders_in(words)
        for name in sorted(used & values.keys()):
            if values[name] is None:
                raise UserError(f"the command has {{{name}}}, and nothing stands for it: give {name} a value")
        if batch % ranks == 0:
            values["per_rank_batch"] = batch // ranks
        elif "per_rank_batch" in used:
            raise UserError(
                f"a global batch of {batch} does not divide by {ranks} ranks, and the command asks for "
                "{per_rank_batch}: choose a multiple, or let the script divide {global_batch}"
            )
        return [word.format_map(values) for word in words]


def words_of(command: str) -> list[str]:
    """The words of a command as a shell takes it apart. Raises UserError for quotes that are not a pair."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UserError(f"command is {command!r}, whose quotes are not a pair: give a list of words") from error


def placeholders_in(words: Sequence[str]) -> set[str]:
    """The names of the placeholders of a command. Raises UserError for one that there is not, or braces left open."""
    found: set[str] = set()
    for word in words:
        try:
            parts = list(string.Formatter().parse(word))
        except ValueError as error:
            raise UserError(f"command has {word!r}, whose braces are not a pair: {_REMEDY}") from error
        for _, name, layout, conversion in parts:
            if name is None:
                continue
            if name not in PLACEHOLDERS or layout or conversion:
                whole = f"{{{name}{'!' + conversion if conversion else ''}{':' + layout if layout else ''}}}"
                raise UserError(f"command has {whole} in {word!r}, which stands for nothing: {_REMEDY}")
            found.add(name)
    return found


_REMEDY = (
    f"allowed are {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}; a brace that is meant as one is written twice"
)


def threads_asked_for(environment: Mapping[str, str]) -> int:
    """How many threads the processes of a script are to compute with, as a study sets it; 0 where nothing is said.

    Raises UserError for what is no number of threads.
    """
    given = environment.get(THREADS_VARIABLE, "").strip() or "0"
    if not (given.isascii() and given.isdecimal() and int(given) <= MOST_THREADS):
        raise UserError(f"{THREADS_VARIABLE} is {given!r}: give 0 or a positive whole number, or unset it")
    return int(given)


def is_script(config: Mapping[str, Any]) -> bool:
    """Whether a run's config.yaml, read as a tree of dictionaries, is of a script."""
    return "command" in config


SCRIPT_OPTIONS = tuple(item.name for item in fields(ScriptConfig))
