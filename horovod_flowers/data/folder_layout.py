"""How a folder of photos is laid out: its classes, its own validation and test sets, and what of it is left out.

Read here alone, for `prepare`, `train` and `evaluate` alike:

    PHOTOS/CLASS/*.jpg                          one folder per class, with all photos below it
    PHOTOS/train/CLASS, PHOTOS/val/CLASS, ...   sets of their own (also training_set, valid, seg_test)
    PHOTOS/flowers/CLASS                        a folder around either of them, as archives have it
    --data.validation-path, --data.test-path    sets of their own that lie elsewhere

What could be read as more than one of these is refused, with what to type instead. `labels_csv` reads a CSV.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from horovod_flowers.config.data import DataConfig
from horovod_flowers.data.class_folders import refuse_no_classes, refuse_no_photos, sets_in, unwrapped, way_to
from horovod_flowers.data.folder_scan import ScannedFolder, counted, listed, scan
from horovod_flowers.runtime.errors import UserError, harmless


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


def read_layout(config: DataConfig, fewest_classes: int = 2, known_classes: Collection[str] = ()) -> Layout:
    """The layout of `data.path`, with the sets that lie elsewhere.

    `known_classes`: names that are classes whatever else they look like. Raises UserError where the folder is missing,
    holds too few classes, or cannot be read in one way only.
    """
    root = Path(str(config.path))
    layout = _read(scan(root, "data.path"), root, fewest_classes, known_classes)
    for role, given in (("validation", config.validation_path), ("test", config.test_path)):
        if given is not None:
            layout = _with_set(layout, role, Path(given))
    return layout


def _read(scanned: ScannedFolder, root: Path, fewest_classes: int, known: Collection[str]) -> Layout:
    top = unwrapped(scanned, known)
    refuse_no_photos(top, root)
    remarks = [] if top is scanned else [f"the classes are read from {top.path}, the one folder with photos in {root}"]
    sets = sets_in(top, known)
    if sets is None:
        refuse_no_classes(top, root, known)
        remarks += _left_out(top, [folder for folder in top.folders if folder.count])
        return _layout(top.path, {"training": (top, "")}, remarks, root, fewest_classes)
    used = {role: (folder, f"{way_to(top, folder)}/") for role, folder in sets.items()}
    for folder, _ in used.values():
        refuse_no_classes(folder, folder.path, known)
    names = ", ".join(f"{way_to(top, folder)} ({role})" for role, (folder, _) in used.items())
    remarks.append(f"{top.path} comes with sets of its own: {names}")
    used_names = {folder.path.relative_to(top.path).parts[0] for folder in sets.values()}
    remarks += _left_out(top, [folder for folder in top.with_photos if folder.name in used_names])
    return _layout(top.path, used, remarks, root, fewest_classes)


def _layout(
    folder: Path, sets: dict[str, tuple[ScannedFolder, str]], remarks: list[str], root: Path, fewest_classes: int
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
            f"each class has its photos in several folders below it ({listed(inner)}): where these are the classes, "
            "bring them into one folder"
        )
    empty = [found.name for found in training.folders if not found.count]
    for role, (found, _) in sets.items():
        lacking = [name for name in names if name not in {inner.name for inner in found.with_photos}]
        if lacking:
            remarks.append(f"the {role} set has no photo of {listed(lacking)}")
    notes = _notes([found for found, _ in sets.values()])
    return Layout(folder, tuple(names), **photos, notes=notes, remarks=tuple(remarks), without_photos=tuple(empty))


def _photos(top: ScannedFolder, prefix: str, names: Sequence[str], role: str) -> tuple[FoundPhoto, ...]:
    unknown = [found.name for found in top.with_photos if found.name not in names]
    if unknown:
        raise UserError(
            f"the {role} set {top.path} has photos of {listed(unknown)}, which the training set has not: its classes "
            f"are {listed(names)}; rename or move these folders"
        )
    return tuple(
        FoundPhoto(f"{prefix}{found.name}/{way}", found.path / way, names.index(found.name))
        for found in top.with_photos
        for way in found.below()
    )


def _with_set(layout: Layout, role: str, path: Path) -> Layout:
    """With a validation or test set that lies elsewhere, in place of one that was found."""
    option = f"data.{role}_path"
    scanned = scan(path, option)
    top = unwrapped(scanned, layout.class_names)
    refuse_no_photos(top, path)
    refuse_no_classes(top, path, layout.class_names)
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
        remarks.append(f"the {role} set has no photo of {listed(lacking)}")
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


def _left_out(top: ScannedFolder, used: Sequence[ScannedFolder]) -> Iterator[str]:
    """What of a folder belongs to no class."""
    if top.photos:
        yield f"left out, since they are in no folder of a class: {len(top.photos)} photos directly in {top.path}"
    for folder in top.with_photos:
        if not any(folder is found for found in used):
            yield f"left out, since it is no set of class folders: {folder.path} ({folder.count} photos)"
    others = sum((folder.all_others for folder in used), Counter[str]())
    if others:
        yield f"left out, since they are no photos: {counted(others)}"
    hidden = top.all_hidden_photos
    if hidden:
        yield f"left out, since they are hidden: {hidden} files (.NAME.jpg or ._NAME.jpg)"


def _notes(sets: Sequence[ScannedFolder]) -> dict[str, str]:
    notes: dict[str, list[str]] = {}
    for top in sets:
        for folder in top.with_photos:
            found = notes.setdefault(folder.name, [])
            deeper = folder.with_photos
            if deeper:
                within = "all" if not folder.photos else sum(inner.count for inner in deeper)
                found.append(f"{within} in folders below it ({listed([inner.name for inner in deeper])})")
            if others := folder.all_others:
                found.append(f"no photos: {counted(others)}")
            if hidden := folder.all_hidden_photos:
                found.append(f"hidden: {hidden}")
    return {name: "; ".join(found) for name, found in notes.items() if found}


def check_class_name(name: str) -> None:
    """Refuse what cannot be shown as it is (UserError): names of classes go into checkpoints, tables and pictures."""
    if not name.isprintable():
        raise UserError(f"class folder {name!r} has a name with control characters, or one that is no UTF-8: rename it")
