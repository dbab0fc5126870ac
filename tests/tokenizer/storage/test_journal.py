"""Records of a file that was cut off or damaged anywhere: those before are whole, those after are not there."""

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as some

from wvq.tokenizer.storage.journal import append_record, read_records

RECORDS = some.lists(some.binary(max_size=40), min_size=1, max_size=5)


def read_back(content: bytes) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "journal").write_bytes(content)
        return list(read_records(Path(folder) / "journal"))


def written(records: list[bytes]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        for record in records:  # each by another process
            with path.open("ab") as file:
                append_record(file, record)
        return path.read_bytes()


@given(RECORDS, some.data())
def test_what_was_cut_off_is_no_record(records: list[bytes], data: some.DataObject) -> None:
    content = written(records)
    assert read_back(content) == records
    end = data.draw(some.integers(0, len(content) - 1))
    whole = [len(written(records[:count])) for count in range(len(records) + 1)]
    assert read_back(content[:end]) == records[: sum(size <= end for size in whole) - 1]


@given(RECORDS, some.data())
def test_what_was_damaged_is_no_record(records: list[bytes], data: some.DataObject) -> None:
    content = bytearray(written(records))
    place = data.draw(some.integers(0, len(content) - 1))
    content[place] ^= data.draw(some.integers(1, 255))
    whole = [len(written(records[:count])) for count in range(len(records) + 1)]
    assert read_back(bytes(content)) == records[: sum(size <= place for size in whole) - 1]
