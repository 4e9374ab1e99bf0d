"""CSV files beside a flat folder of photos: which label each file has, or how much it counts.

The first line names the columns. `file` and `label` go by many names (below); of a file with two columns, the first is
the file and the second the label. A column `split` with train, val and test makes sets of its own.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.folder_layout import FoundPhoto, Layout, check_class_name
from horovod_flowers.data.folder_scan import PhotosMissing
from horovod_flowers.data.photo_file import PHOTO_SUFFIXES
from horovod_flowers.data.photo_names import is_photo_name, role_of, suffix_of
from horovod_flowers.runtime.errors import UserError, first_line, harmless

_FILE: tuple[str, ...] = (
    "file",
    "filename",
    "file_name",
    "filepath",
    "path",
    "photo",
    "image",
    "image_name",
    "image_path",
    "image_id",
)
_FILE += ("img", "img_name", "imageid", "files", "filenames", "filepaths", "paths", "images", "id")
_LABEL = ("label", "class", "class_name", "category", "species", "target", "breed", "variety", "label_name", "labels")
_SPLIT = ("split", "set", "subset", "partition", "data_set", "dataset")
_WEIGHT = ("weight", "sample_weight", "weights")


@dataclass(frozen=True)
class _Row:
    line: int
    file: str
    value: str
    split: str


def labelled_layout(config: DataConfig, fewest_classes: int = 2) -> Layout:
    """The photos in `data.path` that the CSV names. Raises UserError where it does not say one label for a file."""
    root, table = Path(str(config.path)), Path(str(config.labels_csv))
    if not root.is_dir():
        raise PhotosMissing(f"data.path {root} does not exist, or is a file: give the folder that holds the photos")
    rows = list(_rows(table, _LABEL, "label"))
    named, unlabelled = [row for row in rows if row.value], sum(not row.value for row in rows)
    class_names = _sorted_names({row.value for row in named})
    for name in class_names:
        check_class_name(name)
    if len(class_names) < fewest_classes:
        raise UserError(f"{table} has {len(class_names)} different labels: at least {fewest_classes} are needed")
    numbers = {name: number for number, name in enumerate(class_names)}
    found: dict[str, tuple[_Row, Path]] = {}
    for row in named:
        name, path = _photo_of(row.file, root, table)
        earlier = found.setdefault(name, (row, path))[0]
        if (earlier.value, earlier.split) != (row.value, row.split):
            raise UserError(
                f"{table} has {harmless(name)} twice, in lines {earlier.line} and {row.line}, with other labels or "
                "sets: photos have one label each"
            )
    _refuse_none_there(found, root, table)
    sets = _sets(found, numbers, table)
    remarks = [f"labels are read from {table}: {len(found)} photos of {len(class_names)} classes"]
    if unlabelled:
        remarks.append(f"left out, since they have no label: {unlabelled} lines of {table}")
    if len(found) < len(named):
        remarks.append(f"{len(named) - len(found)} lines of {table} say again what others say")
    without = {_photo_of(row.file, root, table)[1] for row in rows if row.file and not row.value}
    unnamed = _unnamed(root, {path for _, path in found.values()} | without)
    if unnamed:
        remarks.append(f"left out, since {table} does not name them: {unnamed} photos in {root}")
    return Layout(root, class_names, sets["training"], sets["validation"], sets["test"], remarks=tuple(remarks))


def sample_weights(table: Path, photos: Sequence[FoundPhoto], root: Path) -> np.ndarray:
    """float32 [photos]: of each photo, 1 where the CSV does not name it. Raises UserError for what is no weight."""
    weights = np.ones(len(photos), np.float32)
    places = {photo.path: number for number, photo in enumerate(photos)}
    used = 0
    for row in _rows(table, _WEIGHT, "weight"):
        _, path = _photo_of(row.file, root, table)
        try:
            weight = float(row.value)
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise UserError(
                f"line {row.line} of {table} has the weight {row.value!r}: give a number above 0, and leave "
                "out what is not to be learnt"
            )
        if path in places:
            weights[places[path]] = weight
            used += 1
    if not used:
        raise UserError(f"{table} names none of the photos in {root}: give their files as CLASS/FILE")
    return weights


def _rows(table: Path, names: Sequence[str], what: str) -> Iterator[_Row]:
    """The lines of a CSV file. Raises UserError where it is none, or a column is missing."""
    if not table.is_file():  # of a named pipe, nothing would be left to read
        raise UserError(f"{table} cannot be read as CSV (it is not there, or no file): give a text file in UTF-8")
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            start = file.read(65536)
            file.seek(0)
            first = start.splitlines()[0] if start.strip() else ""
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), skipinitialspace=True)
            header = [name.strip() for name in next(reader, [])]
            photo = next((name for name in header if suffix_of(name) in PHOTO_SUFFIXES), None)
            if photo is not None:
                raise UserError(
                    f"the first line of {table} has a photo, {harmless(photo)}, and no names of columns: write a line "
                    f"above it, file,{what}"
                )
            file_column, value_column, split_column = _columns(table, header, names, what)
            for cells in reader:
                if any(cells):
                    filled = [*cells, *[""] * len(header)]
                    split = "" if split_column is None else filled[split_column].strip()
                    yield _Row(reader.line_num, filled[file_column].strip(), filled[value_column].strip(), split)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as CSV ({first_line(error)}): give a text file in UTF-8") from error


def _columns(table: Path, header: list[str], names: Sequence[str], what: str) -> tuple[int, int, int | None]:
    lowered = [name.lower().replace(" ", "_") for name in header]

    def place(known: Sequence[str]) -> int | None:
        return next((lowered.index(name) for name in known if name in lowered), None)

    file, value = place(_FILE), place(names)
    if len(header) == 2 and what == "label":
        file, value = (1, 0) if value == 0 or file == 1 else (0, 1)
    if file is None or value is None or file == value:
        missing = "file" if file is None else what
        raise UserError(
            f"{table} has the columns {', '.join(map(harmless, header[:20])) or '(none)'}: name the columns file and "
            f"{what} in its first line (no column is taken for the {missing})"
        )
    return file, value, place(_SPLIT)


def _photo_of(file: str, root: Path, table: Path) -> tuple[str, Path]:
    """Its name below the folder, and its path; names without a suffix get that of the file that is there.

    Files may be given from the folder or from where the CSV is. Raises UserError for one outside of the folder.
    """
    if not file:
        raise UserError(f"{table} has a line without a file: each line names one")
    for base in (root, table.parent):
        path = base / file
        candidates = [path]
        if suffix_of(file) not in PHOTO_SUFFIXES:
            candidates += [Path(f"{path}{suffix}") for suffix in PHOTO_SUFFIXES]
        there = next((candidate for candidate in candidates if candidate.is_file()), None)
        if there is not None:
            break
    else:
        there = root / file
    whole, above = there.absolute(), root.absolute()
    if ".." in whole.parts or not whole.is_relative_to(above):
        raise UserError(
            f"{table} names {harmless(file)}, which is not in {root}: give --data.path a folder that holds all photos"
        )
    name = whole.relative_to(above)
    return name.as_posix(), root / name


def _refuse_none_there(found: Mapping[str, tuple[_Row, Path]], root: Path, table: Path) -> None:
    if not any(path.is_file() for _, path in found.values()):
        first = next(iter(found.values()))[0].file
        raise UserError(
            f"none of the {len(found)} files that {table} names is in {root} (the first is {harmless(first)}): give "
            "--data.path the folder that they are in"
        )


def _sets(
    found: Mapping[str, tuple[_Row, Path]], numbers: Mapping[str, int], table: Path
) -> dict[str, tuple[FoundPhoto, ...]]:
    """Photos by set, in the order of their classes and names."""
    sets: dict[str, list[FoundPhoto]] = {"training": [], "validation": [], "test": []}
    for name, (row, path) in sorted(found.items(), key=lambda item: (numbers[item[1][0].value], item[0])):
        role = role_of(row.split) if row.split else "training"
        if role not in sets:
            raise UserError(f"line {row.line} of {table} has the split {row.split!r}: give train, val or test")
        sets[role].append(FoundPhoto(name, path, numbers[row.value]))
    if not sets["training"]:
        raise UserError(f"{table} names no photo of the training set: give some the split train")
    return {role: tuple(photos) for role, photos in sets.items()}


def _sorted_names(names: set[str]) -> tuple[str, ...]:
    """In order of their numbers where all are numbers."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _unnamed(root: Path, named: set[Path]) -> int:
    """Photos directly in the folders that hold the named ones."""
    folders = {path.parent for path in named}
    try:
        there = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    except OSError:
        return 0
    return sum(is_photo_name(path.name) and path not in named for path in there)
