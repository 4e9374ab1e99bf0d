"""The points that a study's job file stands for: which runs, with which options, in which order."""

import random
from collections.abc import Mapping, Sequence
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Any

from horovod_flowers.config.command_line import flags, given_options, parse
from horovod_flowers.config.options import Effect, flag_of, flat_options, names_of
from horovod_flowers.config.run import RunConfig, with_overrides
from horovod_flowers.runtime.errors import UserError
from horovod_flowers.study.file import StudyFile
from horovod_flowers.study.point import CollectivesPoint, Point, TrainingPoint, peak_points
from horovod_flowers.study.profiles import profile_file
from horovod_flowers.study.script import script_points

MOST_POINTS = 10_000
"""Of a study: each is checked as train would check it, and would be run."""
SET_BY_STUDY = ("strategy", "precision", "seed", *names_of(RunConfig, Effect.FOLDER))
"""A study sets these itself, for each of its points."""
NO_OPTIONS_OF_A_RUN = ("config", "help", "print_config")


def points_of(study: StudyFile, path: Path, runs_dir: str, more_options: Sequence[str] = ()) -> list[Point]:
    """Every point of a study, each checked as the train command would check it, in the order of the file.

    more_options: words of the command line that override the file's options. Raises UserError.
    """
    if study.command is not None and study.network is not None:
        raise UserError(
            f"job file {path}: both network and command are given: a script of one's own computes, for which the cores "
            "of one machine are too few; emulation is for train, so leave out one of them"
        )
    if study.command is not None:
        if more_options:
            raise UserError(
                f"job file {path} has a command, and {' '.join(more_options)} behind -- is for options of train: write "
                "it into the command"
            )
        _refuse_too_many(study, path)
        try:
            return script_points(study, runs_dir)
        except UserError as error:
            raise UserError(f"job file {path}: {error}") from error
    _refuse_options_of_commands(study, path)
    options = flat_options(study.options)
    for name in options:
        if name.partition(".")[0].replace("-", "_") in NO_OPTIONS_OF_A_RUN:
            raise UserError(f"job file {path}: {name} is not an option of a run: leave it out of options")
        if name in SET_BY_STUDY:
            raise UserError(f"job file {path}: option {name} is the study's own: leave it out of options")
    _refuse_too_many(study, path)
    points, timeout = list[Point](), study.timeout_minutes * 60
    given: list[str] | None = None
    repetitions = range(1, study.repetitions + 1)
    for ranks in study.ranks:
        alone = ranks == 1
        strategies = study.strategies[:1] if alone else study.strategies
        for precision, strategy, seed, number in product(study.precisions, strategies, study.seeds, repetitions):
            how = "alone" if alone else strategy
            name = f"{study.name}-{ranks}ranks-{how}-{precision}-seed{seed}-run{number}"
            own: dict[str, Any] = {"strategy": strategy, "precision": precision, "seed": seed}
            own |= {"name": name, "runs_dir": runs_dir, "resume_or_start": True}
            if study.network is not None and "emulate.profile" not in options:
                own["emulate.profile"] = str(profile_file(runs_dir, study.name, precision))
            config = _checked(path, [*flags({**options, **own}), *more_options], ranks)
            if given is None:  # of a compiled model what the file gives counts, even where an option has it anyway
                given = given_options(RunConfig, [*flags(options), *more_options])
            config = with_overrides(config, given)
            _refuse_overridden(study, own, config)
            points.append(TrainingPoint(name, ranks, number, timeout, config, network=study.network))
        points += _measurements(study, ranks, timeout, config)
    return points


def _measurements(study: StudyFile, ranks: int, timeout: float, config: RunConfig) -> list[Point]:
    """What is measured beside the runs at a number of ranks."""
    found = list[Point]()
    if study.collectives and ranks > 1:
        numbers = range(1, study.repetitions + 1)
        names = ((number, f"{study.name}-{ranks}ranks-collectives-run{number}") for number in numbers)
        found += [
            CollectivesPoint(name, ranks, number, timeout, config, network=study.network) for number, name in names
        ]
    return found + (peak_points(study, ranks, timeout, config) if study.peak else [])


def _refuse_options_of_commands(study: StudyFile, path: Path) -> None:
    """Raise UserError for what is said of a command where there is none, and for a peak of virtual nodes."""
    if study.network is not None and study.peak:
        raise UserError(
            f"job file {path}: both network and peak are given: a peak is of real nodes, and virtual ones share this "
            "machine's cores; leave out one of them"
        )
    for name in ("global_batch", "per_rank_batch", "threads", "warmup_steps"):
        if getattr(study, name) is not None:
            raise UserError(f"job file {path}: {name} stands beside a command; of train it is one of the options")


def _refuse_too_many(study: StudyFile, path: Path) -> None:
    """Raise UserError for more points than anybody runs, before they are made: a slip of the keyboard fills memory."""
    combinations = len(study.precisions) * len(study.seeds)
    a_repetition = sum(combinations * (1 if ranks == 1 else len(study.strategies)) for ranks in study.ranks)
    if study.collectives:
        a_repetition += sum(ranks > 1 for ranks in study.ranks)
    if study.peak:
        a_repetition += len(study.ranks)
    if a_repetition * study.repetitions > MOST_POINTS:
        raise UserError(
            f"job file {path} stands for {a_repetition * study.repetitions} points ({a_repetition} combinations, "
            f"{study.repetitions} repetitions): at most {MOST_POINTS} are taken; lower repetitions, or shorten the "
            "lists"
        )


def _refuse_overridden(study: StudyFile, own: Mapping[str, Any], config: RunConfig) -> None:
    """Raise UserError for an option behind -- by which points would be the same that are to differ, or get lost."""
    varied = {"strategy": study.strategies, "precision": study.precisions, "seed": study.seeds}
    for name, value in own.items():
        if attrgetter(name)(config) != value and len(varied.get(name, (0, 0))) > 1:
            raise UserError(
                f"{flag_of(name)} is given behind --, and the study sets it for each point: leave it out, or change "
                "the job file"
            )


def _checked(path: Path, words: list[str], ranks: int) -> RunConfig:
    try:
        config = parse(RunConfig, "horovod_flowers.train", "", words)
        config.global_batch_for(ranks)
    except UserError as error:
        raise UserError(f"job file {path}, ranks {ranks}: {error}") from error
    return config


def in_order(points: Sequence[Point], order_seed: int) -> list[Point]:
    """The order in which the points are run: all first repetitions in random order, then all second ones, ...

    What drifts while a study runs (the machine's load, its temperature) then meets all points alike.
    """
    shuffler = random.Random(order_seed)
    ordered = []
    for repetition in sorted({point.repetition for point in points}):
        block = [point for point in points if point.repetition == repetition]
        ordered += shuffler.sample(block, len(block))
    return ordered
