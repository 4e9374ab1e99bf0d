"""What the folders in a folder of photos are: classes, sets of their own, or what would be learnt as what it is not."""

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from horovod_flowers.data.folder_scan import PhotosMissing, ScannedFolder, counted, listed
from horovod_flowers.data.photo_names import Role, is_hidden, role_of, unpack_command
from horovod_flowers.runtime.errors import UserError


def unwrapped(folder: ScannedFolder, known: Collection[str] = ()) -> ScannedFolder:
    """The folder inside of folders that hold nothing else, as archives have them."""
    while not folder.photos and len(folder.with_photos) == 1:
        (only,) = folder.with_photos
        alone = all(other is only or role_of(other.name) == "beside" for other in folder.folders)
        if only.name in known or not alone or not _wraps(only):
            break
        folder = only
    return folder


def _wraps(folder: ScannedFolder) -> bool:
    inner = folder.with_photos
    return not folder.photos and (len(inner) > 1 or (len(inner) == 1 and _wraps(inner[0])))


def way_to(top: ScannedFolder, folder: ScannedFolder) -> str:
    """From one folder to one in it, as names of photos begin."""
    return folder.path.relative_to(top.path).as_posix()


def _has_classes(folder: ScannedFolder) -> bool:
    """Whether it holds folders of photos, and no photos of its own."""
    return not folder.photos and bool(folder.with_photos)


def sets_in(top: ScannedFolder, known: Collection[str]) -> dict[str, ScannedFolder] | None:
    """The folders of training, validation and test photos, where the folder is divided into them.

    A set without folders of the training classes is none (photos to be classified): told among what is left out.
    """
    by_role: dict[Role | None, list[ScannedFolder]] = {}
    for folder in top.with_photos:
        role = None if folder.name in known else role_of(folder.name)
        by_role.setdefault(role, []).append(folder)
    training = by_role.get("training", [])
    held_out = [*by_role.get("validation", []), *by_role.get("test", [])]
    if not training or not held_out or not all(_has_classes(unwrapped(folder)) for folder in training):
        return None
    roles: tuple[Role, ...] = ("training", "validation", "test")
    found: dict[str, ScannedFolder] = {}
    for role in roles:
        folders = [unwrapped(folder) for folder in by_role.get(role, [])]
        folders = [folder for folder in folders if _has_classes(folder)]
        if role != "training":
            names = {inner.name for inner in found["training"].with_photos}
            folders = [folder for folder in folders if names & {inner.name for inner in folder.with_photos}]
        if len(folders) > 1:
            both = " and ".join(way_to(top, folder) for folder in folders)
            raise UserError(
                f"{top.path} holds two {role} sets ({both}): give --data.path, --data.validation-path and "
                "--data.test-path one by one"
            )
        if folders:
            found[role] = folders[0]
    return found


def refuse_no_photos(top: ScannedFolder, root: Path) -> None:
    """Refuse a folder without a photo, saying what is there instead (UserError)."""
    if top.count:
        return
    archive = next((top.path / name for name in top.archives), None)
    if archive is not None:
        raise UserError(f"no photo found in {root}, but {archive.name}: unpack it with '{unpack_command(archive)}'")
    others = top.all_others
    there = f" (there are files of other kinds: {counted(others)})" if others else ""
    raise PhotosMissing(f"no photo found in {root}: expected CLASS/*.jpg or CLASS/*.png, one folder per class{there}")


def refuse_no_classes(top: ScannedFolder, root: Path, known: Collection[str]) -> None:
    """Refuse folders whose photos would be learnt as what they are not (UserError)."""
    table = _table_near(top)
    if top.photos and not top.with_photos:
        raise UserError(
            f"{root} holds photos, but no folder of a class: sort them into one folder per class (CLASS/*.jpg), or "
            f"give a CSV of file and label with --data.labels-csv {_quoted(table)}"
        )
    unknown = [folder for folder in top.with_photos if folder.name not in known]
    _refuse_sets(top, root, unknown, table)
    _refuse_nested(top, unknown)


def _refuse_sets(top: ScannedFolder, root: Path, unknown: Sequence[ScannedFolder], table: Path | None) -> None:
    """Folders that are called like sets of photos, or like what lies beside photos."""
    named = [folder for folder in unknown if role_of(folder.name) is not None]
    if not named or _one_is_a_class(named, len(top.with_photos) - len(named)):
        return
    names = " and ".join(folder.name for folder in named)
    several = "hold photos, but these are" if len(named) > 1 else "holds photos, but this is"
    classes = next((folder for folder in named if _has_classes(unwrapped(folder))), None)
    if classes is not None:
        remedy = f"give the folder that holds the classes, such as --data.path {_quoted(unwrapped(classes).path)}"
    else:
        flat = next((folder for folder in named if role_of(folder.name) == "training"), named[0])
        remedy = (
            "sort the photos into one folder per class (CLASS/*.jpg), or give a CSV of file and label, as "
            f"--data.path {_quoted(flat.path)} --data.labels-csv {_quoted(table)}"
        )
    raise UserError(
        f"{names} in {root} {several} what sets of photos are called, or what lies beside photos, not classes: "
        f"{remedy}; rename a folder that is a class all the same"
    )


def _refuse_nested(top: ScannedFolder, unknown: Sequence[ScannedFolder]) -> None:
    """The classes once more in a folder beside them, and sets of photos inside of a class."""
    siblings = {folder.name for folder in top.with_photos}
    for folder in unknown:
        again = [inner.name for inner in folder.with_photos if inner.name in siblings]
        if again:
            raise UserError(
                f"{folder.path} holds folders with the names of classes beside it ({listed(again)}): give --data.path "
                f"{_quoted(folder.path)}, or move it away"
            )
        inside = [inner.name for inner in folder.with_photos if role_of(inner.name) is not None]
        if inside and not (len(inside) == 1 == len(folder.with_photos) and not folder.photos):
            raise UserError(
                f"class folder {folder.path} holds {listed(inside)}, which would be learnt as photos of the class "
                "alike: give a folder with one folder of photos per class, or train/CLASS and val/CLASS"
            )


def _quoted(path: Path | None) -> str:
    """As it is typed in a shell."""
    return "FILE" if path is None else shlex.quote(str(path))


def _one_is_a_class(named: Sequence[ScannedFolder], others: int) -> bool:
    """Whether the one folder with such a name is a class among others: a train among vehicles, mask and no_mask."""
    (first, *more) = named
    vehicle = role_of(first.name) == "training" and others >= 2
    return not more and bool(first.photos) and (vehicle or (first.name.lower() == "mask" and others >= 1))


def _table_near(top: ScannedFolder) -> Path | None:
    """A CSV file that may hold labels: here, or one folder above."""
    if top.tables:
        return top.path / next((name for name in top.tables if role_of(Path(name).stem) != "test"), top.tables[0])
    try:
        tables = top.path.parent.glob("*.csv")
        beside = sorted(path for path in tables if not is_hidden(path.name) and path.is_file())
    except OSError:
        return None
    return next((path for path in beside if role_of(path.stem) != "test"), None)
