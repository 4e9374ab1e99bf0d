"""Commands that the report prints make runs that it counts with the originals; their options are read back by train."""

import ast
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import yaml

from horovod_flowers.config.choices import DIVIDING
from horovod_flowers.config.command_line import parse
from horovod_flowers.config.data import DataConfig
from horovod_flowers.config.optimizer import OptimizerConfig
from horovod_flowers.config.options import flag_of, options_of
from horovod_flowers.config.run import HorovodConfig, ModelConfig, RunConfig
from horovod_flowers.config.script import ScriptConfig
from horovod_flowers.report.analysis.findings import _against_loss
from horovod_flowers.report.analysis.points import points_of
from horovod_flowers.report.analysis.repeat_commands import repeat_of, repeats_of
from horovod_flowers.report.analysis.run_summary import RunSummary, summarise
from horovod_flowers.report.options import ReportConfig
from horovod_flowers.report.prediction.options import PredictionConfig
from horovod_flowers.runlog.json_lines import read_json, write_json
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.records import Environment
from horovod_flowers.runlog.run_folder import RunFolder
from horovod_flowers.step_profile import StepProfileConfig
from horovod_flowers.study.__main__ import StudyConfig
from horovod_flowers.study.file import StudyFile
from tests.conftest import PROJECT
from tests.single.recorded_runs import write_run

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9.-]*")
STEPS = [[100, 100], [100, 100], [100, 100]]
ACCURATE = parse(
    RunConfig, "", "", ["--preset", "accurate", "--global-batch", "64", "--epochs", "1", "--label-smoothing", "0"]
)
CONFIGS = {
    "defaults, weak": RunConfig(),
    "all auto": RunConfig(global_batch=64, strategy="auto", precision="auto", threads=0),
    "auto with options of one strategy": RunConfig(global_batch=64, strategy="auto", shard_layers="dense"),
    "a preset, one value of it taken back": ACCURATE,
    "mesh of nodes": RunConfig(global_batch=64, strategy="mesh"),
    "many options": RunConfig(
        global_batch=64,
        seed=7,
        steps=20,
        shard_above=500,
        compression="fp16",
        optimizer=OptimizerConfig(name="sgd", options={"nesterov": True}, clipnorm=1.0),
        horovod=HorovodConfig(cycle_time_ms=2.5, fusion_threshold_mb=4),
        data=DataConfig(source="folder", path="/photos of mine", augment=True, crop_size=64),
        model=ModelConfig(name="my.module:network", options={"width": 8}),
    ),
}


def change(folder: RunFolder, **values: object) -> None:
    """The environment of a run, written anew."""
    write_json(folder.environment, msgspec.structs.replace(read_json(folder.environment, Environment), **values))


def recorded(path: Path, config: RunConfig, **values: object) -> RunSummary:
    """A run of two ranks that chose allreduce where it was to choose."""
    folder = write_run(path, 2, STEPS, config=config, precision="bf16")
    change(folder, strategy="allreduce" if config.strategy == "auto" else config.strategy, **values)
    return summarise(read_run(path))


