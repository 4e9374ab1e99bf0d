"""Decoded, resized images in memory-mapped shards that all ranks of a node share through the page cache.

    PREPARED_DIR/objects/DIGEST/   manifest.json, labels.npy, positions.npy, shard-00000.npy ... (uint8 [n, s, s, 3])
                                   and weights.npy where images count differently
    PREPARED_DIR/refs/KEY.json     which object holds what a source's identity asks for; moved_photos.py has more

DIGEST is over the contents, KEY over the source's identity (file names, sizes and times, say): touching the photos
costs a new look at them, never a second copy. Objects are written beside and renamed, so two jobs may prepare at once.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data import moved_photos
from horovod_flowers.data.chunks import Chunk, Parts, Source
from horovod_flowers.data.moved_photos import digest_of
from horovod_flowers.data.photo_file import KINDS
from horovod_flowers.runtime.errors import JobError, UserError
from horovod_flowers.runtime.files import (
    clear_abandoned,
    move_folder,
    set_mode,
    sync,
    unfinished,
    writable_folder,
    write_whole,
    writing,
)
from horovod_flowers.runtime.parent_death import end_with_parent

SCHEMA = 1
NAMED_UNREADABLE = 3  # how many a sentence names; the manifest lists them all


@dataclass(frozen=True)
class Prepared:
    """A prepared set of labelled images, opened for reading."""

    folder: Path
    digest: str
    class_names: tuple[str, ...]
    image_size: int
    source_images: int
    """Images of the source, the unreadable ones included: splits by position count from it."""
    unreadable: tuple[tuple[str, str], ...]
    shard_images: tuple[int, ...]
    parts: Parts | None = None
    """Images of the source's own sets, the unreadable ones included, in the order of its positions."""
    weighted: bool = False
    """Whether images count differently in the training loss."""

    @cached_property
    def labels(self) -> np.ndarray:
        """int32 [n]."""
        return np.load(self.folder / "labels.npy", allow_pickle=False)

    @cached_property
    def positions(self) -> np.ndarray:
        """int64 [n]: each image's position in its source."""
        return np.load(self.folder / "positions.npy", allow_pickle=False)

    @cached_property
    def weights(self) -> np.ndarray | None:
        """float32 [n]: how much each image counts in the training loss; None where all count alike."""
        return np.load(self.folder / "weights.npy", allow_pickle=False) if self.weighted else None

    @property
    def stored_bytes(self) -> int | None:
        """Of its files on storage; None where it has none."""
        try:
            return sum(path.stat().st_size for path in self.folder.iterdir())
        except OSError:
            return None

    @cached_property
    def _shards(self) -> list[np.ndarray]:
        numbers = range(len(self.shard_images))
        return [np.load(self.folder / _shard_name(k), mmap_mode="r", allow_pickle=False) for k in numbers]

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.shard_images)])

    def __len__(self) -> int:
        return sum(self.shard_images)

    def image(self, index: int) -> np.ndarray:
        """One image, uint8 [size, size, 3], a read-only view of the mapped file."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._shards[shard][index - self._starts[shard]]


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.npy"


def find(root: Path, source: Source) -> Prepared | None:
    """The prepared images of this source, or None where they have not been prepared."""
    return _referred_to(root, ref_of(root, source))


def find_same_contents(root: Path, source: Source) -> Prepared | None:
    """Those of photos with the same names, sizes and contents, though other times: copied, say. None where there are
    none. Reads every photo; the next look is quick again."""
    ref = moved_photos.same_contents(root, source)
    if ref is None:
        return None
    prepared = _referred_to(root, ref)
    if prepared is not None:
        with contextlib.suppress(JobError, OSError):  # others may own the prepared images
            write_whole(ref_of(root, source), json.dumps({"schema": SCHEMA, "digest": prepared.digest}))
    return prepared


def find_by_place(root: Path, config: DataConfig) -> Prepared | None:
    """Those that were last prepared from where the configuration has its photos, wherever these are now."""
    return _referred_to(root, moved_photos.ref_of_place(root, moved_photos.place_of(config)))


def find_by_digest(root: Path, digest: str) -> Prepared | None:
    """Those with this digest, or None where they are not there, or damaged."""
    try:
        return open_prepared(root / "objects" / digest)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember_place(root: Path, source: Source, prepared: Prepared) -> None:
    """Note that these images are what was last found at the source's place. Raises StorageError."""
    if source.place is not None:
        (root / "places").mkdir(exist_ok=True)
        moved_photos.remember(root, source, {"schema": SCHEMA, "digest": prepared.digest}, ())


def ref_of(root: Path, source: Source) -> Path:
    """The file that says which object holds the source's images."""
    return root / "refs" / f"{digest_of(source.identity)}.json"


def _referred_to(root: Path, ref: Path) -> Prepared | None:
    try:
        digest = json.loads(ref.read_text(encoding="utf-8"))["digest"]
        return open_prepared(root / "objects" / digest)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the prepared images in {root} cannot be read ({error}): delete that folder and prepare again"
        ) from error


