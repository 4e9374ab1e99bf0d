"""What each run was made with: what must be equal for two to be compared, and what differs between them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import yaml

from horovod_flowers.config.choices import INDEPENDENT
from horovod_flowers.config.options import Effect, flat_options, names_of, options_of
from horovod_flowers.config.run import RunConfig
from horovod_flowers.config.script import ScriptConfig, is_script
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.runtime.errors import harmless

EMULATED = "(emulated)"
"""After the name of the strategy of a run that slept, or that ran on a virtual network: it stands wherever a figure of
such a run does."""
_EMULATED = "emulate"
"""How the names of factors begin that only emulated runs have."""
Work = tuple[tuple[str, Any], ...]
_KINDS = (RunConfig, ScriptConfig)
_DEFAULTS: dict[type, dict[str, Any]] = {kind: flat_options(asdict(kind())) for kind in _KINDS}

# What may change the seconds of a step though the work is the same, beside the number of ranks, the strategy and the
# options that say so of themselves.
_MESSAGES = ("HOROVOD_", "MPI setting")
"""How the names of factors begin that matter only where ranks send something."""
_SPEED = ("CPU", "CPU features", "GPU", "commit", "launcher", "MPI library", *_MESSAGES, "version of ")
# What does not tell runs apart though it is recorded; whatever else differs does.
CANNOT_MATTER: Mapping[str, str] = {
    "hosts": "names of nodes: their processors, how many there are and how ranks are placed are told apart",
    "memory per host (GiB)": "a run that lacks memory fails; kernels of equal nodes keep a little more or less of it",
    "training images": "follows from the data hash",
    "validation images": "follows from the data hash; they are in no timed step",
}
_EFFECTS_THAT_CANNOT_MATTER = (Effect.REPETITION, Effect.HARMLESS)  # what each means is said where it is declared
# Of one rank, which sends nothing: how ranks talk, and how work is divided among them.
_OF_SEVERAL_RANKS = (*_MESSAGES, "MPI ", "launcher", "nodes", "ranks per node")


@cache
def work_of(run: RunSummary) -> Work:
    """What must be equal for two runs to be compared; the number of ranks and the strategy are what may differ.

    An option is in it that says so where it is declared, or of which nobody has said what it means. Of a script's run
    the command, the files that it names and the number of its model's parameters stand for model and data.
    """
    environment = run.environment
    strong = run.config["global_batch"] is not None
    batch = environment.global_batch if strong else environment.global_batch // environment.world_size
    return (
        ("scaling", "strong" if strong else "weak"),
        ("global_batch" if strong else "per_rank_batch", batch),
        ("parameters", run.result.parameters) if is_script(run.config) else ("model", run.config["model"]["name"]),
        ("data", run.result.data_digest),
        ("precision", harmless(environment.precision)),
        ("threads", tuple(sorted({rank.threads for rank in environment.ranks}))),
        *((name, value) for name, value in _options(run, Effect.WORK).items() if name != "model.name"),
        *((("emulated", environment.emulated.kind),) if environment.emulated is not None else ()),
    )


def work_apart(one: Work, other: Work) -> tuple[str, ...]:
    """What differs between two runs' work, in words such as 'data.crop_size: 64 against not set'."""
    first, second = dict(one), dict(other)
    return tuple(
        f"{name}: {_in_words(first.get(name))} against {_in_words(second.get(name))}"
        for name in dict.fromkeys((*first, *second))
        if first.get(name) != second.get(name)
    )


def _options(run: RunSummary, *effects: Effect) -> dict[str, Any]:
    """The run's options with one of these effects, by their dotted names."""
    kind = kind_of(run)
    values = _DEFAULTS[kind] | flat_options(run.config)
    return {name: _as_value(values[name]) for name in names_of(kind, *effects)}


def _as_value(value: Any) -> Any:
    """A mapping of arguments as text, whatever the order that they were given in."""
    if not isinstance(value, dict):
        return value
    return str(yaml.safe_dump(value, default_flow_style=True, width=math.inf)).strip()


def kind_of(run: RunSummary) -> type:
    """What declares the run's options: RunConfig, or ScriptConfig."""
    return ScriptConfig if is_script(run.config) else RunConfig


