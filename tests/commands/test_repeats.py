"""Every command that the report prints, as typed in an empty folder: what they make is counted with the originals."""

import json
import re
from pathlib import Path
from typing import Any

from tests.conftest import PROJECT, run_command

RANKS = 3
"""More than CI has cores, which the command has to allow."""
TINY = (
    *("--data.image-size", "32", "--data.synthetic-images", "120", "--data.validation-fraction", "0.2"),
    *("--global-batch", "24", "--steps", "4", "--warmup-steps", "1", "--seed", "3", "--no-checkpoint"),
)
SCRIPT = {
    "name": "script",
    "ranks": [1],
    "repetitions": 1,
    "command": ["python", str(PROJECT / "examples" / "fit.py"), *("--images", 64, "--batch", "{global_batch}")],
    "global_batch": 16,
}


def reported(folder: Path, runs_dir: str) -> tuple[dict[str, Any], str]:
    words = ["python", "-m", "horovod_flowers.report", "--runs-dir", runs_dir, "--format", "json"]
    ended = run_command(words, folder)
    assert ended.status == 0, ended.output
    return json.loads((folder / "report" / "scaling.json").read_text()), ended.stdout


def test_what_printed_commands_make_is_counted_with_the_originals(tmp_path: Path) -> None:
    (tmp_path / "script.yaml").write_text(json.dumps(SCRIPT))
    mpirun = ["mpirun", "-np", str(RANKS), "--oversubscribe", "--bind-to", "none"]
    originals = (
        [*mpirun, "python", "-m", "horovod_flowers.train", "--name", "original", *TINY],
        ["python", "-m", "horovod_flowers.study", "script.yaml", "--no-preflight"],
    )
    for words in originals:
        ended = run_command(words, tmp_path, variables={"HOROVOD_CYCLE_TIME": "2"})
        assert ended.status == 0, ended.output

    document, told = reported(tmp_path, "runs")
    assert [(point["ranks"], point["runs"]) for point in document["points"]] == [(1, 1), (RANKS, 1)]
    again = tmp_path / "again"
    again.mkdir()
    baselines = re.findall(r"its one-rank baseline is missing.*; run: (.*)", told)
    commands = [found["command"] for found in document["provenance"]["commands"]]
    assert (len(baselines), len(commands)) == (1, 2)
    assert not any(" auto" in command for command in commands)
    for command in (*commands, *baselines):
        ended = run_command(["bash", "-c", command], again)
        assert ended.status == 0, f"{command}\n{ended.output}"

    document, told = reported(tmp_path, "runs,again/runs")
    assert (document["left_out"], "baseline is missing" in told) == ([], False)
    points = document["points"]
    assert sorted((point["ranks"], point["runs"]) for point in points) == [(1, 1), (1, 2), (RANKS, 2)]
    assert {(point["which"], point["unlike"]) for point in points} == {("", "")}
    (several,) = (point for point in points if point["ranks"] == RANKS)
    assert several["speed_up"] > 0
