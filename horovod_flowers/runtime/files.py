"""Files and folders that appear whole or not at all: write beside, fsync, rename."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from horovod_flowers.runtime.errors import GoneError, StorageError, UserError, first_line
from horovod_flowers.runtime.machine import machine_id
from horovod_flowers.runtime.standard_streams import output_that_failed

DAYS_UNTIL_ABANDONED = 7
"""After which what is left of a process elsewhere is taken for abandoned."""
_REMEDIES = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, ask for a larger quota, or choose another folder",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "change its permissions, or choose another folder",
    errno.EPERM: "change its permissions, or choose another folder",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another folder",
    errno.EIO: "look at the file system, or choose another folder",
    errno.ESTALE: "look at the file system, or choose another folder",
}
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
"""What file systems answer that cannot be told to force something to storage; some refuse it for folders alone."""
_NO_CHANGE_OF_MODE = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems answer that keep no permissions of their own, and those that do not let anybody change them."""
_TOLD_BY_TEXT = re.compile(
    # What libraries make of an OSError: safetensors; TensorFlow and HDF5; numpy of a write that ended short.
    r"\(os error (?P<number>\d+)\)|(?P<text>"
    + "|".join(re.escape(os.strerror(number)) for number in _REMEDIES)
    + r")|(?P<short>\d+ requested and \d+ written)"
)


def storage_errno(error: BaseException) -> int | None:
    """The number of the system's error where storage refused to be written; None where it is something else."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (told := _TOLD_BY_TEXT.search(str(error))):
        by_text = {os.strerror(known): known for known in _REMEDIES}
        number = int(told["number"]) if told["number"] else by_text.get(told["text"] or "", errno.ENOSPC)
    return number if number in _REMEDIES else None


def storage_sentence(path: Path | str, number: int) -> str:
    """What could not be written, why, and what to try."""
    return f"cannot write {path} ({os.strerror(number)}): {_REMEDIES[number]}"


def refusal_sentence(path: Path | str, error: PermissionError) -> str:
    """What this user may not use, whether to read or to write it, and what to try."""
    return (
        f"this user may not open {path} ({error.strerror}): ask its owner for permission (chmod), or choose another "
        "file or folder"
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what storage refuses inside the block into a StorageError about `path`, whichever library said it.

    A GoneError where the folder of `path` is no longer there.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        number = storage_errno(error)
        if number is not None:
            # What is said meanwhile may fail, too.
            told = output_that_failed(error) if getattr(error, "filename", None) is None else None
            raise StorageError(storage_sentence(told or path, number)) from error
        if _says_missing(error) and _is_gone(path.parent):
            raise GoneError(_gone_sentence(path)) from error
        raise


def _says_missing(error: Exception) -> bool:
    """Whether a file or folder was not there, in the words of TensorFlow and safetensors, too."""
    return isinstance(error, FileNotFoundError) or os.strerror(errno.ENOENT) in str(error)


def _gone_sentence(path: Path) -> str:
    return (
        f"cannot write {path} (its folder was renamed or deleted while this job ran): give it its name back, or start "
        "again, and leave it as it is until the job has ended"
    )


def _is_gone(folder: Path) -> bool:
    try:
        os.stat(folder)
    except FileNotFoundError:
        return True
    except OSError:
        pass
    return False


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it to `path` when the block ends well, delete it otherwise.

    Readers see the earlier file or the new one, never a part of it, also after a power cut. Its permissions are those
    that the user's umask gives. Raises StorageError where there is no room for it.
    """
    temporary = unfinished(path)
    with writing(path):
        try:
            temporary.touch()
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            set_mode(temporary, mode)  # some libraries put a file of their own in its place, which is private
            sync(temporary)
            _replace(temporary, path)
            sync(path.parent)
        except Exception as error:
            if _says_missing(error) and not os.path.lexists(
                temporary
            ):  # deleted, or another file system was mounted over it
                temporary.touch()  # may say why
                raise GoneError(_gone_sentence(path)) from error
            raise
        finally:
            with contextlib.suppress(OSError):  # read-only by now
                temporary.unlink(missing_ok=True)


def set_mode(path: Path, mode: int) -> None:
    """Give a file or folder these permissions, where its file system keeps any."""
    if stat.S_IMODE(os.stat(path).st_mode) == mode:
        return
    try:
        os.chmod(path, mode)
    except OSError as error:
        if error.errno not in _NO_CHANGE_OF_MODE:
            raise


def _replace(temporary: Path, path: Path) -> None:
    """Rename, or copy where the file system has the two names on different layers (EXDEV)."""
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copyfile(temporary, path)
        sync(path)
        temporary.unlink()


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it takes the place of `path` when the block ends well.

    Otherwise it is deleted, and an earlier folder stays as it was. Raises StorageError where there is no room for it.
    """
    with writing(path), _whole_folder(path) as temporary:
        yield temporary


@contextlib.contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    path = path.resolve()  # beside what a link leads to; '.' has no name to stand beside
    temporary = unfinished(path)
    earlier = temporary.with_suffix(".earlier")
    temporary.mkdir()
    try:
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        for written in [*temporary.rglob("*"), temporary]:
            _share_as(written, mode)
            sync(written)
        try:
            move_folder(path, earlier)
        except FileNotFoundError:
            os.rename(temporary, path)
        else:
            try:
                os.rename(temporary, path)
            except BaseException:
                move_folder(earlier, path)
                raise
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(earlier, ignore_errors=True)


def _share_as(written: Path, mode_of_folders: int) -> None:
    """Give what is within a folder the permissions that the user's umask gives, as its folder has them."""
    status = os.lstat(written)
    if stat.S_ISDIR(status.st_mode):
        set_mode(written, mode_of_folders)
    elif stat.S_ISREG(status.st_mode):
        set_mode(written, mode_of_folders & (0o777 if status.st_mode & stat.S_IXUSR else 0o666))