def names_with(*effects: Effect) -> set[str]:
    """The dotted names of options of any kind of run with one of these effects."""
    return {name for kind in _KINDS for name in names_of(kind, *effects)}


def other_scaling(work: Work) -> Work:
    """The same work of one rank, named as the other kind of scaling: one rank's batch is global and its own."""
    (_, scaling), (_, batch), *rest = work
    other = ("weak", "per_rank_batch") if scaling == "strong" else ("strong", "global_batch")
    return (("scaling", other[0]), (other[1], batch), *rest)


@cache
def strategy_of(run: RunSummary) -> str:
    """How the ranks divided the work, with whatever options change its times; and whether it was emulated."""
    mark = [EMULATED] if run.environment.emulated is not None else []
    if run.ranks == 1:
        return " ".join(["one rank", *mark])
    strategy = run.environment.strategy
    words = [harmless(strategy)]
    if strategy == "mesh" and run.config.get("model_parallel_size", 0) is None:
        words.append("of nodes")
    if strategy != INDEPENDENT:
        for name, value in _options(run, Effect.STRATEGY).items():
            declared = options_of(kind_of(run))[name]
            if value != declared.default and (not declared.strategies or strategy in declared.strategies):
                words.append(harmless(declared.label.format(value)))
    return " ".join([*words, *mark])


@cache
def recipe_of(run: RunSummary) -> str:
    """What changes the accuracy but not the time of a step: runs that differ in it do not share a row."""
    return repr(list(_options(run, Effect.RECIPE).items()))


def cpu_models_of(run: RunSummary) -> tuple[str, ...]:
    """Models of the processors that its ranks ran on, each once; empty text for one that is not known."""
    return tuple(sorted({host.cpu_model or "" for host in run.environment.hosts}))


@cache
def learned_from(run: RunSummary) -> str:
    """What decides what a run learns, but for its batch, its precision and its seed."""
    return repr([run.result.data_digest, *_options(run, Effect.RECIPE, Effect.WORK).items()])


_TOLD_APART = ("mpi_yield_when_idle", "I_MPI_THREAD_YIELD")
"""Settings of MPI that 'MPI yields when idle' tells of."""


@cache
def run_factors_of(run: RunSummary) -> dict[str, str]:
    """Everything known to matter that a run was made with, by name, in words."""
    environment = run.environment
    hosts = environment.hosts
    found: dict[str, Any] = {
        "ranks": environment.world_size,
        "strategy": strategy_of(run),
        "precision": environment.precision,
        "global batch": environment.global_batch,
        "batch per rank": environment.global_batch / environment.world_size,
        "threads per rank": "/".join(str(count) for count in sorted({rank.threads for rank in environment.ranks})),
        "oversubscribed": "yes" if environment.oversubscribed else "no",
        **({"parameters": run.result.parameters} if is_script(run.config) else {}),
        "data hash": run.result.data_digest,
        "training images": run.result.training_images,
        "validation images": run.result.validation_images,
        "commit": environment.commit or "unknown",
        "hosts": ", ".join(sorted({host.host for host in hosts})),
        "nodes": len(hosts),
        "ranks per node": "/".join(str(count) for count in sorted({host.ranks for host in hosts})),
        "CPU": ", ".join(model or "unknown" for model in cpu_models_of(run)),
        "CPU features": " ".join(sorted({flag for host in hosts for flag in host.cpu_features})) or "none known",
        "GPU": ", ".join(sorted({rank.gpu for rank in environment.ranks if rank.gpu})) or "none",
        "logical CPUs per host": "/".join(str(count) for count in sorted({host.logical_cpus for host in hosts})),
        "memory per host (GiB)": "/".join(f"{size:.0f}" for size in sorted({h.memory_bytes / 2**30 for h in hosts})),
        "launcher": environment.launcher,
        "MPI library": environment.mpi_library or "none",
        "MPI yields when idle": "yes" if environment.yield_when_idle else "no",
        **{f"MPI setting {name}": value for name, value in environment.mpi_settings.items() if name not in _TOLD_APART},
        **environment.horovod_settings,
        **{f"version of {package}": version for package, version in environment.versions.items()},
    }
    for name, values in (  # not of older records, and not of virtual machines
        ("CPU governor", sorted({host.cpu_governor for host in hosts if host.cpu_governor})),
        ("CPU max MHz", sorted({f"{host.max_mhz:g}" for host in hosts if host.max_mhz})),
    ):
        found |= {name: "/".join(values)} if values else {}
    untold = (Effect.RESOLVED, Effect.OUTPUT, Effect.FOLDER, Effect.PLACE)
    found |= _options(run, *(effect for effect in Effect if effect not in untold))
    if environment.emulated is not None:
        found["emulated"] = environment.emulated.kind
    else:  # all others have nothing to say of it
        found = {name: value for name, value in found.items() if not name.startswith(_EMULATED)}
    return {name: _in_words(value) for name, value in found.items()}


