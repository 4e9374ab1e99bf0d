"""How options are declared: fields of dataclasses, from which flags, YAML keys and --help are generated.

What an option means is declared with it, once: its limits, which strategies use it, and what two runs that differ in it
have different (`Effect`), from which follow whether it may change on resume and what the report compares.
"""

import re
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from horovod_flowers.runtime.errors import UserError


class Effect(Enum):
    """What two runs have different that differ in an option of this kind."""

    WORK = "the images or the arithmetic of a step: no speed-up of one over the other"
    RECIPE = "what is learned, at the same cost of a step: compared for speed, but in rows of their own"
    SPEED = "perhaps the time of a step, though the work is the same: no speed-up unless differences are allowed"
    STRATEGY = "how the ranks divide the work, which comes after the name of the strategy; nothing on one rank"
    RESOLVED = "nothing by itself: what it came to on the machine is recorded, and compared"
    REPETITION = "which of many equal trainings they are"
    HARMLESS = "nothing of a step or of the model: what goes on beside the steps, or a name for other options' values"
    OUTPUT = "files that are written for other programs"
    FOLDER = "which folder they have, and how they began"
    PLACE = "where the files lie that they read"


MOST_RANKS = 100_000
"""That can be asked for: a slip of the keyboard is told, not tried."""
MOST_THREADS = 65_536
"""The same of threads; TensorFlow counts them in 32 bits."""
MOST_SEED = 2**32 - 1
"""That NumPy's and scikit-learn's older generators take."""

MAPPING = "options"
"""How the names of options end whose value is a mapping of arguments, which are no options themselves."""

_RESUMABLE = frozenset(Effect) - {Effect.WORK, Effect.RECIPE, Effect.REPETITION}
_ALWAYS_THERE: Any = object()


@dataclass(frozen=True)
class Option:
    """An option as it was declared."""

    default: Any
    help: str
    declared_effect: Effect | None
    """None where nobody has said it."""
    declared_resumable: bool | None
    strategies: tuple[str, ...]
    """The only ones that use it; empty where it belongs to none in particular."""
    label: str
    """How a value that is not the default is told after the name of the strategy."""
    before: Any
    at_least: float | None
    above: float | None
    at_most: float | None
    below: float | None
    limits: str | None
    words: int | None
    presets: Path | None
    positional: bool

    @property
    def effect(self) -> Effect:
        """What runs that differ in it have different: other work, as long as nobody has said what."""
        return self.declared_effect or Effect.WORK

    @property
    def resumable(self) -> bool:
        """Whether it may change where a run is resumed, without making it another training."""
        return self.effect in _RESUMABLE if self.declared_resumable is None else self.declared_resumable

    @property
    def came_later(self) -> bool:
        """Whether runs of version 0.1.0 did not have it; `before` then says what they did."""
        return self.before is not _ALWAYS_THERE

    def check_limits(self, name: str, value: Any) -> None:
        """Raise UserError where the value, a number or None, is out of range."""
        if value is None or (
            (self.at_least is None or self.at_least <= value)
            and (self.above is None or self.above < value)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        ):
            return
        raise UserError(f"{name} is {value}: {self.limits or self._limits_in_words()}")

    def _limits_in_words(self) -> str:
        if self.at_least is None or self.above is not None:
            raise TypeError("limits of this kind need words of their own: option(limits=...)")
        counts = {0: "give 0 or a positive whole number", 1: "give a positive whole number"}
        if self.at_most in (MOST_RANKS, MOST_THREADS, MOST_SEED):
            return f"{counts[int(self.at_least)]} up to {self.at_most:.0f}"
        if self.at_most is not None:
            return f"give a number from {self.at_least:g} to {self.at_most:g}"
        if self.below is not None:
            return f"give a number from {self.at_least:g} to below {self.below:g}"
        return counts.get(int(self.at_least), f"give at least {self.at_least:g}")


