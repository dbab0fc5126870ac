"""Parquet files as a stream: their row groups, each read whole when its turn has come."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from ..errors import InputError
from ..storage.untrusted import first_line
from .decoding import BadImage
from .names import Label, as_label
from .tables import UNREADABLE

MAX_ROW_GROUP_BYTES = 2**28  # `POOL_SHARDS` of them are in the memory of each process that decodes


@dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file.

    Attributes:
        path, number: file and place in it.
        columns: of the images, and of the labels if there are any.
        status: size and time of the file when it was listed.
        count: rows.
        digest: of the file's name, size and footer (which has the place and size of every column), and the number.
    """

    path: Path
    number: int
    columns: tuple[str, ...]
    status: tuple[int, int]
    count: int
    digest: str

    def __len__(self) -> int:
        return self.count

    def open(self) -> "OpenRowGroup":
        return OpenRowGroup(self)


class OpenRowGroup:
    """The rows of a row group, in memory.

    Raises:
        InputError: if the file is gone, or another than when it was listed.
    """

    def __init__(self, group: RowGroup):
        self._place = f"row group {group.number} of {group.path}"
        try:
            status = os.stat(group.path)
            if (status.st_size, status.st_mtime_ns) != group.status:
                raise InputError(f"{group.path} has changed since it was listed")
            # Without threads: those of Arrow do not survive the fork of a worker process.
            with pq.ParquetFile(group.path, pre_buffer=False) as file:
                table = file.read_row_group(group.number, columns=list(group.columns), use_threads=False)
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(f"{group.path} cannot be read: {first_line(error)}") from error
        self._images = table[group.columns[0]]
        self._labels = table[group.columns[1]] if len(group.columns) > 1 else None

    def content(self, row: int) -> bytes:
        cell = self._images[row].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if content is None:
            raise BadImage("the table has no bytes")
        return content

    def name(self, row: int) -> str:
        cell = self._images[row].as_py()
        path = cell.get("path") if isinstance(cell, dict) else None
        return f"row {row} of {self._place}" + (f" ({path})" if path else "")

    def label(self, row: int) -> Label:
        return None if self._labels is None else as_label(self._labels[row].as_py())


def list_parquet(files: Sequence[Path], columns: tuple[str, ...]) -> tuple[list[RowGroup], set[Label]]:
    """(row groups, all labels), of the column of images and, if there is one, of labels.

    Raises:
        InputError: for files that cannot be read, and row groups that are too large to be held in memory.
    """
    groups: list[RowGroup] = []
    labels: set[Label] = set()
    for path in files:
        try:
            status = os.stat(path)
            stamp = (status.st_size, status.st_mtime_ns)
            with pq.ParquetFile(path, pre_buffer=False) as file:
                if len(columns) > 1:
                    for batch in file.iter_batches(columns=list(columns[1:]), use_threads=False):
                        labels.update(map(as_label, batch.column(0).unique().to_pylist()))
                digest = hashlib.sha256(f"{path.name} {status.st_size} ".encode() + _footer(path)).hexdigest()
                for number in range(file.num_row_groups):
                    group = file.metadata.row_group(number)
                    if group.total_byte_size > MAX_ROW_GROUP_BYTES:
                        raise InputError(
                            f"row group {number} of {path} has {group.total_byte_size:,} bytes, more than the "
                            f"{MAX_ROW_GROUP_BYTES:,} that a stream holds; write it with smaller row groups"
                        )
                    groups.append(RowGroup(path, number, columns, stamp, group.num_rows, f"{digest}-{number}"))
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(f"{path}: cannot be read as parquet: {first_line(error)}") from error
    return groups, labels


def _footer(path: Path) -> bytes:
    """The metadata at the end of a Parquet file, which has been opened as one before."""
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, os.SEEK_END)
        return file.read(length)
