"""Commands that make runs again, each as a line for a shell: what they make is one point with the originals.

What a run took from the machine or from its surroundings is written out: precision, threads, batch, the strategy that
'auto' chose, room for more ranks than cores, nodes, and variables of Horovod and MPI. Other options called 'auto'
(optimizer.scaling, dense_gradients, bind) follow from those that are written, and stay: written out they would be
another recipe.
"""

import json
import shlex
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from horovod_flowers.config.command_line import build, flags, start_of
from horovod_flowers.config.options import Effect, flag_of, flat_options, names_of, options_of
from horovod_flowers.config.run import RunConfig
from horovod_flowers.config.script import ScriptConfig, is_script, placeholders_in, words_of
from horovod_flowers.launch.job_environment import ELASTIC, SINGLE, SRUN
from horovod_flowers.mpi.identify import library_from_text
from horovod_flowers.mpi.library import MpiLibrary
from horovod_flowers.mpi.open_mpi import OpenMpi
from horovod_flowers.report.analysis.points import Point
from horovod_flowers.report.analysis.run_summary import RunSummary
from horovod_flowers.runtime.errors import harmless

TRAIN = ("python", "-m", "horovod_flowers.train")
_BY_SLURM = ("pmix", SRUN)
"""What ranks say of their launcher that srun has started, Open MPI's and others."""


@dataclass(frozen=True)
class Study:
    """A study of one point."""

    job_file: str
    """As JSON, without its name and its repetitions."""
    options: tuple[str, ...]


@dataclass(frozen=True)
class Repeat:
    """A command that makes runs again."""

    command: str
    needs: tuple[str, ...] = ()
    """What has to be there before, and cannot be told by the command, in clauses."""
    study: "Study | None" = None
    """Where a study makes the runs, all of them at once."""
    runs: int = 1
    """That were made so."""

    @property
    def note(self) -> str:
        """What stands behind the command, as a shell's comment: how often, and what it needs."""
        return "; ".join([f"{self.runs} run" if self.runs == 1 else f"{self.runs} runs", *self.needs])


def repeats_of(runs: Sequence[RunSummary]) -> list[Repeat]:
    """The commands that make these runs again, those of most ranks last."""
    counted: dict[Repeat, int] = {}
    for run in sorted(runs, key=lambda run: (run.ranks, run.name)):
        found = repeat_of(run)
        counted[found] = counted.get(found, 0) + 1
    return [_made(found, count) for found, count in counted.items()]


def _made(found: Repeat, runs: int) -> Repeat:
    command = found.command if found.study is None else _study_command(found.study, runs)
    return Repeat(command, found.needs, found.study, runs)


def repeat_of(run: RunSummary, ranks: int | None = None) -> Repeat:
    """The command that makes one run like this one; with other `ranks` (1) its baseline, beside it."""
    size = run.ranks if ranks is None else ranks
    if is_script(run.config):
        return _study_of_script(run, size)
    emulated = run.environment.emulated
    if emulated is not None and emulated.network is not None:
        return _study_of_emulated(run, size)
    values, needs = _train_options(run, size)
    if run.environment.launcher == ELASTIC:
        needs.append("started by horovodrun with a --host-discovery-script in place of mpirun (docs/elastic.md)")
    start, needs_of_start = _start(run, size)
    variables = _variables(run, size, values)
    words = [*(["env", *variables] if variables else []), *start, *TRAIN, *flags(values)]
    return Repeat(shlex.join(words), (*needs, *needs_of_start))


def baseline_of(point: Point) -> Repeat:
    """The command that makes a point's one-rank baseline, beside the runs that lack it."""
    return repeat_of(point.runs[0], ranks=1)


def _train_options(run: RunSummary, ranks: int) -> tuple[dict[str, Any], list[str]]:
    """Options of train by their dotted names, and what they need."""
    environment = run.environment
    config = build(RunConfig, run.config)
    start = flat_options(asdict(start_of(config)))
    asked = flat_options(asdict(config))
    left_out = set(names_of(RunConfig, Effect.FOLDER, Effect.RESOLVED))
    # On one rank nothing is divided; elsewhere a strategy that 'auto' chose refuses the options of others.
    strategy = environment.strategy if config.strategy == "auto" else config.strategy
    for name, declared in options_of(RunConfig).items():
        unused = declared.strategies and strategy not in declared.strategies
        if declared.effect is Effect.STRATEGY and (ranks == 1 or unused):
            left_out.add(name)
    values = {name: value for name, value in asked.items() if name not in left_out and value != start[name]}
    batch = environment.global_batch
    strong = config.global_batch is not None
    values["global_batch" if strong else "per_rank_batch"] = batch if strong else batch // run.ranks
    if ranks > 1:
        values["strategy"] = strategy
    values["precision"] = environment.precision
    if environment.emulated is None:  # else those of the profile
        values["threads"] = environment.ranks[0].threads
    return _located(run, values)


