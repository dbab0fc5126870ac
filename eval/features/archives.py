"""The arrays of an .npz by their headers, compared with what the file can hold before memory is taken for them."""

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from wvq.tokenizer.errors import InputError

_LARGEST_RATIO = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}  # of array to file, by compression
# What zipfile and numpy raise for files that make no sense; both are ready for no others.
_UNFIT = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, OSError, EOFError, RuntimeError, KeyError)


class ArrayHeader(NamedTuple):
    """What an array of an archive says of itself."""

    shape: tuple[int, ...]
    column_major: bool
    dtype: np.dtype


def read_headers(path: Path) -> dict[str, ArrayHeader]:
    """The headers of all arrays of an .npz, by name.

    Raises:
        InputError: for what is missing, no regular file, or no .npz; for pickled objects; for an array that has other
            bytes than its header says, or more than its file can hold.
    """
    if not path.is_file():  # a named pipe would be waited for
        raise InputError(f"{path} {'is no regular file' if path.exists() else 'does not exist'}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            return {
                member.filename.removesuffix(".npy"): _check_size(archive, member, path.stat().st_size)
                for member in members
            }
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except _UNFIT as error:
        raise InputError(f"{path} is not an .npz of arrays: {error}") from error


def read_array(path: Path, name: str) -> np.ndarray:
    """An array of an .npz; look at its header before.

    Raises:
        InputError: if the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except _UNFIT as error:
        raise InputError(f"{path} is damaged: {error}") from error


def read_header(stream: IO[bytes]) -> ArrayHeader:
    """The header at the start of an .npy, which the stream is behind afterwards."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return ArrayHeader(*read(stream))


def _check_size(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file_bytes: int) -> ArrayHeader:
    with archive.open(member) as stream:
        header, start = read_header(stream), stream.tell()
    if header.dtype.hasobject:
        raise InputError("holds pickled objects, which are never loaded")
    declared, present = math.prod(header.shape) * header.dtype.itemsize, member.file_size - start
    most = min(member.compress_size, file_bytes) * _LARGEST_RATIO.get(member.compress_type, 0)
    if declared != present or member.file_size > most:
        raise InputError(
            f"has the array {member.filename} of {declared:,} bytes by its header; the file holds {present:,}, "
            f"and cannot hold more than {most:,}"
        )
    return header
