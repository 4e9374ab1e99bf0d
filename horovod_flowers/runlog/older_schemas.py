"""Run logs of earlier versions: what they called otherwise, by the names of today."""

from typing import Any

from horovod_flowers.runlog.records import SCHEMA, Environment, Result


def brought_up_to_date(record: dict[str, Any], kind: type) -> dict[str, Any]:
    """A record of schema 2 (version 0.1.0) as schema 3 writes it; its contents are checked afterwards.

    In schema 2 an environment called its communication volume `traffic`, and the fields of a result's progress stood
    among its others.
    """
    moved = dict(record, schema=SCHEMA)
    if kind is Environment and "traffic" in moved:
        moved["communication_volume"] = moved.pop("traffic")
    if kind is Result:
        names = {"epochs": "epochs_done", "steps": "steps_done", "last_validation_accuracy": "validation_accuracy"}
        names |= {name: name for name in ("training_seconds", "best_validation_accuracy", "best_epoch")}
        moved["progress"] = {new: moved.pop(old) for old, new in names.items() if old in moved}
    return moved
