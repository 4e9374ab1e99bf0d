"""Points that run a command of the user's own in place of train: made from a job file, and judged by their records.

The command is started on every rank with FLOWERS_RECORD in its environment; a script that trains through
`horovod_flowers` then leaves a run log (recording/), whose result counts once the command has ended well.
"""

import hashlib
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from horovod_flowers.config.command_line import build, to_yaml
from horovod_flowers.config.options import Effect, flat_options, names_of
from horovod_flowers.config.run import RunConfig
from horovod_flowers.config.script import RECORD_VARIABLE, THREADS_VARIABLE, ScriptConfig, placeholders_in, words_of
from horovod_flowers.config.yaml_file import options_in
from horovod_flowers.runlog.json_lines import read_json
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.records import Environment
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.script_folder import check_is_scripts, clear_records, otherwise, waiting_result
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.files import write_whole
from horovod_flowers.study.file import StudyFile
from horovod_flowers.study.point import CollectivesPoint, Point, peak_points, refuse_other

PYTHON = ("python", "python3")
"""As the program of a command: the Python that runs the study."""
MOST_BYTES = 16 * 2**20
"""Of a file that a command names: a larger one is taken for data, and is not looked into."""
WHAT_TO_ADD = (
    "it left no record of its steps, which comes from inside model.fit: add 'ranks = horovod_flowers.start()' at its "
    "beginning and 'ranks.distribute(model)' between compile and fit, or in a script for Horovod "
    "'import horovod_flowers.keras as hvd' in place of its import; a loop of your own is not recorded: put its step "
    "into train_step of a keras.Model, and call fit (docs/keras.md)"
)


@dataclass(frozen=True)
class ScriptPoint(Point):
    """One run of a command."""

    config: ScriptConfig

    def command_words(self) -> list[str]:
        """The command, with the variable that asks for its record."""
        program, *words = self.config.words(self.ranks)
        program = sys.executable if program in PYTHON else program
        variables = [f"{RECORD_VARIABLE}={self._record_file(Path(self.config.runs_dir))}"]
        variables += [f"{THREADS_VARIABLE}={self.config.threads}"] if self.config.threads else []
        return ["env", *variables, program, *words]

    def preflight_words(self) -> list[str]:
        """Options of the preflight: those of a run say nothing of the script's data."""
        return ["--runs-dir", self.config.runs_dir, "--threads", str(self.config.threads), "--no-images"]

    def begun(self, runs_dir: Path) -> bool:
        """Whether some of its records are there."""
        return RunFolder(runs_dir / self.name).config.exists()

    def finished(self, runs_dir: Path) -> bool:
        """Whether the run has a result. Raises UserError where it is another run than the point's."""
        folder = RunFolder(runs_dir / self.name)
        check_is_scripts(folder)
        if not folder.result.exists():
            return False
        stored = build(ScriptConfig, options_in(folder.config))
        was, now = (flat_options(asdict(config)) for config in (stored, self.config))
        where = names_of(ScriptConfig, Effect.FOLDER)
        compared = ((name, was[name], now[name]) for name in now if name not in where)
        size = read_json(folder.environment, Environment).world_size
        refuse_other(f"run {folder.path}", [("ranks", size, self.ranks), *compared])
        return True

    def prepare(self, runs_dir: Path) -> None:
        """Write what the script's processes read, and clear what an earlier attempt left.

        Raises UserError where the files that the command names are no longer what they were when the study began.
        """
        if digest_of(words_of(self.config.command)) != self.config.script_digest:
            raise UserError(
                f"a file that the command of {self.name} names has changed since the study began: start the study "
                "again, under another name where runs of it are finished"
            )
        folder = RunFolder(runs_dir / self.name)
        clear_records(folder)
        record_file = self._record_file(runs_dir)
        record_file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(record_file, to_yaml(self.config))

    def conclude(self, runs_dir: Path) -> str | None:
        """Let the result count, after a command that ended with status 0; else why it does not."""
        folder = RunFolder(runs_dir / self.name)
        waiting = waiting_result(folder)
        if not folder.step_files():
            return WHAT_TO_ADD
        if not waiting.exists():
            return "it ended with status 0, but its fit did not come to an end, or had no whole epoch"
        found = read_json(folder.environment, Environment)
        if found.world_size != self.ranks:
            return f"it trained on {found.world_size} ranks, and {self.ranks} were started"
        done_otherwise = otherwise(self.config, found)
        if done_otherwise is not None:
            return done_otherwise
        waiting.rename(folder.result)
        try:
            read_run(folder.path)
        except UserError as error:
            folder.result.rename(waiting)
            return f"its record does not stand for the run: {error}"
        return None

    def _record_file(self, runs_dir: Path) -> Path:
        return runs_dir.absolute() / ".study" / f"{self.name}.yaml"


