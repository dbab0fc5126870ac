"""Records of a file that was cut off or damaged anywhere: those before are whole, those after are not there."""

import io
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as some

from wvq.tokenizer.storage.journal import append_record, read_records

RECORDS = some.lists(some.binary(min_size=1, max_size=40), min_size=1, max_size=5)


def read_back(content: bytes) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "journal").write_bytes(content)
        return list(read_records(Path(folder) / "journal"))


def written(records: list[bytes]) -> tuple[bytes, list[int]]:
    """A journal, and where in it each record ends."""
    file, ends = io.BytesIO(), []
    for record in records:
        append_record(file, record)
        ends.append(file.tell())
    return file.getvalue(), ends


@given(RECORDS, some.data())
def test_what_was_cut_off_is_no_record(records: list[bytes], data: some.DataObject) -> None:
    content, ends = written(records)
    assert read_back(content) == read_back(content + bytes(100)) == records
    cut = data.draw(some.integers(0, len(content) - 1))
    assert read_back(content[:cut]) == records[: sum(end <= cut for end in ends)]


@given(RECORDS, some.data())
def test_what_was_damaged_is_no_record(records: list[bytes], data: some.DataObject) -> None:
    content, ends = written(records)
    place = data.draw(some.integers(0, len(content) - 1))
    damaged = bytearray(content)
    damaged[place] ^= data.draw(some.integers(1, 255))
    assert read_back(bytes(damaged)) == records[: sum(end <= place for end in ends)]
