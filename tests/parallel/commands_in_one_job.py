"""A program for N ranks: runs commands one after the other in one job, since most of a tiny run is the start of its
processes. Each starts with what a new process would, and what rank 0 prints of it goes into a file.

    mpirun -np N python -m tests.parallel.commands_in_one_job FOLDER

FOLDER/commands.json lists them; NNN.out beside it is what command NNN printed. For commands that succeed: a mistake or
a failure ends the job. What a test asks of the end of a process, or of a fresh one, needs a job of its own.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec


class Command(msgspec.Struct, frozen=True):
    """`main` of a module, called with words, under more variables than the job has."""

    module: str
    words: list[str]
    variables: dict[str, str]

    @staticmethod
    def of(module: str, *words: str | Path, variables: dict[str, str] | None = None) -> "Command":
        """A command by its words."""
        return Command(module, [str(word) for word in words], variables or {})


@contextmanager
def output_into(path: Path) -> Iterator[None]:
    """Standard output goes to the end of a file."""
    sys.stdout.flush()
    before = os.dup(1)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(before, 1)
        os.close(before)


def as_in_a_new_process(variables: dict[str, str], cpus: set[int]) -> None:
    """Take back what a command leaves: Horovod's start, Keras' names of layers, variables, the affinity mask."""
    if "horovod.tensorflow" in sys.modules:
        import horovod.tensorflow as hvd

        hvd.shutdown()
    if "keras" in sys.modules:
        import keras

        keras.backend.clear_session()
    os.environ.clear()
    os.environ.update(variables)
    os.sched_setaffinity(0, cpus)


def main() -> None:
    folder = Path(sys.argv[1])
    commands = msgspec.json.decode((folder / "commands.json").read_bytes(), type=list[Command])
    variables, cpus = dict(os.environ), os.sched_getaffinity(0)
    for number, command in enumerate(commands):
        as_in_a_new_process(variables | command.variables, cpus)
        with output_into(folder / f"{number:03d}.out"):
            importlib.import_module(command.module).main(command.words)


if __name__ == "__main__":
    main()
