"""The README's command for eight ranks as typed, however few cores there are."""

from pathlib import Path

from horovod_flowers.runlog.json_lines import read_lines
from horovod_flowers.runlog.reading.run import read_run
from horovod_flowers.runlog.records import EpochRecord
from tests.commands.conftest import Drawn
from tests.conftest import run_command


def test_eight_ranks_run_anywhere_and_are_marked_where_oversubscribed(tmp_path: Path, drawn: Drawn) -> None:
    drawn.lend(tmp_path / "data")
    words = ["horovodrun", "-np", "8", "python", "-m", "horovod_flowers.train"]
    ended = run_command(words, tmp_path, timeout=1500)
    assert ended.status == 0, ended.output
    (name,) = (path.name for path in (tmp_path / "runs").iterdir())
    run = read_run(tmp_path / "runs" / name)
    cores = {core for rank in run.environment.ranks for core in rank.cores}
    assert run.ranks == 8
    assert run.environment.oversubscribed == (len(cores) < 8)
    assert ("oversubscribed: 8 ranks share" in ended.output) == run.environment.oversubscribed
    (epoch,) = read_lines(tmp_path / "runs" / name / "epochs.jsonl", EpochRecord)
    assert epoch.images == 3120
    reported = run_command(["python", "-m", "horovod_flowers.report"], tmp_path)
    assert reported.status == 0, reported.output
    assert ("oversubscribed" in reported.stdout) == run.environment.oversubscribed
