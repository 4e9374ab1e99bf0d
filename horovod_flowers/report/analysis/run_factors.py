"""What each run was made with: what must be equal for two to be compared, and what differs between them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from horovod_flowers.config.options import flat_options
from horovod_flowers.config.run import RunConfig
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.runtime.errors import harmless

Work = tuple[tuple[str, Any], ...]

# Options that say where a run's files are or what it is called: nothing that a figure depends on.
_WHERE = (
    *("name", "runs_dir", "overwrite", "resume", "resume_or_start", "tensorboard"),
    *("data.path", "data.tfds_dir", "data.prepared_dir"),
)
# Options whose outcome is recorded, and compared, as what they came to on the machine.
_RESOLVED = ("strategy", "precision", "global_batch", "per_rank_batch", "threads")
# What may change the seconds of a step though the work is the same, beside the number of ranks and the strategy.
_SPEED = ("commit", "launcher", "MPI library", "bind", "horovod.", "HOROVOD_", "version of ")


@cache
def work_of(run: RunSummary) -> Work:
    """What must be equal for two runs to be compared; the number of ranks and the strategy are what may differ."""
    config, environment = run.config, run.environment
    strong = config["global_batch"] is not None
    batch = environment.global_batch if strong else environment.global_batch // environment.world_size
    return (
        ("scaling", "strong" if strong else "weak"),
        ("global_batch" if strong else "per_rank_batch", batch),
        ("model", config["model"]["name"]),
        ("data", run.result.data_digest),
        ("augment", config["data"]["augment"]),
        ("optimizer", config["optimizer"]["name"]),
        ("precision", harmless(environment.precision)),
        ("accumulate", config["accumulate"]),
        ("threads", tuple(sorted({rank.threads for rank in environment.ranks}))),
        ("cpu_model", tuple(sorted({host.cpu_model or "" for host in environment.hosts}))),
    )


def other_scaling(work: Work) -> Work:
    """The same work of one rank, named as the other kind of scaling: one rank's batch is global and its own."""
    (_, scaling), (_, batch), *rest = work
    other = ("weak", "per_rank_batch") if scaling == "strong" else ("strong", "global_batch")
    return (("scaling", other[0]), (other[1], batch), *rest)


@cache
def strategy_of(run: RunSummary) -> str:
    """How the ranks divided the work, with whatever options change its times."""
    if run.ranks == 1:
        return "one rank"
    words = [harmless(run.environment.strategy)]
    if run.environment.strategy == "mesh":
        words.append(f"of {run.config['model_parallel_size'] or 'nodes'}")
    if run.config["compression"] != "none":
        words.append(run.config["compression"])
    if run.config["dense_gradients"] != "auto":
        words.append(run.config["dense_gradients"])
    return " ".join(words)


@cache
def recipe_of(run: RunSummary) -> str:
    """What changes the accuracy but not the time of a step: runs that differ in it do not share a row."""
    config = run.config
    return repr([config["epochs"], config["steps"], config["data"]["augment"], sorted(config["optimizer"].items())])


@cache
def _defaults() -> dict[str, Any]:
    return flat_options(asdict(RunConfig()))


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
        "data hash": run.result.data_digest,
        "training images": run.result.training_images,
        "validation images": run.result.validation_images,
        "commit": environment.commit or "unknown",
        "hosts": ", ".join(sorted({host.host for host in hosts})),
        "CPU": ", ".join(sorted({host.cpu_model or "unknown" for host in hosts})),
        "logical CPUs per host": "/".join(str(count) for count in sorted({host.logical_cpus for host in hosts})),
        "memory per host (GiB)": "/".join(f"{size:.0f}" for size in sorted({h.memory_bytes / 2**30 for h in hosts})),
        "launcher": environment.launcher,
        "MPI library": environment.mpi_library or "none",
        "MPI yields when idle": "yes" if environment.yield_when_idle else "no",
        **environment.horovod_settings,
        **{f"version of {package}": version for package, version in environment.versions.items()},
    }
    options = {**_defaults(), **flat_options(run.config)}
    found |= {name: value for name, value in options.items() if name not in (*_WHERE, *_RESOLVED)}
    return {name: _in_words(value) for name, value in found.items()}


def _in_words(value: Any) -> str:
    if value is None:
        return "not set"
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
        values |= {factors.get(name, "not recorded") for factors in every}
    return found


def speed_factors(values: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Of these factors, those that change a step's seconds while the work stays the same."""
    return {name: found for name, found in values.items() if name.startswith(_SPEED)}


@cache
def speed_key(run: RunSummary) -> tuple[tuple[str, str], ...]:
    """The factors that may change a step's seconds, to tell runs apart by."""
    return tuple(sorted((name, value) for name, value in run_factors_of(run).items() if name.startswith(_SPEED)))


def differences(one: Sequence[RunSummary], other: Sequence[RunSummary]) -> list[str]:
    """What may change a step's seconds and is not equal in two groups of runs, beside ranks and strategy, in words."""
    first, second = speed_factors(values_of(one)), speed_factors(values_of(other))
    return [
        f"{name}: {_listed(first.get(name, set()))} against {_listed(second.get(name, set()))}"
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]


def unlike(runs: Sequence[RunSummary]) -> list[str]:
    """What changes the seconds of a step and is not equal among these runs, in words."""
    found = speed_factors(values_of(runs))
    return [f"{name}: {_listed(values)}" for name, values in sorted(found.items()) if len(values) > 1]


def _listed(values: set[str]) -> str:
    return " and ".join(sorted(values)) if values else "not recorded"