def option(
    default: Any,
    text: str,
    effect: Effect | None = None,
    *,
    resumable: bool | None = None,
    strategies: Collection[str] = (),
    label: str = "{}",
    before: Any = _ALWAYS_THERE,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    limits: str | None = None,
    words: int | None = None,
    presets: Path | None = None,
) -> Any:
    """A dataclass field whose explanation becomes its --help text.

    `effect`: of an option of a run (`RunConfig`), what runs that differ in it have different; `resumable`: whether it
    may change on resume, where the effect does not say so. `strategies`: the only ones that use it; others refuse it.
    `label`: how a value is told after the strategy's name. `before`: of an option that runs of version 0.1.0 did not
    have, the value that says what they did. `at_least`, `above`, `at_most`, `below`: limits of a number, checked by
    `check_limits`; `limits`: what to say where it breaks them. `words`: how many words follow its flag, as text.
    `presets`: the folder of files NAME.yaml that other options start from, the value being the name; a name may have
    none.
    """
    return _field(
        default, text, effect, resumable, tuple(strategies), label, before, at_least, above, at_most, below, limits,
        words, presets, False,
    )  # fmt: skip


def positional(text: str) -> Any:
    """A dataclass field, a tuple of words, for what stands on the command line without a flag; at least one."""
    return _field((), text, None, None, (), "{}", _ALWAYS_THERE, None, None, None, None, None, None, None, True)


def _field(default: Any, *declared: Any) -> Any:
    return field(default=default, metadata={"option": Option(default, *declared)})


@cache
def options_of(kind: type) -> dict[str, Option]:
    """Every option of a tree of configuration dataclasses by its dotted name, such as data.image_size, in order."""
    found: dict[str, Option] = {}
    hints = typing.get_type_hints(kind)
    for item in fields(kind):
        if is_dataclass(hints[item.name]):
            found |= {f"{item.name}.{name}": option for name, option in options_of(hints[item.name]).items()}
        else:
            found[item.name] = item.metadata["option"]
    return found


def names_of(kind: type, *effects: Effect) -> list[str]:
    """The dotted names of the options with one of these effects, in order."""
    return [name for name, found in options_of(kind).items() if found.effect in effects]


def flat_options(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a configuration tree by their dotted names, as YAML and `dataclasses.asdict` give it."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        group = isinstance(value, dict) and not str(name).endswith(MAPPING)
        leaves |= flat_options(value, f"{prefix}{name}.") if group else {f"{prefix}{name}": value}
    return leaves


def flag_of(name: str) -> str:
    """--data.image-size from data.image_size."""
    return f"--{name.replace('_', '-')}"


def check_limits(config: Any, prefix: str = "") -> None:
    """Check the numbers of a configuration dataclass against their limits; nested ones check their own (UserError).

    `prefix`: of its options' names in messages, such as 'data.'.
    """
    for item in fields(config):
        if "option" in item.metadata:
            item.metadata["option"].check_limits(f"{prefix}{item.name}", getattr(config, item.name))


def rank_counts(words: str) -> list[int]:
    """The numbers of an option called ranks, such as '1,2'. Raises UserError."""
    if not all(re.fullmatch(r"0*[1-9][0-9]{0,8}", word, re.ASCII) for word in words.split(",")):
        raise UserError(f"ranks is {words!r}: give positive whole numbers separated by commas, such as 1,2")
    counts = [int(word) for word in words.split(",")]
    if max(counts) > MOST_RANKS:
        raise UserError(f"ranks is {words!r}: give numbers from 1 to {MOST_RANKS}")
    return counts


def options_of_strategies(kind: type) -> list[str]:
    """Names of a configuration's own options that only some strategies use."""
    return [item.name for item in fields(kind) if "option" in item.metadata and item.metadata["option"].strategies]


def check_strategy(config: Any, strategy: str) -> None:
    """Refuse an option of this dataclass that the strategy does not use, unless it has its default (UserError)."""
    for item in fields(config):
        found: Option | None = item.metadata.get("option")
        value = getattr(config, item.name)
        if found is not None and found.strategies and strategy not in found.strategies and value != found.default:
            raise UserError(
                f"{item.name} is {value!r} but strategy {strategy} cannot use it: leave out {flag_of(item.name)}, or "
                f"choose --strategy {' or '.join(found.strategies)}"
            )
