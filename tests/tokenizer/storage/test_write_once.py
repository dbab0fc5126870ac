"""A file that several processes write: one of them does, and nobody sees a part of it."""

import errno
import os
import threading
from pathlib import Path

import pytest

from wvq.tokenizer.storage.atomic import write_once


@pytest.fixture(params=[None, errno.EPERM, errno.EOPNOTSUPP])
def scratch(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a file system with and without hard links."""
    if request.param:

        def refuse(*paths: Path) -> None:
            raise OSError(request.param, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def test_the_first_writer_stays(scratch: Path, tmp_path: Path) -> None:
    write_once(tmp_path / "file", b"first", scratch)
    before = (tmp_path / "file").stat()
    write_once(tmp_path / "file", b"second", scratch, synchronized=False)
    assert (tmp_path / "file").read_bytes() == b"first"
    assert (tmp_path / "file").stat() == before
    assert list(scratch.iterdir()) == []


def test_who_finds_that_all_was_cleaned_up_writes_nothing(scratch: Path, tmp_path: Path) -> None:
    scratch.rmdir()
    with pytest.raises(FileNotFoundError, match="file"):
        write_once(tmp_path / "file", b"late", scratch)
    assert list(tmp_path.iterdir()) == []


def test_the_file_gets_the_rights_of_any_other(scratch: Path, tmp_path: Path) -> None:
    write_once(tmp_path / "file", b"", scratch)
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_many_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]
    for name in map(str, range(10)):
        threads = [threading.Thread(target=write_once, args=(tmp_path / name, c, tmp_path, False)) for c in contents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (tmp_path / name).read_bytes() in contents
    assert len(list(tmp_path.iterdir())) == 10
