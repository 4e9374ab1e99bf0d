"""How a folder of photos is laid out: its classes, its own validation and test sets, and what of it is left out.

Read here alone, for `prepare`, `train` and `evaluate` alike:

    PHOTOS/CLASS/*.jpg                          one folder per class, with all photos below it
    PHOTOS/train/CLASS, PHOTOS/val/CLASS, ...   sets of their own (also training_set, valid, seg_test)
    PHOTOS/flowers/CLASS                        a folder around either of them, as archives have it
    --data.validation-path, --data.test-path    sets of their own that lie elsewhere

What could be read as more than one of these is refused, with what to type instead. `labels_csv` reads a CSV.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.photo_names import Role, is_hidden, is_photo_name, role_of, suffix_of, unpack_command
from horovod_flowers.runtime.errors import UserError, harmless

NAMED = 5
"""How many names a sentence lists."""


@dataclass(frozen=True)
class FoundPhoto:
    """One photo, not looked at yet."""

    name: str
    """CLASS/FILE, SET/CLASS/FILE or as a CSV has it: below the folder that holds all of them."""
    path: Path
    label: int


@dataclass(frozen=True)
class Layout:
    """A folder of photos as it was read."""

    folder: Path
    """That holds the classes, or the sets."""
    class_names: tuple[str, ...]
    training: tuple[FoundPhoto, ...]
    """All photos, where there are no sets of their own."""
    validation: tuple[FoundPhoto, ...] = ()
    test: tuple[FoundPhoto, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    """By class: what was found in its folder besides photos, or below it."""
    remarks: tuple[str, ...] = ()
    """How the folder was read, where that is not plain, and what was left out: a sentence each."""
    without_photos: tuple[str, ...] = ()
    """Folders that would be classes but hold no photo."""

    @property
    def photos(self) -> tuple[FoundPhoto, ...]:
        """Those of all sets."""
        return self.training + self.validation + self.test

    @property
    def has_sets(self) -> bool:
        """Whether it comes with a validation or test set of its own."""
        return bool(self.validation or self.test)


class PhotosMissing(UserError):
    """There is no folder, or no photo in it: moved, perhaps, after they were prepared."""


def read_layout(config: DataConfig, fewest_classes: int = 2, known_classes: Collection[str] = ()) -> Layout:
    """The layout of `data.path`, with the sets that lie elsewhere.

    `known_classes`: names that are classes whatever else they look like. Raises UserError where the folder is missing,
    holds too few classes, or cannot be read in one way only.
    """
    root = Path(str(config.path))
    layout = _read(_existing(root, "data.path"), root, fewest_classes, known_classes)
    for role, given in (("validation", config.validation_path), ("test", config.test_path)):
        if given is not None:
            layout = _with_set(layout, role, Path(given))
    return layout


# --- a folder and what is below it -----------------------------------------------------------------------------------


@dataclass
class _Folder:
    """A folder without what is hidden; sorted by name."""

    name: str
    path: Path
    photos: list[str]
    folders: list["_Folder"]
    others: Counter[str]
    """Suffixes of files that are no photos."""
    tables: list[str]
    """Names of CSV files."""
    archives: list[str]
    hidden_photos: int

    @cached_property
    def count(self) -> int:
        """Photos in it and below it."""
        return len(self.photos) + sum(folder.count for folder in self.folders)

    @property
    def with_photos(self) -> list["_Folder"]:
        """The folders in it that hold photos, or folders with photos."""
        return [folder for folder in self.folders if folder.count]

    def below(self, prefix: str = "") -> Iterator[str]:
        """Photos by their way from here: those in it first."""
        yield from (f"{prefix}{name}" for name in self.photos)
        for folder in self.folders:
            yield from folder.below(f"{prefix}{folder.name}/")

    @property
    def all_others(self) -> Counter[str]:
        """Files that are no photos, here and below."""
        return sum((folder.all_others for folder in self.folders), self.others)

    @property
    def all_hidden_photos(self) -> int:
        """Hidden files called photos, here and below."""
        return self.hidden_photos + sum(folder.all_hidden_photos for folder in self.folders)


def _existing(path: Path, option: str) -> _Folder:
    if not path.is_dir():
        command = unpack_command(path) if path.exists() else None
        if command is not None:
            raise UserError(f"{option} {path} is an archive: unpack it with '{command}' and give that folder")
        if path.exists():
            raise UserError(f"{option} {path} is a file: give a folder that holds one folder of photos per class")
        raise PhotosMissing(f"{option} {path} does not exist: give a folder that holds one folder of photos per class")
    try:
        return _scanned(path, path.name, ())
    except OSError as error:
        raise UserError(f"cannot read {error.filename} ({error.strerror}): check its permissions") from error


def _scanned(path: Path, name: str, above: tuple[tuple[int, int], ...]) -> _Folder:
    """Links are followed, but for those that lead back to a folder above."""
    found = _Folder(name, path, [], [], Counter(), [], [], 0)
    status = os.stat(path)
    here = (*above, (status.st_dev, status.st_ino))
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if _is_folder(entry):
            if not is_hidden(entry.name) and not (entry.is_symlink() and _leads_to(entry, here)):
                found.folders.append(_scanned(path / entry.name, entry.name, here))
        elif is_photo_name(entry.name):
            found.photos.append(entry.name)
        elif is_hidden(entry.name):
            found.hidden_photos += is_photo_name(entry.name.lstrip("._"))
        else:
            found.others[suffix_of(entry.name)] += 1
            if suffix_of(entry.name) in (".csv", ".tsv"):
                found.tables.append(entry.name)
            elif unpack_command(Path(entry.name)) is not None:
                found.archives.append(entry.name)
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _leads_to(entry: os.DirEntry[str], folders: Sequence[tuple[int, int]]) -> bool:
    status = entry.stat()
    return (status.st_dev, status.st_ino) in folders


# --- what its folders are --------------------------------------------------------------------------------------------


def _read(scanned: _Folder, root: Path, fewest_classes: int, known: Collection[str]) -> Layout:
    top = _unwrapped(scanned, known)
    _refuse_no_photos(top, root)
    remarks = [] if top is scanned else [f"the classes are read from {top.path}, the one folder with photos in {root}"]
    sets = _sets_of(top, known)
    if sets is None:
        _refuse_no_classes(top, root, known)
        remarks += _left_out(top, [folder for folder in top.folders if folder.count])
        return _layout(top.path, {"training": (top, "")}, remarks, root, fewest_classes)
    used = {role: (folder, f"{_way(top, folder)}/") for role, folder in sets.items()}
    for folder, _ in used.values():
        _refuse_no_classes(folder, folder.path, known)
    names = ", ".join(f"{_way(top, folder)} ({role})" for role, (folder, _) in used.items())
    remarks.append(f"{top.path} comes with sets of its own: {names}")
    used_names = {folder.path.relative_to(top.path).parts[0] for folder in sets.values()}
    remarks += _left_out(top, [folder for folder in top.with_photos if folder.name in used_names])
    return _layout(top.path, used, remarks, root, fewest_classes)


def _unwrapped(folder: _Folder, known: Collection[str] = ()) -> _Folder:
    """The folder inside of folders that hold nothing else, as archives have them."""
    while not folder.photos and len(folder.with_photos) == 1:
        (only,) = folder.with_photos
        alone = all(other is only or role_of(other.name) == "beside" for other in folder.folders)
        if only.name in known or not alone or not _wraps(only):
            break
        folder = only
    return folder


def _wraps(folder: _Folder) -> bool:
    inner = folder.with_photos
    return not folder.photos and (len(inner) > 1 or (len(inner) == 1 and _wraps(inner[0])))


def _way(top: _Folder, folder: _Folder) -> str:
    return folder.path.relative_to(top.path).as_posix()


def _has_classes(folder: _Folder) -> bool:
    """Whether it holds folders of photos, and no photos of its own."""
    return not folder.photos and bool(folder.with_photos)


def _sets_of(top: _Folder, known: Collection[str]) -> dict[str, _Folder] | None:
    """The folders of training, validation and test photos, where the folder is divided into them.

    A set of photos without class folders is none: told among what is left out.
    """
    by_role: dict[Role | None, list[_Folder]] = {}
    for folder in top.with_photos:
        role = None if folder.name in known else role_of(folder.name)
        by_role.setdefault(role, []).append(folder)
    training = by_role.get("training", [])
    held_out = [*by_role.get("validation", []), *by_role.get("test", [])]
    if not training or not held_out or not all(_has_classes(_unwrapped(folder)) for folder in training):
        return None
    roles: tuple[Role, ...] = ("training", "validation", "test")
    found: dict[str, _Folder] = {}
    for role in roles:
        folders = [_unwrapped(folder) for folder in by_role.get(role, [])]
        folders = [folder for folder in folders if _has_classes(folder)]
        if len(folders) > 1:
            names = " and ".join(_way(top, folder) for folder in folders)
            raise UserError(
                f"{top.path} holds two {role} sets ({names}): give --data.path, --data.validation-path and "
                "--data.test-path one by one"
            )
        if folders:
            found[role] = folders[0]
    return found


def _refuse_no_photos(top: _Folder, root: Path) -> None:
    if top.count:
        return
    archive = next((top.path / name for name in top.archives), None)
    if archive is not None:
        raise UserError(f"no photo found in {root}, but {archive.name}: unpack it with '{unpack_command(archive)}'")
    others = top.all_others
    there = f" (there are files of other kinds: {_counted(others)})" if others else ""
    raise PhotosMissing(f"no photo found in {root}: expected CLASS/*.jpg or CLASS/*.png, one folder per class{there}")


def _refuse_no_classes(top: _Folder, root: Path, known: Collection[str]) -> None:
    """Refuse folders whose photos would be learnt as what they are not (UserError)."""
    table = _table_near(top)
    by_csv = f"give a CSV of file and label with --data.labels-csv{f' {table}' if table else ' FILE'}"
    if top.photos and not top.with_photos:
        raise UserError(
            f"{root} holds photos, but no folder of a class: sort them into one folder per class (CLASS/*.jpg), or "
            f"{by_csv}"
        )
    unknown = [folder for folder in top.with_photos if folder.name not in known]
    named = [folder for folder in unknown if role_of(folder.name) is not None]
    if named and not _one_is_a_class(named, len(top.with_photos) - len(named)):
        names = " and ".join(folder.name for folder in named)
        verb = "holds" if len(named) == 1 else "hold"
        classes = next((folder for folder in named if _has_classes(_unwrapped(folder))), None)
        remedy = f"sort the photos into one folder per class (CLASS/*.jpg), or {by_csv}"
        if classes is not None:
            remedy = f"give the folder that holds the classes, such as --data.path {_unwrapped(classes).path}"
        raise UserError(
            f"{names} in {root} {verb} photos, but these are names of sets of photos or of what lies beside them, not "
            f"of classes: {remedy}; rename a folder that is a class all the same"
        )
    siblings = {folder.name for folder in top.with_photos}
    for folder in unknown:
        again = [inner.name for inner in folder.with_photos if inner.name in siblings]
        if again:
            raise UserError(
                f"{folder.path} holds folders with the names of classes beside it ({_listed(again)}): give --data.path "
                f"{folder.path}, or move it away"
            )
        inside = [inner.name for inner in folder.with_photos if role_of(inner.name) is not None]
        if inside and not (len(inside) == 1 == len(folder.with_photos) and not folder.photos):
            raise UserError(
                f"class folder {folder.path} holds {_listed(inside)}, which would be learnt as photos of the class "
                "alike: give a folder with one folder of photos per class, or train/CLASS and val/CLASS"
            )


def _one_is_a_class(named: Sequence[_Folder], others: int) -> bool:
    """Whether the one folder with such a name is a class among others: a train among vehicles, mask and no_mask."""
    (first, *more) = named
    vehicle = role_of(first.name) == "training" and others >= 2
    return not more and bool(first.photos) and (vehicle or (first.name.lower() == "mask" and others >= 1))


def _table_near(top: _Folder) -> Path | None:
    """A CSV file that may hold labels: here, or one folder above."""
    if top.tables:
        return top.path / next((name for name in top.tables if role_of(Path(name).stem) != "test"), top.tables[0])
    try:
        beside = sorted(path for path in top.path.parent.glob("*.csv") if not is_hidden(path.name))
    except OSError:
        return None
    return next((path for path in beside if role_of(path.stem) != "test"), None)


# --- putting it together ---------------------------------------------------------------------------------------------


def _layout(
    folder: Path, sets: dict[str, tuple[_Folder, str]], remarks: list[str], root: Path, fewest_classes: int
) -> Layout:
    """`sets`: by role, the folder that holds its classes and what its photos' names begin with."""
    training = sets["training"][0]
    names = [found.name for found in training.with_photos]
    for name in names:
        check_class_name(name)
    if len(names) < fewest_classes:
        raise UserError(f"{root} has photos of one class only ({names[0]}): give at least two class folders")
    photos = {role: _photos(found, prefix, names, role) for role, (found, prefix) in sets.items()}
    if all(not found.photos and len(found.with_photos) > 1 for found in training.with_photos):
        inner = [below.name for found in training.with_photos for below in found.with_photos]
        remarks.append(
            f"each class has its photos in several folders below it ({_listed(inner)}): where these are the classes, "
            "bring them into one folder"
        )
    empty = [found.name for found in training.folders if not found.count]
    for role, (found, _) in sets.items():
        lacking = [name for name in names if name not in {inner.name for inner in found.with_photos}]
        if lacking:
            remarks.append(f"the {role} set has no photo of {_listed(lacking)}")
    notes = _notes([found for found, _ in sets.values()])
    return Layout(folder, tuple(names), **photos, notes=notes, remarks=tuple(remarks), without_photos=tuple(empty))