def _located(run: RunSummary, values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The options with paths that hold in any folder, and what else has to be there.

    A path may be written otherwise where only the contents count (Effect.PLACE); the name of a model, of weights or of
    a profile is compared as it was given.
    """
    found, needs = dict(values), []
    origin = _origin(run)
    for name in names_of(RunConfig, Effect.PLACE):
        value = values.get(name)
        if not value or Path(value).is_absolute() or name == "data.prepared_dir":  # it is prepared anew
            continue
        if origin is not None and (origin / value).exists():
            found[name] = str(origin / value)
        else:
            needs.append(f"where {flag_of(name)} {harmless(value)} is")
    source = values.get("data.source", "synthetic")
    if source not in ("synthetic", "folder") and "data.tfds_dir" not in values:
        needs.append(f"with {harmless(source)} in $TFDS_DATA_DIR or ~/tensorflow_datasets")
    for name in ("model.name", "model.weights", "emulate.profile"):
        value = values.get(name)
        if not value or str(value).startswith("keras.applications:") or Path(value).is_absolute():
            continue
        if ":" in value and name == "model.name":
            needs.append(f"where Python can import {harmless(value.partition(':')[0])}")
        elif "/" in value or "." in value or name != "model.name":
            needs.append(f"where {harmless(value)} is")
    return found, needs


def _origin(run: RunSummary) -> Path | None:
    """The folder that the run was started in, from where its own folder is; None where that does not tell."""
    runs_dir = Path(run.config["runs_dir"])
    folder = run.path.resolve().parent
    if runs_dir.is_absolute() or ".." in runs_dir.parts or folder.parts[-len(runs_dir.parts) :] != runs_dir.parts:
        return None
    return Path(*folder.parts[: len(folder.parts) - len(runs_dir.parts)])


def _start(run: RunSummary, ranks: int) -> tuple[list[str], tuple[str, ...]]:
    """What starts so many ranks, by the run's own launcher and MPI; Open MPI's words for a run without MPI."""
    environment = run.environment
    if environment.launcher == SINGLE:
        return [], ()
    library = _library(run)
    crowded = ranks > 1 and environment.oversubscribed
    hosts = environment.hosts if ranks > 1 else environment.hosts[:1]
    nodes, most = len(hosts), max(host.ranks for host in hosts)
    by_slurm = environment.launcher == SRUN or (isinstance(library, OpenMpi) and environment.launcher in _BY_SLURM)
    if by_slurm:
        words = ["srun", f"--ntasks={ranks}", f"--nodes={nodes}"]
        words += [f"--ntasks-per-node={most}"] if ranks > 1 else []
        words += [f"--mpi={library.srun_types[0]}"] if library.srun_types else []
        return [*words, "--cpu-bind=none", *(["--overcommit"] if crowded else [])], ("in an allocation of Slurm",)
    words = library.typed_start(ranks, crowded)
    if nodes == 1:
        return words, ()
    if len({host.ranks for host in hosts}) > 1:
        placed = ", ".join(f"{harmless(host.host)}: {host.ranks}" for host in hosts)
        return words, (f"ranks placed on {nodes} nodes as they were: {placed}",)
    words += ["--map-by", f"ppr:{most}:node"] if isinstance(library, OpenMpi) else ["-ppn", str(most)]
    return words, (f"in an allocation of {nodes} nodes",)


def _library(run: RunSummary) -> MpiLibrary:
    told = run.environment.mpi_library
    return OpenMpi("") if told is None else library_from_text(told)


def _variables(run: RunSummary, ranks: int, values: Mapping[str, Any]) -> list[str]:
    """NAME=VALUE of what the run was given by its environment: what it would not set itself."""
    if ranks == 1:
        return []
    environment, library = run.environment, _library(run)
    own = _own_horovod_settings(run, ranks)
    found = {name: value for name, value in environment.horovod_settings.items() if own.get(name) != value}
    prefix = "OMPI_MCA_" if isinstance(library, OpenMpi) else ""
    given = {f"{prefix}{name}": value for name, value in environment.mpi_settings.items()}
    found |= {name: value for name, value in given.items() if name not in library.yield_variables}
    threads = values.get("threads", 0)
    if _would_yield(run, threads) != environment.yield_when_idle:
        for name, value in library.yield_variables.items():
            found[name] = given.get(name, value if environment.yield_when_idle else "0")
    return [f"{name}={value}" for name, value in sorted(found.items())]


def _own_horovod_settings(run: RunSummary, ranks: int) -> dict[str, str]:
    """What train sets of Horovod's variables without being told (ranks.startup), so far as it can be known here."""
    options = run.config["horovod"]
    own = {}
    if (fused_mb := options["fusion_threshold_mb"]) is not None:
        own["HOROVOD_FUSION_THRESHOLD"] = str(round(fused_mb * 2**20))
    elif ranks > 2:
        own["HOROVOD_FUSION_THRESHOLD"] = "0"
    if options["cycle_time_ms"] is not None:
        own["HOROVOD_CYCLE_TIME"] = str(options["cycle_time_ms"])
    stall = run.config["stall_seconds"]
    own["HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"] = str(round(max(5 * stall, 60) if stall else 0))
    return own


def _would_yield(run: RunSummary, threads: int) -> bool:
    """Whether train would have MPI give up the core of a waiting rank (ranks.affinity.should_yield_when_idle)."""
    environment = run.environment
    logical = {host.host: host.logical_cpus for host in environment.hosts}
    least = len(environment.ranks[0].cores)
    for rank in environment.ranks:
        own = len(rank.cores)
        least = min(least, own if own < logical[rank.host] else own // rank.local_size)
    return (min(least, threads) if threads and run.config["bind"] == "auto" else least) < 2


def _study_of_script(run: RunSummary, ranks: int) -> Repeat:
    """Of a command of one's own, which leaves a record only where a study starts it."""
    config = build(ScriptConfig, run.config)
    words = words_of(config.command)
    used = placeholders_in(words)
    batch = "per_rank_batch" if config.global_batch is None else "global_batch"
    job_file: dict[str, Any] = {"command": words, batch: getattr(config, batch), "warmup_steps": config.warmup_steps}
    for several, one in (("strategies", "strategy"), ("precisions", "precision"), ("seeds", "seed")):
        if one in used:
            job_file[several] = [getattr(config, one)]
    job_file |= {"threads": config.threads} if config.threads else {}
    needs = ("where the files are that its command names",) if config.script_digest else ()
    return _study(run, ranks, job_file, needs)


def _study_of_emulated(run: RunSummary, ranks: int) -> Repeat:
    """On virtual nodes, which a study makes."""
    assert run.environment.emulated is not None
    assert run.environment.emulated.network is not None
    values, needs = _train_options(run, ranks)
    job_file: dict[str, Any] = {
        "strategies": [values.pop("strategy", "allreduce")],
        "precisions": [values.pop("precision")],
        "seeds": [values.pop("seed", 0)],
        "network": msgspec.to_builtins(run.environment.emulated.network),
        "options": values,
    }
    return _study(run, ranks, job_file, needs)


def _study(run: RunSummary, ranks: int, job_file: Mapping[str, Any], needs: Sequence[str]) -> Repeat:
    if run.environment.emulated is not None:
        options = ["--emulate"]
    else:
        options = ["--oversubscribe"] if run.environment.oversubscribed and ranks > 1 else []
    found = Study(json.dumps({"ranks": [ranks], **job_file}), tuple(options))
    return Repeat(_study_command(found, 1), tuple(needs), found)


def _study_command(study: Study, repetitions: int) -> str:
    """A job file, which is YAML where it is JSON, and the study of it: one line for a shell."""
    # Another name for each point: runs of two commands do not get in each other's way.
    name = f"again_{zlib.crc32(study.job_file.encode()):08x}"
    job_file = json.dumps({"name": name, "repetitions": repetitions} | json.loads(study.job_file))
    words = ["python", "-m", "horovod_flowers.study", f"{name}.yaml", "--no-preflight", *study.options]
    return f"echo {shlex.quote(job_file)} > {name}.yaml && {shlex.join(words)}"
