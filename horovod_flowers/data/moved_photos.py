"""Finding prepared images again after their photos have moved, or were copied and so have other times.

PREPARED_DIR/places/KEY.json     which object was last prepared from a place: enough where the photos are gone
PREPARED_DIR/contents/KEY.json   the same by names and sizes, with a checksum over the contents of the photos
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.chunks import Source, checksum_of
from horovod_flowers.data.photo_file import read_contents
from horovod_flowers.runtime.console import Steps, say
from horovod_flowers.runtime.files import write_whole

MOST_THREADS = 8


def digest_of(value: Any) -> str:
    """A name for what JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def place_of(config: DataConfig) -> dict[str, Any]:
    """Where the photos are, or were, and the size that they are prepared at."""
    paths = (config.path, config.validation_path, config.test_path, config.labels_csv, config.sample_weights)
    return {
        "source": config.source,
        "paths": [None if path is None else os.fsdecode(Path(path).resolve()) for path in paths],
        "image_size": config.image_size,
    }


def ref_of_place(root: Path, place: dict[str, Any]) -> Path:
    """The file that says what was last prepared from a place."""
    return root / "places" / f"{digest_of(place)}.json"


def remember(root: Path, source: Source, reference: dict[str, Any], checksums: Sequence[str]) -> None:
    """Write where the images came from; `checksums`: of the file of each photo. Raises StorageError."""
    if source.place is not None:
        write_whole(ref_of_place(root, source.place), json.dumps(reference))
    if checksums:
        ref = _ref_of_contents(root, source)
        write_whole(ref, json.dumps(reference | {"contents": digest_of(list(checksums))}))


def same_contents(root: Path, source: Source) -> Path | None:
    """The file that says which object holds photos of the same names, sizes and contents; None where there is none."""
    paths = [photo.path for photo in source.layout.photos] if source.layout is not None else []
    if not paths:
        return None
    ref = _ref_of_contents(root, source)
    try:
        expected = json.loads(ref.read_text(encoding="utf-8"))["contents"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    say("the photos have other times than when they were prepared: comparing their contents")
    threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))
    checksums = []
    with ThreadPoolExecutor(threads) as pool, Steps("comparing", len(paths), "photos") as steps:
        for checksum in pool.map(_checksum, paths):
            checksums.append(checksum)
            steps.advance()
    return ref if digest_of(checksums) == expected else None


def _checksum(path: Path) -> str:
    try:
        return checksum_of(read_contents(path))
    except OSError:  # as `chunks.PhotoChunk` counts a file that cannot be read
        return checksum_of(b"")


def _ref_of_contents(root: Path, source: Source) -> Path:
    untimed = source.identity | {"files": [[name, size] for name, size, _ in source.identity["files"]]}
    return root / "contents" / f"{digest_of(untimed)}.json"
