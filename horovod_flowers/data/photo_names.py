"""What the names of files and folders say: photos, what is hidden, archives, and sets that are no classes."""

import re
import shlex
import tarfile
import zipfile
from pathlib import Path
from typing import Literal

from horovod_flowers.data.photo_file import PHOTO_SUFFIXES

_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
"""That operating systems and network storage put beside files: copies, thumbnails, what was thrown away."""

Role = Literal["training", "validation", "test", "beside"]
"""Of a folder whose name is no class: a set of photos, or what lies beside photos (images, masks, labels)."""
_ROLES: dict[str, Role] = {
    **dict.fromkeys(("train", "training"), "training"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_BESIDE = {
    *("image", "images", "img", "imgs", "jpegimages", "mask", "masks", "label", "labels", "gt", "groundtruth"),
    *("annotation", "annotations", "segmentation", "segmentations", "trimap", "trimaps", "bbox", "bboxes"),
}
_FILLING = {"set", "split", "data", "dataset", "folder", "photo", "photos", "seg", "images", "image", "img", "imgs"}
"""Words beside the one that counts: training_set, seg_train, test_images."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's photos: .hidden.jpg, macOS' ._photo.jpg, __MACOSX."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def is_photo_name(name: str) -> bool:
    """Whether a file with this name is taken for a photo."""
    return name.lower().endswith(PHOTO_SUFFIXES) and not is_hidden(name)


def suffix_of(name: str) -> str:
    """In lower case, as it is counted among files that are left out."""
    return Path(name).suffix.lower() or "without suffix"


def role_of(folder: str) -> Role | None:
    """What a folder of this name usually is, where that is no class."""
    words = [word for word in re.split(r"[\W_]+", re.sub(r"\d+$", "", folder.lower())) if word]
    telling = [word for word in words if word not in _FILLING]
    if len(telling) == 1 and telling[0] in _ROLES:
        return _ROLES[telling[0]]
    return "beside" if words and all(word in _BESIDE for word in words) else None


_ARCHIVES = {".zip": "zip", ".tar": "tar", ".tgz": "tar", ".tbz2": "tar", ".txz": "tar", ".7z": "7z", ".rar": "rar"}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def unpack_command(path: Path) -> str | None:
    """The command that unpacks an archive beside itself; None where neither name nor contents are an archive's."""
    stem, suffix = path.stem, path.suffix.lower()
    if suffix in _COMPRESSED and stem.lower().endswith(".tar"):
        stem, suffix = stem[: -len(".tar")], ".tar"
    kind = _ARCHIVES.get(suffix)
    if kind is None and not path.suffix and path.is_file():  # an .xlsx is a zip file, too
        kind = "zip" if zipfile.is_zipfile(path) else "tar" if _is_tar(path) else None
        stem = f"{stem}-unpacked"
    archive, folder = shlex.quote(str(path)), shlex.quote(str(path.parent / stem))
    commands = {
        "zip": f"python -m zipfile -e {archive} {folder}",
        "tar": f"mkdir -p {folder} && tar -xf {archive} -C {folder}",
        "7z": f"7z x {archive} -o{folder}",
        "rar": f"unrar x {archive} {folder}/",
    }
    return commands.get(kind or "")


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (OSError, EOFError, ValueError):
        return False
