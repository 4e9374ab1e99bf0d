"""Start a command on N ranks with mpirun, mpiexec, horovodrun or srun.

    python -m horovod_flowers.launcher --ranks 4 -- python -m horovod_flowers.train --epochs 10

What a site or a job script wants for every command stands in the environment instead of flags: FLOWERS_LAUNCHER,
FLOWERS_HOSTS, FLOWERS_OVERSUBSCRIBE=1, and FLOWERS_LAUNCHER_OPTIONS for words to add, such as '--mca btl ^openib'.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from horovod_flowers.config.command_line import parse
from horovod_flowers.config.options import MOST_RANKS, check_limits, option
from horovod_flowers.launch.launchers import LauncherChoice, choose_launcher
from horovod_flowers.launch.ranks_job import abrupt_end, run_ranks
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.exit import error_boundary


@dataclass(frozen=True)
class LauncherConfig:
    """How to start ranks."""

    ranks: int = option(1, "ranks to start", at_least=1, at_most=MOST_RANKS)
    launcher: LauncherChoice = option(
        "auto",
        "program that starts them; auto: $FLOWERS_LAUNCHER, else mpirun, which reads Slurm's allocation itself, or "
        "where it is missing mpiexec or srun",
    )
    hosts: str | None = option(
        None,
        "nodes and ranks on each, such as n1:2,n2:2 (default: $FLOWERS_HOSTS, else the scheduler's, else this one)",
    )
    oversubscribe: bool = option(
        False,
        "allow more ranks than cores, for example in a test; such runs are marked (default: $FLOWERS_OVERSUBSCRIBE=1)",
    )
    dry_run: bool = option(False, "print the command instead of running it")

    def __post_init__(self) -> None:
        check_limits(self)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m horovod_flowers.launcher`: ends with the status of what it started."""
    with error_boundary("horovod_flowers.launcher"):
        words = list(sys.argv[1:] if arguments is None else arguments)
        if "--" not in words:
            words.append("--")
        flags, command = words[: words.index("--")], words[words.index("--") + 1 :]
        config = parse(LauncherConfig, "horovod_flowers.launcher", __doc__, flags)
        if not command:
            raise UserError("no command is given: add it behind --, such as -- python -m horovod_flowers.train")
        launcher = choose_launcher(config.launcher, config.hosts, config.oversubscribe)
        launcher.check(config.ranks, command)
        if config.dry_run:
            print(shlex.join(launcher.command(config.ranks, command)))
            return
        own = any(word.startswith("horovod_flowers.") for word in command)
        ending = run_ranks(launcher, config.ranks, command, own=own)
        last = ending.given_up or abrupt_end(launcher, ending, own)
        if last is not None:
            print(f"horovod_flowers.launcher: {last}", file=sys.stderr, flush=True)
        raise SystemExit(ending.exit_status)


if __name__ == "__main__":
    main()
