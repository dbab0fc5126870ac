"""Files and folders written whole or not at all, and removed as a whole."""

import csv
import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import InputError

_UNFINISHED = ".partial"  # how names end of what is being written or removed; they start with a dot


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of `target` when the block ends without an exception, and is gone if not.

    It is on the disk, not only in the system's memory, before it takes that place.

    Raises:
        InputError: if `target` holds anything that the new folder does not; that would be lost.
        OSError: if the disk is full; also where a library that writes says so in an exception of its own.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", suffix=_UNFINISHED, dir=target.parent) as temporary:
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
            lost = {path.name for path in target.iterdir()} - {path.name for path in new.iterdir()}
            if lost:
                raise InputError(f"{target} would be replaced, but holds '{min(lost)}' as well; give another folder")
            os.replace(target, old)
        os.replace(new, target)
        synchronize(target.parent)


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
    """Write content to path, whole or not at all; folders that are missing are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{_UNFINISHED}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:  # that of a full disk names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
