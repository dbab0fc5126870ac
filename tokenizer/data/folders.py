"""Image files: which there are under a folder, and how one is read without ever waiting or filling the memory."""

import os
import stat
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pyarrow as pa

from ..distributed import process_index
from ..errors import InputError
from .bad_images import shown
from .decoding import SUFFIXES, BadImage

MAX_FILE_BYTES = 2**30


@dataclass(frozen=True)
class ImageFiles:
    """Files by path; kept as bytes, since a name on disk need not be Unicode, in an array that processes share."""

    paths: pa.LargeBinaryArray

    @classmethod
    def of(cls, paths: Sequence[Path]) -> "ImageFiles":
        return cls(pa.array([os.fsencode(path) for path in paths], pa.large_binary()))

    def __len__(self) -> int:
        return len(self.paths)

    def content(self, row: int) -> bytes:
        return read_regular_file(self.name(row))

    def name(self, row: int) -> str:
        return os.fsdecode(self.paths[row].as_py())


def read_regular_file(path: str | Path) -> bytes:
    """Bytes of a file that passes `check_regular_file`.

    Raises:
        BadImage: for one that does not, or cannot be read.
    """
    check_regular_file(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror}") from error


def check_regular_file(path: str | Path) -> None:
    """Before a file is opened: what would be waited for, as a named pipe, or never ends, as a device, is refused.

    Raises:
        BadImage: for what is missing, is no regular file, or has more than `MAX_FILE_BYTES`.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadImage("not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise BadImage(f"{status.st_size:,} bytes are more than the {MAX_FILE_BYTES:,} of the largest image")


def images_under(folder: Path) -> list[Path]:
    """The first of what `files_under` finds."""
    return files_under(folder)[0]


def files_under(folder: Path) -> tuple[list[Path], list[Path]]:
    """(paths with the suffix of an image, all others), relative to the folder, in an order of their names alone.

    Names that start with a dot are passed over, links are followed. A folder whose name ends like an image's is a
    folder like any other; without images in it, it is listed as the image that cannot be read.

    Raises:
        InputError: for a folder that cannot be read, and a link to a folder that contains it.
    """
    found: list[Path] = []
    others: list[Path] = []
    doubtful: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        place = Path(parent).relative_to(folder)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if os.path.islink(os.path.join(parent, name)):
                _check_no_cycle(folder, place / name)
        for name in names:
            if not name.startswith("."):
                (found if _is_called_an_image(name) else others).append(place / name)
        doubtful += [place / name for name in folders if _is_called_an_image(name)]
    if doubtful:
        filled = {above for file in found for above in file.parents}
        found += [path for path in doubtful if path not in filled]
    return sorted(found, key=Path.as_posix), sorted(others, key=Path.as_posix)


def folder_contents(folder: Path) -> tuple[list[Path], list[Path]]:
    """(files, folders) in a folder, by name, without those that start with a dot.

    Raises:
        InputError: for a folder that cannot be read.
    """
    _, folders, files = next(os.walk(folder, onerror=_refuse))
    named = [[folder / name for name in sorted(names) if not name.startswith(".")] for names in (files, folders)]
    return named[0], named[1]


def _refuse(error: OSError) -> NoReturn:
    raise InputError(f"{error.filename!r}: cannot be read: {error.strerror}") from error


def counted(files: Sequence[Path]) -> str:
    """Files by their suffixes, the first of each by name: "20 .heic (owl/0.heic), 1 .txt (notes.txt)"."""
    suffixes = Counter(file.suffix for file in files)
    first = {file.suffix: file for file in reversed(files)}
    return ", ".join(
        f"{n} {suffix or 'without suffix'} ({shown(str(first[suffix]))})" for suffix, n in suffixes.items()
    )


def tell_passed_over(folder: Path, files: Sequence[Path]) -> None:
    """Say, in one process, which files of a source are not read, since nothing in the result tells of them."""
    if files and process_index() == 0:
        print(f"{folder}: passed over by their suffixes: {counted(files)}", file=sys.stderr)


def _is_called_an_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _check_no_cycle(folder: Path, link: Path) -> None:
    """Raises: InputError: if a link leads to a folder that it was reached through; a walk would never end."""
    target = os.path.realpath(folder / link)
    if target in {os.path.realpath(folder / above) for above in link.parents}:
        raise InputError(f"{str(folder / link)!r} is a link to a folder that contains it, {target!r}; remove it")