def _photos(top: _Folder, prefix: str, names: Sequence[str], role: str) -> tuple[FoundPhoto, ...]:
    unknown = [found.name for found in top.with_photos if found.name not in names]
    if unknown:
        raise UserError(
            f"the {role} set {top.path} has photos of {_listed(unknown)}, which the training set has not: its classes "
            f"are {_listed(names)}; rename or move these folders"
        )
    return tuple(
        FoundPhoto(f"{prefix}{found.name}/{way}", found.path / way, names.index(found.name))
        for found in top.with_photos
        for way in found.below()
    )


def _with_set(layout: Layout, role: str, path: Path) -> Layout:
    """With a validation or test set that lies elsewhere, in place of one that was found."""
    option = f"data.{role}_path"
    scanned = _existing(path, option)
    top = _unwrapped(scanned, layout.class_names)
    _refuse_no_photos(top, path)
    _refuse_no_classes(top, path, layout.class_names)
    photos = _photos(top, f"{role}/", layout.class_names, role)
    others = layout.training + (layout.test if role == "validation" else layout.validation)
    twice = _in_common(photos, others) if _overlap(top.path, layout.folder) else None
    if twice is not None:
        raise UserError(
            f"{option} {path} holds {harmless(twice.name)}, which is one of the photos in {layout.folder} that are "
            "used otherwise: give sets that have no photo in common"
        )
    remarks = [*layout.remarks, f"the {role} set is {top.path}"]
    if getattr(layout, role):
        remarks.append(f"the {role} set in {layout.folder} is left out for it")
    present = {found.name for found in top.with_photos}
    lacking = [name for name in layout.class_names if name not in present]
    if lacking:
        remarks.append(f"the {role} set has no photo of {_listed(lacking)}")
    sets = {"validation": layout.validation, "test": layout.test} | {role: photos}
    return Layout(
        layout.folder,
        layout.class_names,
        layout.training,
        **sets,
        notes=layout.notes,
        remarks=tuple(remarks),
        without_photos=layout.without_photos,
    )


