"""Which export formats there are, and their files, each whole or not at all."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from horovod_flowers.report.content import Content
from horovod_flowers.report.exports.exported import Exported
from horovod_flowers.report.exports.extra_p import extra_p
from horovod_flowers.report.exports.figures import figures
from horovod_flowers.report.exports.hparams import hparams
from horovod_flowers.report.exports.mlperf import mlperf
from horovod_flowers.report.exports.tidy import tidy
from horovod_flowers.runtime.files import whole_file

EXPORTS: dict[str, Callable[[Content], Exported]] = {
    "tidy": tidy,
    "extra-p": extra_p,
    "figures": figures,
    "mlperf": mlperf,
    "hparams": hparams,
}


def exported(content: Content, formats: Sequence[str]) -> list[Exported]:
    """What was asked for, in memory. Raises UserError before anything is written."""
    return [make(content) for name, make in EXPORTS.items() if name in formats]


def write_exports(output: Path, exports: Sequence[Exported]) -> list[str]:
    """Write them into the report's folder; the names of what was written."""
    written: list[str] = []
    for export in exports:
        for name, data in export.files.items():
            path = output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as temporary:
                temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        if export.folder is not None:
            _remove_earlier(output / export.folder, export.earlier, {output / name for name in export.files})
        if export.files:
            written += export.files if export.folder is None else [f"{export.folder}/"]
    return written


def _remove_earlier(folder: Path, pattern: str, written: set[Path]) -> None:
    """Remove what an earlier report wrote and this one did not: it would be of other runs."""
    for path in folder.rglob("*"):
        if re.fullmatch(pattern, str(path.relative_to(folder))) and path not in written:
            path.unlink()
