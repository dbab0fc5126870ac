"""The arrays of an .npz by their headers, compared with what the file can hold before memory is taken for them."""

import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch

from wvq.tokenizer.data.shard_files import CLASS_NAMES_FILE, read_class_names
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.untrusted import first_line

from .sample_note import read_sample_note

_LARGEST_RATIO = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}  # of array to file, by compression
# What zipfile and numpy raise for files that make no sense; both are ready for no others.
UNFIT = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, ArithmeticError, LookupError, MemoryError),
    *(OSError, EOFError, RuntimeError, SyntaxError, TypeError, ValueError),
)


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
    except UNFIT as error:
        raise InputError(f"{path} is not an .npz of arrays: {error}") from error


def read_array(path: Path, name: str) -> np.ndarray:
    """An array of an .npz; look at its header before.

    Raises:
        InputError: if the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except UNFIT as error:
        raise InputError(f"{path} is damaged: {error}") from error


def read_header(stream: IO[bytes]) -> ArrayHeader:
    """The header at the start of an .npy, which the stream is behind afterwards."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return ArrayHeader(*read(stream))


def read_classes(
    path: Path, headers: Mapping[str, ArrayHeader], count: int
) -> tuple[torch.Tensor | None, tuple[str, ...]]:
    """Labels (count,) of an archive of samples, None without classes, and what they mean, () if that is not said.

    Labels are its `arr_1`, as guided-diffusion writes them, or `labels`; names its `class_names`, or those of a
    samples.json or a classnames.txt beside it.

    Raises:
        InputError: for labels that are no whole numbers from 0, or not one for each image, names that are no text, and
            labels without a name where there are names.
    """
    given = [name for name in ("arr_1", "labels") if name in headers]
    for name in given:
        about = headers[name]
        if about.shape != (count,) or about.dtype.kind not in "iu":
            raise InputError(f"{path} has {name} {about.dtype} of shape {about.shape}; labels are integers {(count,)}")
    note = read_sample_note(path.parent) if path.name == "samples.npz" else None
    if not given or (note and note.labels is None):
        return None, ()
    arrays = [read_array(path, name) for name in given]
    for name, array in zip(given, arrays, strict=True):
        if count and not 0 <= array.min() <= array.max() < 2**31:
            raise InputError(f"{path} has {name} from {array.min()} to {array.max()}; labels are numbers from 0")
    if len(arrays) > 1 and not np.array_equal(arrays[0], arrays[1]):
        raise InputError(f"{path} has other labels in arr_1 than in labels; it must have one of them, or both alike")
    labels = torch.from_numpy(arrays[0].astype(np.int64))
    names = note.class_names if note else _class_names(path, headers)
    if names and count and int(labels.max()) >= len(names):
        raise InputError(f"{path} has labels up to {int(labels.max())}, but there are {len(names)} names of classes")
    return labels, names


def _class_names(path: Path, headers: Mapping[str, ArrayHeader]) -> tuple[str, ...]:
    if "class_names" not in headers:
        return tuple(read_class_names(path.parent / CLASS_NAMES_FILE))
    about = headers["class_names"]
    if about.dtype.kind != "U" or len(about.shape) != 1:
        raise InputError(f"{path} has class_names {about.dtype} of shape {about.shape}; they are text (K,)")
    try:
        names = [str(name) for name in read_array(path, "class_names")]
        "".join(names).encode()
    except ValueError as error:  # numbers that stand for no letter
        raise InputError(f"{path} has class_names that are no text: {first_line(error)}") from error
    return tuple(names)


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
