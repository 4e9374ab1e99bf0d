"""TensorBoard's HParams of the runs: `tensorboard --logdir REPORT/hparams`, written by TensorBoard's own package.

A folder a run (a session, of a session group of its own): hyperparameters are what the data dictionary calls factors
and marks, of doubts and of what is unlike their number; metrics are what it calls measurements. A measurement that is
missing has no scalar. Only those parts of the package are used that do not import TensorFlow: the events are records of
its RecordWriter.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from horovod_flowers.report.content import Content
from horovod_flowers.report.exports.exported import Exported, names_of
from horovod_flowers.report.exports.run_columns import RUN_COLUMNS, Column, every_run, rows_of, started_seconds

FOLDER = "hparams"
EVENTS = "events.out.tfevents.0.horovod_flowers"
"""Part of the name that TensorBoard looks for; always the same, so that a new report replaces an old one."""
_COUNTED = {
    "doubts": Column("doubts", "mark", "integer", None, "how many sentences speak against its point",
                     lambda one: len(one.doubts)),
    "unlike": Column("unlike", "mark", "integer", None, "how many factors differ in its point, or from the baseline",
                     lambda one: len(one.point.unlike)),
}  # fmt: skip
"""In place of the sentences, which no filter of TensorBoard's has room for."""
_TYPES: dict[str, type] = {"string": str, "integer": int, "number": float, "boolean": bool}


def hparams(content: Content) -> Exported:
    """The experiment, and an event file a run."""
    runs = [one.run for one in every_run(content)]
    columns = [_COUNTED.get(column.name, column) for column in RUN_COLUMNS]
    rows = rows_of(content, columns)
    known = [column for column in columns if any(_there(row, column) for row in rows)]
    hyperparameters = [column for column in known if column.role in ("factor", "mark")]
    metrics = [column for column in known if column.role == "measurement"]
    begun = [started_seconds(run) or 0.0 for run in runs]
    files: dict[str, str | bytes] = {
        f"{FOLDER}/{EVENTS}": _events([(min(begun), _experiment(hyperparameters, metrics, rows, min(begun)))])
    }
    names = names_of(runs)
    for run, row, start in zip(runs, rows, begun, strict=True):
        session = _session(
            names[run],
            {column.name: _TYPES[column.type](row[column.name]) for column in hyperparameters if _there(row, column)},
            {column.name: float(row[column.name]) for column in metrics if _there(row, column)},
            (start, start + run.result.progress.training_seconds),
        )
        files[f"{FOLDER}/{names[run]}/{EVENTS}"] = _events(session)
    return Exported(files, (), FOLDER, rf"(.+/)?{re.escape(EVENTS)}")


def _there(row: Mapping[str, Any], column: Column) -> bool:
    return row[column.name] is not None


def _experiment(
    hyperparameters: Sequence[Column], metrics: Sequence[Column], rows: Sequence[Mapping[str, Any]], begun: float
) -> Any:
    """The summary that declares what every session has."""
    from tensorboard.plugins.hparams import summary_v2 as api

    class Values(api.Discrete):
        """The values of a hyperparameter, which TensorBoard shows first where they differ."""

        differs = False

        def update_hparam_info(self, hparam_info: Any) -> None:
            super().update_hparam_info(hparam_info)
            hparam_info.differs = self.differs

    def domain(column: Column) -> Values:
        found = {row[column.name] for row in rows}
        kind = _TYPES[column.type]
        values = Values(sorted(kind(value) for value in found if value is not None), dtype=kind)
        values.differs = len(found) > 1
        return values

    return api.hparams_config_pb(
        hparams=[api.HParam(column.name, domain(column), description=column.meaning) for column in hyperparameters],
        metrics=[api.Metric(column.name, description=_with_unit(column)) for column in metrics],
        time_created_secs=begun,
    )


def _with_unit(column: Column) -> str:
    return f"{column.meaning} ({column.unit})" if column.unit not in (None, "1") else column.meaning


def _session(
    name: str, hyperparameters: Mapping[str, Any], metrics: Mapping[str, float], times: tuple[float, float]
) -> list[tuple[float, Any]]:
    """The summaries of a run, each with its time in seconds since 1970."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams import summary_v2 as api
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    begun, ended = times
    end = HParamsPluginData(session_end_info=SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=ended))
    last = Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG,
        metadata=metadata.create_summary_metadata(end),
        tensor=metadata.NULL_TENSOR,
    )
    return [
        (begun, api.hparams_pb(hyperparameters, trial_id=name, start_time_secs=begun)),
        (ended, Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in metrics.items()])),
        (ended, Summary(value=[last])),
    ]


def _events(summaries: Sequence[tuple[float, Any]]) -> bytes:
    """An event file of these summaries, each with its time in seconds since 1970."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    file = io.BytesIO()
    writer = RecordWriter(file)
    writer.write(Event(wall_time=summaries[0][0], file_version="brain.Event:2").SerializeToString())
    for seconds, summary in summaries:
        writer.write(Event(wall_time=seconds, step=0, summary=summary).SerializeToString())
    return file.getvalue()