def _in_words(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, tuple):
        return "/".join(_in_words(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else harmless(str(value))


def values_of(runs: Iterable[RunSummary]) -> dict[str, set[str]]:
    """All values that each factor took in these runs."""
    found: dict[str, set[str]] = {}
    every = [run_factors_of(run) for run in runs]
    for factors in every:
        for name in factors:
            found.setdefault(name, set())
    for name, values in found.items():
        missing = "no" if name.startswith(_EMULATED) else "not recorded"
        values |= {factors.get(name, missing) for factors in every}
    return found


def speed_factors(values: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Of these factors, those that change a step's seconds while the work stays the same."""
    options = names_with(Effect.SPEED)
    return {name: found for name, found in values.items() if name in options or name.startswith(_SPEED)}


@cache
def speed_key(run: RunSummary) -> tuple[tuple[str, str], ...]:
    """The factors that may change a step's seconds, to tell runs apart by."""
    options = names_with(Effect.SPEED)
    factors = run_factors_of(run).items()
    key = tuple(sorted((name, value) for name, value in factors if name in options or name.startswith(_SPEED)))
    return without_horovod(key) if run.ranks == 1 else key


@cache
def apart_key(run: RunSummary) -> tuple[tuple[str, str], ...]:
    """Every factor that tells runs apart: runs of one point are equal in all of these."""
    ignored = {*CANNOT_MATTER, *names_with(*_EFFECTS_THAT_CANNOT_MATTER)}
    for name, declared in options_of(kind_of(run)).items():
        unused = declared.strategies and run.environment.strategy not in declared.strategies
        if declared.effect is Effect.STRATEGY and (run.ranks == 1 or unused):  # of others, which 'auto' did not choose
            ignored.add(name)
    return tuple(
        sorted(
            (name, value)
            for name, value in run_factors_of(run).items()
            if name not in ignored and not (run.ranks == 1 and name.startswith(_OF_SEVERAL_RANKS))
        )
    )


def without_horovod(key: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """What of a speed key counts on one rank, which sends nothing: Horovod and MPI have their settings for more."""
    return tuple((name, value) for name, value in key if not name.startswith(_MESSAGES))


def differences(one: Sequence[RunSummary], other: Sequence[RunSummary]) -> list[str]:
    """What may change a step's seconds and is not equal in two groups of runs, beside ranks and strategy, in words."""
    first, second = speed_factors(values_of(one)), speed_factors(values_of(other))
    alone = {1} in ({run.ranks for run in one}, {run.ranks for run in other})
    return [
        f"{name}: {_listed(first.get(name, set()))} against {_listed(second.get(name, set()))}"
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name) and not (alone and name.startswith(_MESSAGES))
    ]


def unlike(runs: Sequence[RunSummary]) -> list[str]:
    """What changes the seconds of a step and is not equal among these runs, in words."""
    found = speed_factors(values_of(runs))
    alone = all(run.ranks == 1 for run in runs)  # which do not start Horovod
    return [
        f"{name}: {_listed(values)}"
        for name, values in sorted(found.items())
        if len(values) > 1 and not (alone and name.startswith(_MESSAGES))
    ]


def _listed(values: set[str]) -> str:
    return " and ".join(sorted(values)) if values else "not recorded"
