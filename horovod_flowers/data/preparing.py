"""Prepares a source of photos and says how fast."""

import os
import shlex
import time
from pathlib import Path

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.chunks import Source
from horovod_flowers.data.prepared import Prepared, prepare
from horovod_flowers.runtime.console import Steps, say

PATHS = ("path", "validation_path", "test_path", "labels_csv", "sample_weights")
"""Options of a folder of photos that decide what is prepared."""


def prepare_with_progress(
    root: Path, source: Source, processes: int = 0, strict: bool = False, muted: bool = False
) -> Prepared:
    """Prepare a source on this node's cores and say how fast it went."""
    processes = processes or len(os.sched_getaffinity(0))
    started = time.monotonic()
    with Steps("preparing", source.images, "images", muted) as steps:
        prepared = prepare(root, source, processes, strict, progress=steps.advance)
    seconds = time.monotonic() - started
    rate = source.images / seconds
    if not muted:
        say(f"prepared {describe(prepared)} in {seconds:.1f} s: {rate:.0f} images/s with {processes} processes")
    return prepared


def describe(prepared: Prepared) -> str:
    """One line on a prepared set."""
    skipped = f", {len(prepared.unreadable)} unreadable" if prepared.unreadable else ""
    return (
        f"{len(prepared)} images of {len(prepared.class_names)} classes at {prepared.image_size} pixels{skipped} "
        f"({prepared.folder})"
    )


def command_for(config: DataConfig) -> str:
    """The prepare command that makes what this configuration needs, ready to paste."""
    words = ["python", "-m", "horovod_flowers.prepare", "--data.source", config.source]
    defaults = DataConfig()
    for name in (*PATHS, "tfds_dir", "prepared_dir", "image_size"):
        value = getattr(config, name)
        if value != getattr(defaults, name):
            words += [f"--data.{name.replace('_', '-')}", str(value)]
    return shlex.join(words)