def script_points(study: StudyFile, runs_dir: str) -> list[Point]:
    """Every point of a study with a command, in the order of the file. Raises UserError."""
    words = _words_of(study)
    used = placeholders_in(words)
    _check_study(study, used)
    _check_program(words)
    given = study.warmup_steps
    common = ScriptConfig(
        command=shlex.join(words),
        script_digest=digest_of(words),
        runs_dir=runs_dir,
        threads=study.threads or 0,
        global_batch=study.global_batch,
        per_rank_batch=study.per_rank_batch,
        warmup_steps=RunConfig().warmup_steps if given is None else given,
    )
    points, timeout = list[Point](), study.timeout_minutes * 60
    repetitions = range(1, study.repetitions + 1)
    for ranks in study.ranks:
        alone = ranks == 1
        strategies = study.strategies[:1] if alone else study.strategies
        for precision, strategy, seed, number in product(study.precisions, strategies, study.seeds, repetitions):
            parts: dict[str, Any] = {"strategy": strategy, "precision": precision, "seed": seed}
            own = {name: value for name, value in parts.items() if name in used}
            shown = {"strategy": "alone" if alone else strategy, "precision": precision, "seed": f"seed{seed}"}
            told = [shown[name] for name in shown if name in used]
            name = "-".join([study.name, f"{ranks}ranks", *told, f"run{number}"])
            config = replace(common, name=name, **own)
            _check_batch(config, ranks)
            config.words(ranks)
            points.append(ScriptPoint(name, ranks, number, timeout, config))
        if study.collectives and not alone:
            names = ((number, f"{study.name}-{ranks}ranks-collectives-run{number}") for number in repetitions)
            machine = RunConfig(runs_dir=runs_dir, threads=common.threads)
            points += [CollectivesPoint(name, ranks, number, timeout, machine) for number, name in names]
        if study.peak:
            machine = RunConfig(runs_dir=runs_dir, threads=common.threads)
            # A script that is not told a precision computes in Keras' own.
            points += peak_points(study, ranks, timeout, machine, () if "precision" in used else ("fp32",))
    return points


def _words_of(study: StudyFile) -> list[str]:
    command = study.command
    words = words_of(command) if isinstance(command, str) else [str(word) for word in command or ()]
    if not words or not words[0]:
        raise UserError("command is empty: give the words of a program, such as [python, my_script.py]")
    for word in words:
        if not (word.isprintable() or word.replace("\n", "").replace("\t", "").isprintable()):
            raise UserError(f"command has {word!r}, which no program can be given")
    return words


def _check_study(study: StudyFile, used: set[str]) -> None:
    """Refuse what contradicts a command, and lists by which its points would not differ (UserError)."""
    if study.options:
        raise UserError("both command and options are given: options are of train, so leave them out, or the command")
    if (study.global_batch is None) == (study.per_rank_batch is None):
        both = "both global_batch and per_rank_batch are" if study.global_batch else "no batch is"
        raise UserError(
            f"{both} given beside command: give global_batch, the samples of a step over all ranks, for strong "
            "scaling, or per_rank_batch for weak scaling"
        )
    defaults = StudyFile(name="defaults", ranks=(1,))
    for name, placeholder in (("strategies", "strategy"), ("precisions", "precision"), ("seeds", "seed")):
        values = getattr(study, name)
        if placeholder not in used and values != getattr(defaults, name):
            raise UserError(
                f"{name} is {', '.join(map(str, values))}, and the command does not have {{{placeholder}}}: add it "
                f"where the script takes it, or leave out {name}"
            )


def _check_program(words: Sequence[str]) -> None:
    """Refuse a program, or a script of Python, that is not there (UserError)."""
    program, *others = words
    if program in PYTHON:
        script = others[0] if others else ""
        if not script:
            raise UserError(f"command is {program} alone: name a script")
        if script.endswith(".py") and "{" not in script and not Path(script).is_file():
            raise UserError(f"command names {script}, which is not there: a path counts from {Path.cwd()}")
    elif "{" not in program and shutil.which(program) is None:
        raise UserError(f"command begins with {program}, which is no program here: a path counts from {Path.cwd()}")


def _check_batch(config: ScriptConfig, ranks: int) -> None:
    if config.global_batch_for(ranks) < ranks:
        raise UserError(
            f"global_batch is {config.global_batch}, less than {ranks} ranks: each needs one sample at least"
        )


def digest_of(words: Sequence[str]) -> str | None:
    """Of the files that words of a command name, alone or behind '='; None where they name none."""
    digest, found = hashlib.blake2b(digest_size=16), False
    for word in words:
        for name in (word, word.partition("=")[2]):
            path = Path(name)
            if name and path.is_file() and path.stat().st_size <= MOST_BYTES:
                contents = path.read_bytes()
                digest.update(f"{len(contents)} ".encode())
                digest.update(contents)
                found = True
    return digest.hexdigest() if found else None