def move_folder(folder: Path, target: Path) -> None:
    """Rename a folder; copy it where parts of it are on another layer of an overlay file system (EXDEV).

    `target` is not there. Raises FileNotFoundError where the folder is not.
    """
    try:
        os.rename(folder, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_folder(folder, target)
        shutil.rmtree(folder)


def put_aside(folder: Path, target: Path) -> None:
    """Rename a folder that is to be deleted; delete it where it cannot be renamed (EXDEV), which takes longer."""
    try:
        os.rename(folder, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.rmtree(folder)


def _copy_folder(folder: Path, target: Path) -> None:
    """Names, contents and links; a file system that keeps no permissions and times is no hindrance."""
    target.mkdir()
    for path in folder.iterdir():
        copy = target / path.name
        if path.is_symlink():
            copy.symlink_to(os.readlink(path))
        elif path.is_dir():
            _copy_folder(path, copy)
        else:
            shutil.copyfile(path, copy)
    set_mode(target, stat.S_IMODE(folder.stat().st_mode))


def unfinished(path: Path, ending: str = "tmp") -> Path:
    """A hidden name beside `path` for what is not finished; it tells which process is at work on it."""
    return path.with_name(f".{path.name}.{os.getpid()}-{_origin()}-{secrets.token_hex(4)}.{ending}")


_UNFINISHED = re.compile(r"\.(.+)\.(\d+)-([0-9a-f]{8})-[0-9a-f]{8}\.(tmp|earlier|parts|discarded)")


def _origin() -> str:
    """The same for processes that know each other by their numbers: of one kernel, and one container on it."""
    place = machine_id() + os.readlink("/proc/self/ns/pid")
    return hashlib.blake2b(place.encode(), digest_size=4).hexdigest()


def clear_abandoned(folder: Path) -> None:
    """Remove what processes that were killed left unfinished in a folder (`unfinished`).

    Only where that is certain: the process was one of this machine and is gone, or nothing was done for days. A folder
    that was moved aside comes back where what was to take its place is missing.
    """
    with contextlib.suppress(OSError):  # it may vanish meanwhile, or not be ours: left as it is
        for path in list(folder.iterdir()):
            found = _UNFINISHED.fullmatch(path.name)
            if found is None or not _abandoned(path, int(found[2]), found[3]):
                continue
            if found[4] == "earlier" and not os.path.lexists(folder / found[1]):
                move_folder(path, folder / found[1])
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _abandoned(path: Path, process: int, origin: str) -> bool:
    if origin == _origin():
        return not _alive(process)
    inside = path.iterdir() if path.is_dir() and not path.is_symlink() else ()
    newest = max(os.lstat(each).st_mtime for each in (path, *inside))
    return time.time() - newest > DAYS_UNTIL_ABANDONED * 86400


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # not /proc, which may hide processes of others
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


@contextlib.contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Yield a private folder where temporary files belong ($TMPDIR, else /tmp), and remove it at the end of the block.

    What processes that were killed have left there goes, too. Raises UserError where there is no room for it.
    """
    try:
        root = Path(tempfile.gettempdir())
        clear_abandoned(root)
        folder = unfinished(root / f"horovod_flowers-{purpose}")
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise UserError(f"there is no place for temporary files ({first_line(error)}): {TEMPORARY_REMEDY}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def own_temporary_files(purpose: str) -> Iterator[None]:
    """Let Python's temporary files within the block, of libraries too, lie in a folder that goes with them.

    TensorFlow's AutoGraph takes its files away at the end of the process, which one that is killed does not reach.
    """
    with temporary_folder(purpose) as folder:
        before, tempfile.tempdir = tempfile.tempdir, str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before


TEMPORARY_REMEDY = "free some space, or set TMPDIR to a folder of the node's own that has some"


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Force a file's contents, or a folder's entries, to storage, where its file system can be told to."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written and not be listed, or a file that its user may only write
        return
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sync_descriptor(descriptor: int) -> None:
    """The same of an open file."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def writable_folder(path: Path, purpose: str) -> Path:
    """Create `path` where it is missing and prove that a file can be written in it; remove what was abandoned there.

    Raises UserError naming the folder and the flag to change it (`purpose`).
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        clear_abandoned(path)
        probe = unfinished(path / "writable")
        try:
            probe.write_bytes(b"\n")  # on a full file system an empty file would be no proof
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write in {path} ({error.strerror or error}): {purpose}") from error
    return path


def check_regular(path: Path, most_bytes: int | None = None) -> None:
    """Refuse what is no file of its own, and so could block, lead elsewhere or never end, or one above `most_bytes`.

    Raises FileNotFoundError, or UserError.
    """
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is {_kind(status.st_mode)}, not a file")
    if most_bytes is not None and status.st_size > most_bytes:
        raise UserError(f"{path} has {status.st_size} bytes: at most {most_bytes} are read")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe"}
    return kinds.get(stat.S_IFMT(mode), "a device or socket")
