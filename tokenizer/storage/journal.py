"""Records appended to a file one after the other, each of them whole or as good as not there."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_HEAD = struct.Struct("<QI")  # bytes of the record that follows, and its crc32


def append_record(file: BinaryIO, content: bytes) -> None:
    """Append a record, at least a byte, to an open file, and hand it to the system: a killed process keeps it.

    It may be gone after a power failure, which costs no more than making it again.
    """
    file.write(_HEAD.pack(len(content), zlib.crc32(content)) + content)
    file.flush()


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a file, up to the first that was cut off or is damaged."""
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            if not 0 < length < path.stat().st_size:  # zeros are what a power failure leaves
                return
            content = file.read(length)
            if len(content) < length or zlib.crc32(content) != checksum:
                return
            yield content
