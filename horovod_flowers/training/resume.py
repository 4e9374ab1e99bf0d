"""What a resumed run starts from, and what must not differ from the run that is resumed."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from horovod_flowers.checkpoint.format import DamagedError, checkpoint_files, read_progress
from horovod_flowers.config.command_line import build, given_options, parse
from horovod_flowers.config.optimizer import TO_THE_END
from horovod_flowers.config.options import flag_of, flat_options, options_of
from horovod_flowers.config.run import NOTHING, RunConfig, overriding, with_overrides
from horovod_flowers.config.yaml_file import options_in
from horovod_flowers.data.opening import TrainedOn
from horovod_flowers.runlog.json_lines import read_json
from horovod_flowers.runlog.records import Environment, Result
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.runlog.run_hold import RunHold
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.runtime.files import temporary_folder

IN_USE = "wait for its end, or choose another --name"
"""What to do about a run that another job works on."""


def read_config(arguments: Sequence[str] | None, rank: int, hold: RunHold | None = None) -> RunConfig:
    """Flags over YAML file over defaults; a run to resume starts from its own configuration instead of the defaults.

    `hold`: on rank 0 it takes the run before anything of it is looked at, so that what is found stays true. Raises
    UserError, also where another job is at work on the run.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = "horovod_flowers.train"
    config = parse(RunConfig, command, __doc__, words, rank)
    given = given_options(RunConfig, words)
    config = with_overrides(config, given)
    folder = RunFolder(Path(config.runs_dir) / str(config.name))
    if hold is not None and rank == 0 and config.name is not None and folder.path.parent.is_dir():
        hold.take(folder.path, IN_USE)
    if config.resume_or_start and folder.path.exists():
        # Decided by every rank before MPI starts, and so before rank 0 changes anything; what rank 0 finds counts.
        if not (folder.has_checkpoint or _has_result_to_keep(folder, config)):
            return replace(config, overwrite=True, resume_or_start=False)
        words.append("--resume")
        config = replace(config, resume=True)
    if not config.resume:
        return config
    folder.check(overwrite=False, resume=True)
    stored = options_in(folder.config)
    before = _overrides_in(stored)
    words += ["--model.overrides", "null" if before is None else overriding([*before.split(","), *given]) or NOTHING]
    if not any(word.split("=")[0] == "--strategy" for word in words) or stored.get("strategy") == config.strategy:
        return parse(RunConfig, command, __doc__, ["--config", str(folder.config), *words], rank)
    # Another strategy: what the one before was told says nothing about it.
    options = options_of(RunConfig)
    kept = {name: value for name, value in stored.items() if name not in options or not options[name].strategies}
    with temporary_folder("resume") as place:
        file = place / "options.yaml"
        file.write_text(yaml.safe_dump(kept), encoding="utf-8")
        return parse(RunConfig, command, __doc__, ["--config", str(file), *words], rank)


def _overrides_in(stored: Mapping[str, Any]) -> str | None:
    """What went before a compiled model's own in a run, given its options; None where its model was not compiled.

    A run of a version that did not look at what a model is compiled with was trained by its options alone.
    """
    model = stored.get("model")
    if not isinstance(model, dict):
        return None
    kept = model.get("overrides", "label_smoothing,loss,optimizer.name")
    return kept if isinstance(kept, str) else None


def has_ended(config: RunConfig) -> bool:
    """Whether the run has trained all of its epochs, or was stopped early."""
    return config.resume and _has_result(RunFolder(Path(config.runs_dir) / str(config.name)), config.epochs)


def _has_result(folder: RunFolder, epochs: int) -> bool:
    return folder.result.exists() and read_json(folder.result, Result).ends(epochs)


def _has_result_to_keep(folder: RunFolder, config: RunConfig) -> bool:
    """Whether a run without a checkpoint has a result that is not begun anew.

    An emulated run keeps nothing to go on from: one of fewer epochs is begun anew, by another emulated one alone.
    """
    if not folder.result.exists() or config.emulate.profile is None or not folder.config.exists():
        return folder.result.exists()
    emulate = options_in(folder.config).get("emulate")
    was_emulated = isinstance(emulate, dict) and emulate.get("profile") is not None
    return not was_emulated or _has_result(folder, config.epochs)


def check_continues(folder: RunFolder, config: RunConfig, size: int) -> None:
    """Refuse options under which the resumed run would not be the same training (UserError)."""
    earlier = build(RunConfig, options_in(folder.config))
    earlier_batch = read_json(folder.environment, Environment).global_batch
    batch = config.global_batch_for(size)
    if batch != earlier_batch:
        flag, value = ("--global-batch", earlier_batch)
        if config.global_batch is None:
            flag, value = ("--per-rank-batch", earlier_batch // size)
        raise UserError(
            f"run {folder.path} was trained with a global batch of {earlier_batch}, not {batch}: resume with {flag} "
            f"{value}"
        )
    was, now = flat_options(asdict(earlier)), flat_options(asdict(config))
    was["model.overrides"] = _overrides_in(options_in(folder.config))
    changed = [name for name, found in options_of(RunConfig).items() if was[name] != now[name] and not found.resumable]
    if earlier.optimizer.decay in TO_THE_END and earlier.epochs != config.epochs:
        changed.append("epochs")  # the curve that the learning rate has followed so far ends there
    if "model.overrides" in changed:
        more = sorted({*(now["model.overrides"] or "").split(",")} - {*(was["model.overrides"] or "").split(",")})
        raise UserError(
            f"run {folder.path} was trained with what its model is compiled with in place of {', '.join(more)}: leave "
            f"out {', '.join(map(flag_of, more))} to resume it, or start another run, from its weights with "
            f"--model.weights {folder.path}"
        )
    for name in changed:
        raise UserError(
            f"run {folder.path} was trained with {name} {was[name]}, not {now[name]}: leave out {flag_of(name)} to "
            f"resume it, or start another run, from its weights with --model.weights {folder.path}"
        )


def read_trained_on(config: RunConfig) -> TrainedOn | None:
    """The images that the run was trained on so far; None where it starts, or no checkpoint of it can be read."""
    if not config.resume:
        return None
    folder = RunFolder(Path(config.runs_dir) / str(config.name))
    for path in checkpoint_files(folder.checkpoints):
        try:
            progress = read_progress(path)
        except (DamagedError, UserError, OSError):
            continue
        return TrainedOn(folder.path, progress.class_names, progress.data_digest)
    return None