def _overlap(one: Path, two: Path) -> bool:
    one, two = one.resolve(), two.resolve()
    return one.is_relative_to(two) or two.is_relative_to(one)


def _in_common(one: Sequence[FoundPhoto], two: Sequence[FoundPhoto]) -> FoundPhoto | None:
    paths = {photo.path.resolve() for photo in one}
    return next((photo for photo in two if photo.path.resolve() in paths), None)


def _left_out(top: _Folder, used: Sequence[_Folder]) -> Iterator[str]:
    """What of a folder belongs to no class."""
    if top.photos:
        yield f"left out, since they are in no folder of a class: {len(top.photos)} photos directly in {top.path}"
    for folder in top.with_photos:
        if not any(folder is found for found in used):
            yield f"left out, since it is no set of class folders: {folder.path} ({folder.count} photos)"
    others = sum((folder.all_others for folder in used), Counter[str]())
    if others:
        yield f"left out, since they are no photos: {_counted(others)}"
    hidden = top.all_hidden_photos
    if hidden:
        yield f"left out, since they are hidden: {hidden} files (.NAME.jpg or ._NAME.jpg)"


def _notes(sets: Sequence[_Folder]) -> dict[str, str]:
    notes: dict[str, list[str]] = {}
    for top in sets:
        for folder in top.with_photos:
            found = notes.setdefault(folder.name, [])
            deeper = folder.with_photos
            if deeper:
                within = "all" if not folder.photos else sum(inner.count for inner in deeper)
                found.append(f"{within} in folders below it ({_listed([inner.name for inner in deeper])})")
            if others := folder.all_others:
                found.append(f"no photos: {_counted(others)}")
            if hidden := folder.all_hidden_photos:
                found.append(f"hidden: {hidden}")
    return {name: "; ".join(found) for name, found in notes.items() if found}


def _counted(suffixes: Counter[str]) -> str:
    return ", ".join(f"{suffix} {count}" for suffix, count in suffixes.most_common())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(harmless(name) for name in names[:NAMED]) + more


def check_class_name(name: str) -> None:
    """Refuse what cannot be shown as it is (UserError): names of classes go into checkpoints, tables and pictures."""
    if not name.isprintable():
        raise UserError(f"class folder {name!r} has a name with control characters, or one that is no UTF-8: rename it")
