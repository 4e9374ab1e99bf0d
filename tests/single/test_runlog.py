"""The run log's files under interruption."""

import json
from pathlib import Path

import msgspec

from horovod_flowers.runlog import Environment, EpochRecord, LineLog, read_json, read_lines
from tests.single.recorded_runs import write_run


def record(epoch: int) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        steps=1,
        images=1,
        learning_rate=0.1,
        training_seconds=1.0,
        training_loss=1.0,
        training_accuracy=0.5,
    )


def test_what_a_dying_rank_left_half_written_is_cut_when_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "epochs.jsonl"
    log = LineLog(path)
    log.write(record(1))
    log.write(record(2))
    log.close()
    path.write_bytes(path.read_bytes()[:-30])
    assert [item.epoch for item in read_lines(path, EpochRecord)] == [1]
    log = LineLog(path)
    log.write(record(2))
    log.close()
    assert [item.epoch for item in read_lines(path, EpochRecord)] == [1, 2]


def test_a_loss_that_is_not_finite_is_missing(tmp_path: Path) -> None:
    log = LineLog(tmp_path / "epochs.jsonl")
    log.write(msgspec.structs.replace(record(1), training_loss=float("nan")))
    log.close()
    assert next(read_lines(tmp_path / "epochs.jsonl", EpochRecord)).training_loss is None


def test_a_record_from_before_traffic_was_known_is_read(tmp_path: Path) -> None:
    path = write_run(tmp_path / "old", 2, [[9, 9], [9, 9]]).environment
    fields = json.loads(path.read_text())
    del fields["traffic"]
    path.write_text(json.dumps(fields))
    assert read_json(path, Environment).traffic is None
