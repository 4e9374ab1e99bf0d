"""Tidy data: runs.csv, a row a run, and datapackage.json, the data dictionary beside it.

A Tabular Data Package with one Table Schema, version 1, which readers of version 2 take: https://datapackage.org.
"""

import csv
import io
import json
from importlib import metadata
from typing import Any

from horovod_flowers.report.content import Content
from horovod_flowers.report.exports.exported import Exported
from horovod_flowers.report.exports.run_columns import RUN_COLUMNS, Column, rows_of

TABLE, PACKAGE = "runs.csv", "datapackage.json"


def tidy(content: Content) -> Exported:
    """Both files."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([column.name for column in RUN_COLUMNS])
    writer.writerows([_cell(row[column.name]) for column in RUN_COLUMNS] for row in rows_of(content))
    described = json.dumps(data_package(), indent=1, ensure_ascii=False) + "\n"
    return Exported({TABLE: table.getvalue(), PACKAGE: described})


def _cell(value: Any) -> str:
    """As Table Schema reads it by default; a missing value is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else repr(float(value))


def data_package() -> dict[str, Any]:
    """The dictionary of runs.csv."""
    return {
        "profile": "tabular-data-package",
        "name": "horovod-flowers-runs",
        "title": "Training runs: what each was made with, and what was measured",
        "description": "Runs that the report left out are in scaling.json (left_out, failed), with their reasons.",
        "version": metadata.version("horovod-flowers"),
        "resources": [
            {
                "profile": "tabular-data-resource",
                "name": "runs",
                "path": TABLE,
                "format": "csv",
                "mediatype": "text/csv",
                "encoding": "utf-8",
                "schema": {
                    "fields": [_field(column) for column in RUN_COLUMNS],
                    "primaryKey": ["folder"],
                    "missingValues": [""],
                },
            }
        ],
    }


def _field(column: Column) -> dict[str, Any]:
    constraints: dict[str, Any] = {"required": True} if column.required else {}
    if column.role == "measurement":  # no learning rate has to be positive, but every time and count is
        constraints["minimum"] = 0
    return {
        "name": column.name,
        "type": column.type,
        **({"format": "any"} if column.type == "datetime" else {}),
        **({"unit": column.unit} if column.unit else {}),
        "role": column.role,
        "description": column.meaning,
        **({"constraints": constraints} if constraints else {}),
    }
