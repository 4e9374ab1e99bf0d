"""The run log's files under interruption."""

import json
from pathlib import Path

import msgspec
import pytest

from horovod_flowers.runlog.json_lines import LineLog, read_json, read_lines
from horovod_flowers.runlog.records import CommunicationVolume, Environment, EpochRecord, Result
from horovod_flowers.runtime.errors import UserError
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


def test_a_record_from_before_communication_volume_was_known_is_read(tmp_path: Path) -> None:
    path = write_run(tmp_path / "old", 2, [[9, 9], [9, 9]]).environment
    fields = json.loads(path.read_text())
    del fields["communication_volume"]
    path.write_text(json.dumps(fields))
    assert read_json(path, Environment).communication_volume is None


def test_records_of_schema_2_are_read(tmp_path: Path) -> None:
    """As version 0.1.0 wrote them."""
    volume = [CommunicationVolume(operation="allreduce", ranks=2, calls=2, bytes_sent=2e6)]
    folder = write_run(tmp_path / "old", 2, [[9, 9], [9, 9]], traffic=volume)
    environment, result = json.loads(folder.environment.read_text()), json.loads(folder.result.read_text())
    expected = read_json(folder.environment, Environment), read_json(folder.result, Result)
    environment |= {"schema": 2, "traffic": environment.pop("communication_volume")}
    reached = result.pop("progress")
    result |= {"schema": 2, "epochs": reached["epochs_done"], "steps": reached["steps_done"]}
    result |= {"last_validation_accuracy": reached["validation_accuracy"], "best_epoch": reached["best_epoch"]}
    result |= {name: reached[name] for name in ("training_seconds", "best_validation_accuracy")}
    folder.environment.write_text(json.dumps(environment))
    folder.result.write_text(json.dumps(result))
    assert (read_json(folder.environment, Environment), read_json(folder.result, Result)) == expected
    del result["steps"]
    folder.result.write_text(json.dumps(result))
    with pytest.raises(UserError, match="missing required field `steps_done`"):
        read_json(folder.result, Result)
