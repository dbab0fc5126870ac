"""Files and folders written whole or not at all, and removed as a whole."""

import csv
import errno
import io
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import InputError
from .untrusted import user_path

_UNFINISHED = ".partial"  # how names end of what is being written or removed; they start with a dot


@contextmanager
def written_whole(target: Path, beside: Collection[str] = ()) -> Iterator[Path]:
    """A new folder whose content is that of `target` when the block ends without an exception, and is gone if not.

    It is on the disk, not only in the system's memory, before it gets there. A folder that exists stays the same one,
    since it may be a mount point, or have owners and rights of its own: what is in it is replaced, entry by entry.

    Args:
        target: made if need be.
        beside: names of what may lie in `target` as well, and stays there unless the new folder has it.

    Raises:
        InputError: if `target` is a file, or holds anything else that the new folder does not; that would be lost.
        OSError: if the disk is full; also where a library that writes says so in an exception of its own.
    """
    target = user_path(target).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; give a folder")
    place = target if target.exists() else target.parent  # of one file system with where it goes
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", suffix=_UNFINISHED, dir=place) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        new.mkdir()
        try:
            yield new
        except (SafetensorError, RuntimeError) as error:
            if "writ" not in str(error) and "os error" not in str(error):  # safetensors and torch have no type for it
                raise
            raise OSError(errno.EIO, f"could not be written ({str(error).splitlines()[0]})", str(target)) from error
        synchronize(*new.rglob("*"), new)
        if target.exists():
            _check_nothing_lost(target, {path.name for path in new.iterdir()} | set(beside))
            _move_into(target, new, old)
        else:
            os.replace(new, target)
        synchronize(target if place == target else target.parent)


def check_output_folder(target: Path, names: Collection[str]) -> None:
    """Check, before the work is done, that `written_whole` can write these entries.

    Raises:
        InputError: for a file, a folder that holds anything else, or one that cannot be written to.
    """
    target = user_path(target).resolve()
    existing = next(path for path in (target, *target.parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"{existing} is a file; give a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{existing} cannot be written to; give another folder")
    if target.exists():
        _check_nothing_lost(target, set(names))


def _check_nothing_lost(target: Path, names: set[str]) -> None:
    there = {path.name for path in target.iterdir()}
    lost = {name for name in there - names if not (name.startswith(".") and name.endswith(_UNFINISHED))}
    if lost:
        raise InputError(f"{target} would be replaced, but holds '{min(lost)}' as well; give another folder")


def _move_into(target: Path, new: Path, old: Path) -> None:
    """Move the entries of `new` into `target`, and those they replace into `old`; all of them back if one cannot be."""
    old.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        for path in sorted(new.iterdir()):
            there = target / path.name
            for source, goal in ((there, old / path.name), (path, there)):
                if os.path.lexists(source):
                    os.replace(source, goal)
                    moved.append((source, goal))
    except OSError:
        for source, goal in reversed(moved):
            os.replace(goal, source)
        raise


def synchronize(*paths: Path) -> None:
    """Return when files and folders are on the disk, as a power failure would find them."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left of the files and folders of that name, a pattern, that they were writing to or
    removing from `folder`; only where nobody writes now."""
    for path in folder.glob(f".{name}{_UNFINISHED}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_whole(folder: Path) -> None:
    """Remove a folder that nobody sees half removed, even if this process is killed; see `remove_unfinished`."""
    leaving = folder.with_name(f".{folder.name}{_UNFINISHED}")
    os.replace(folder, leaving)
    shutil.rmtree(leaving)


def write_json(path: Path, content: Any) -> None:
    """Write content as JSON to path, whole or not at all."""
    write_file(path, (json.dumps(content, indent=2) + "\n").encode())


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of the same keys, at least one, as CSV to path, whole or not at all."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    write_file(path, text.getvalue().encode())


def write_file(path: Path, content: bytes) -> None:
    """Write content to path, whole or not at all; folders that are missing are made.

    A symbolic link stays one, and what it leads to is written. A device, as /dev/stdout is, is written as it is.
    """
    path = user_path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(content)
        return
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{_UNFINISHED}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:  # that of a full disk names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def write_once(path: Path, content: bytes, scratch: Path, synchronized: bool = True) -> None:
    """Write content to path, whole, unless there is a file already, which then stays as it is.

    Any number of processes may do so at once, on machines that share a file system: one of them writes the file.

    Args:
        path: in a folder that exists.
        content: of the file.
        scratch: a folder of the same file system, for what is not whole yet; it is not made if it is gone.
        synchronized: whether the content is on the disk before the file gets its name, as `synchronize` has it.

    Raises:
        OSError: if it cannot be written; FileNotFoundError if one of the folders is gone.
    """
    partial = scratch / f".{path.name}-{secrets.token_hex(8)}{_UNFINISHED}"
    try:
        with partial.open("xb") as file:
            file.write(content)
            if synchronized:
                file.flush()
                os.fsync(file.fileno())
        try:
            os.link(partial, path)  # unlike a renaming it fails where there is a file
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            if not path.exists():  # a file system without links
                os.replace(partial, path)
    except OSError as error:  # that of a full disk names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