def options_of_train(command: str) -> RunConfig:
    words = shlex.split(command, comments=True)
    return parse(RunConfig, "", "", words[words.index("horovod_flowers.train") + 1 :])


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_command_makes_is_one_point_with_the_original(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    original = recorded(tmp_path / "original", config)
    again = options_of_train(repeat_of(original).command)
    assert (again.strategy, again.precision, again.threads) != ("auto", "auto", 0)
    repeated = recorded(tmp_path / "again", again)
    (point,) = points_of([original, repeated])
    assert (len(point.runs), point.unlike) == (2, ())
    baseline = options_of_train(repeat_of(original, ranks=1).command)
    one = summarise(
        read_run(write_run(tmp_path / "one", 1, [[100]] * 3, config=baseline, precision="bf16",
                           images_per_step=64 if config.global_batch else 32).path)
    )  # fmt: skip
    alone, two = points_of([original, repeated, one])
    assert two.baseline is not None
    assert two.baseline.runs == alone.runs
    assert two.unlike == ()


def test_what_the_machine_and_its_surroundings_gave_is_written_out(tmp_path: Path) -> None:
    config = RunConfig(global_batch=64)
    library = "Open MPI v4.1.8"
    crowded = recorded(tmp_path / "crowded", config, oversubscribed=True, mpi_library=library)
    words = shlex.split(repeat_of(crowded).command)
    assert words[:6] == ["mpirun", "-np", "2", "--bind-to", "none", "--oversubscribe"]
    assert "--oversubscribe" not in repeat_of(crowded, ranks=1).command

    variables = {"HOROVOD_CYCLE_TIME": "5", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "600"}
    given = {"btl": "tcp,self", "mpi_yield_when_idle": "0"}
    told = recorded(
        tmp_path / "told", config, mpi_library=library, horovod_settings=variables, mpi_settings=given,
        yield_when_idle=False,
    )  # fmt: skip
    words = shlex.split(repeat_of(told).command)
    assert words[:5] == [
        *("env", "HOROVOD_CYCLE_TIME=5", "OMPI_MCA_btl=tcp,self", "OMPI_MCA_mpi_yield_when_idle=0", "mpirun"),
    ]

    plain = recorded(tmp_path / "plain", config, mpi_library=library, yield_when_idle=False)
    assert [len(point.runs) for point in points_of([told, plain])] == [1, 1]
    over_tcp = [recorded(tmp_path / name, config, mpi_library=library, mpi_settings=given) for name in ("tcp", "like")]
    point, other = points_of([*over_tcp, recorded(tmp_path / "usual", config, mpi_library=library)])
    assert sorted((len(point.runs), len(other.runs))) == [1, 2]
    assert {point.which, other.which} == {"MPI setting btl tcp,self", "MPI setting btl not set"}

    spread = write_run(tmp_path / "spread", 4, [[100] * 4] * 3, config=config, hosts=2)
    change(spread, mpi_library=library)
    found = repeat_of(summarise(read_run(spread.path)))
    words = shlex.split(found.command)
    assert words[:7] == ["mpirun", "-np", "4", "--bind-to", "none", "--map-by", "ppr:2:node"]
    assert found.needs == ("in an allocation of 2 nodes",)
    change(spread, launcher="srun")
    words = shlex.split(repeat_of(summarise(read_run(spread.path))).command)
    assert words[:6] == ["srun", "--ntasks=4", "--nodes=2", "--ntasks-per-node=2", "--mpi=pmix", "--cpu-bind=none"]
    single = recorded(tmp_path / "single", config, launcher="single")
    assert repeat_of(single, ranks=1).command.startswith("python -m horovod_flowers.train ")


def test_files_are_named_so_that_any_folder_finds_them(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    data = DataConfig(source="folder", path="photos", validation_path="elsewhere")
    model = ModelConfig(name="mine.keras")
    found = repeat_of(recorded(tmp_path / "runs" / "a", RunConfig(global_batch=64, data=data, model=model)))
    assert options_of_train(found.command).data.path == str(tmp_path / "photos")
    assert found.needs == ("where --data.validation-path elsewhere is", "where mine.keras is")
    flowers = RunConfig(global_batch=64, data=DataConfig(source="tf_flowers"))
    needs = repeat_of(recorded(tmp_path / "b", flowers)).needs
    assert needs == ("with tf_flowers in $TFDS_DATA_DIR or ~/tensorflow_datasets",)


def test_a_script_is_run_again_by_a_study(tmp_path: Path) -> None:
    command = "python train.py --seed {seed} --name 'a b'"
    script = ScriptConfig(command=command, script_digest="0" * 32, per_rank_batch=32, seed=5, threads=2)
    original = recorded(tmp_path / "original", RunConfig())
    original = replace(original, config=vars(script))
    (found,) = repeats_of([original, original])
    assert (found.runs, found.note) == (2, "2 runs; where the files are that its command names")
    write, study = found.command.split(" && ")
    file = tmp_path / "again.yaml"
    echo, text, into, name = shlex.split(write)
    assert (echo, into) == ("echo", ">")
    assert study == f"python -m horovod_flowers.study {name} --no-preflight"
    file.write_text(text)
    job = msgspec.convert(yaml.safe_load(file.read_text()), StudyFile)
    assert shlex.join(str(word) for word in job.command or ()) == command.replace("{seed}", "'{seed}'")
    assert (job.ranks, job.per_rank_batch, job.seeds, job.threads, job.repetitions) == ((2,), 32, (5,), 2, 2)
    assert json.loads(text)["name"] == name.removesuffix(".yaml")


OF_LAUNCHERS = (
    *("--bind-to", "--map-by", "--nodes", "--ntasks", "--ntasks-per-node", "--mpi", "--cpu-bind", "--overcommit"),
    "--host-discovery-script",
)
OF_OTHER_PROGRAMS = ("--logdir", "--no-deps")
"""TensorBoard's and pip's."""
OF_PICTURES = ("--o",)
"""A line's style."""


def test_options_that_the_report_speaks_of_are_there() -> None:
    """In advice, doubts and refusals: each is one of a command, or of what starts ranks."""
    kinds = (RunConfig, ReportConfig, StudyConfig, PredictionConfig, StepProfileConfig)
    known = {flag_of(name) for kind in kinds for name in options_of(kind)}
    known |= {flag.replace("--", "--no-", 1) for flag in known} | {*OF_LAUNCHERS, *OF_OTHER_PROGRAMS, *OF_PICTURES}
    spoken: dict[str, str] = {}
    room = PROJECT / "horovod_flowers" / "report"
    for file in (*room.rglob("*.py"), *room.rglob("*.jinja")):
        text = file.read_text()
        if file.suffix == ".py":
            words = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
            text = " ".join(word for word in words if isinstance(word, str))
        spoken |= {flag.rstrip(".-"): file.name for flag in FLAG.findall(text)}
    assert {flag: file for flag, file in spoken.items() if flag not in known and flag.strip("-")} == {}
    assert {"--strategy", "--warmup-steps", "--no-preflight"} <= spoken.keys()


def test_strategies_that_are_advised_are_there() -> None:
    advice = _against_loss(("update", 0.3), {"allreduce"})
    assert advice is not None
    named = re.findall(r"--strategy (\w+) or (\w+)", advice)
    assert named == [DIVIDING]
    for strategy in DIVIDING:
        assert parse(RunConfig, "", "", ["--strategy", strategy]).strategy == strategy