def open_prepared(folder: Path) -> Prepared:
    """Open one object. Raises FileNotFoundError where it is missing, ValueError where it is of another schema."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if manifest["schema"] != SCHEMA:
        raise ValueError(f"schema {manifest['schema']}, this version reads {SCHEMA}")
    return Prepared(
        folder=folder,
        digest=folder.name,
        class_names=tuple(manifest["class_names"]),
        image_size=manifest["image_size"],
        source_images=manifest["source_images"],
        unreadable=tuple((item["name"], item["reason"]) for item in manifest["unreadable"]),
        shard_images=tuple(shard["images"] for shard in manifest["shards"]),
        parts=Parts(*manifest["parts"]) if "parts" in manifest else None,
        weighted="weights_sha256" in manifest,
    )


@dataclass(frozen=True)
class _Shard:
    images: int
    sha256: str
    labels: np.ndarray
    positions: np.ndarray
    unreadable: tuple[tuple[str, str], ...]
    checksums: tuple[str, ...]


def _write_shard(chunk: Chunk, folder: Path, number: int) -> _Shard:
    """Runs in a prepare process: images go from there to the file, only labels come back."""
    decoded = chunk.decode()
    _write_array(folder / _shard_name(number), decoded.images)
    checksum = hashlib.sha256(decoded.images.data).hexdigest()
    return _Shard(
        len(decoded.images), checksum, decoded.labels, decoded.positions, decoded.unreadable, decoded.checksums
    )


def _write_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file and force it to storage. (`np.save` does not look at how its last write went.)"""
    contiguous = np.ascontiguousarray(array)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(contiguous))
        file.write(contiguous.data)
    sync(path)


def prepare(
    root: Path,
    source: Source,
    processes: int,
    strict: bool = False,
    progress: Callable[[int], None] = lambda images: None,
) -> Prepared:
    """Prepare a source with `processes` processes; `progress` is told of each chunk's number of images.

    Raises UserError where no image is readable, or with `strict` where one is not; StorageError.
    """
    writable_folder(root, "choose another folder with --data.prepared-dir")
    for part in ("objects", "refs", "places", "contents"):
        (root / part).mkdir(exist_ok=True)
        clear_abandoned(root / part)
    temporary = unfinished(root / "objects" / "preparing")
    try:
        with writing(root / "objects"):
            temporary.mkdir()
            shards = _write_shards(temporary, source, processes, progress)
            _refuse_unreadable(shards, source, strict)
            digest = _write_manifest(temporary, source, shards)
            _move_into_place(temporary, root / "objects" / digest)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    reference = {"schema": SCHEMA, "digest": digest}
    write_whole(ref_of(root, source), json.dumps(reference))
    moved_photos.remember(root, source, reference, [checksum for shard in shards for checksum in shard.checksums])
    return open_prepared(root / "objects" / digest)


def _begin_process(parent: int) -> None:
    """Leave interrupts to the parent, and end with it: it may be killed, and a pool's processes would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)


def _write_shards(folder: Path, source: Source, processes: int, progress: Callable[[int], None]) -> list[_Shard]:
    shards = []
    # Spawned, not forked: the parent may hold MPI or TensorFlow threads that a fork would break.
    numbers, chunks = zip(*enumerate(source.chunks()), strict=True)
    processes = min(processes, len(chunks))
    with _left_to_this_process(signal.SIGUSR1):  # the first of these starts a process for all, the second the others
        pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin_process, (os.getpid(),))
        written = pool.map(_write_shard, chunks, repeat(folder), numbers)
    with pool:
        for shard in written:
            shards.append(shard)
            progress(shard.images + len(shard.unreadable))
    return shards


@contextlib.contextmanager
def _left_to_this_process(number: int) -> Iterator[None]:
    """Processes and threads that are started within never see a signal, from their first moment on.

    mpirun and Slurm send SIGUSR1 to a rank's processes, too, and one that does not know it would die of it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _refuse_unreadable(shards: list[_Shard], source: Source, strict: bool) -> None:
    unreadable = [item for shard in shards for item in shard.unreadable]
    named = ", ".join(f"{name} ({reason})" for name, reason in unreadable[:NAMED_UNREADABLE])
    more = ", ..." if len(unreadable) > NAMED_UNREADABLE else ""
    if len(unreadable) == source.images:
        raise UserError(f"none of the {source.images} files is a readable {KINDS} image: {named}{more}")
    if strict and unreadable:
        raise UserError(
            f"{len(unreadable)} of {source.images} images cannot be read: {named}{more}: "
            "repair or remove them, or leave out --strict to skip them"
        )


def _write_manifest(folder: Path, source: Source, shards: list[_Shard]) -> str:
    for name, values in (("labels", [s.labels for s in shards]), ("positions", [s.positions for s in shards])):
        _write_array(folder / f"{name}.npy", np.concatenate(values))
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "class_names": list(source.class_names),
        "image_size": source.identity["image_size"],
        "source": source.identity["source"],
        "source_images": source.images,
        "shards": [{"images": shard.images, "sha256": shard.sha256} for shard in shards],
        "unreadable": [{"name": name, "reason": reason} for s in shards for name, reason in s.unreadable],
    }
    if source.parts is not None:
        manifest["parts"] = [source.parts.training, source.parts.validation, source.parts.test]
    if source.weights is not None:
        weights = source.weights[np.concatenate([shard.positions for shard in shards])]
        _write_array(folder / "weights.npy", weights)
        manifest["weights_sha256"] = hashlib.sha256(weights.data).hexdigest()
    write_whole(folder / "manifest.json", json.dumps(manifest, indent=1))
    labels = np.concatenate([shard.labels for shard in shards])
    return digest_of([manifest, hashlib.sha256(labels.data).hexdigest()])


def _move_into_place(temporary: Path, target: Path) -> None:
    set_mode(temporary, 0o755)  # prepared images are shared
    try:
        move_folder(temporary, target)
    except OSError:
        if not (target / "manifest.json").exists():
            raise
        # Another job has prepared the same contents in the meantime: its copy is as good as ours.
    sync(target.parent)
