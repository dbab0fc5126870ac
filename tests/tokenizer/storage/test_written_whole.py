"""A folder written whole: into a new one at once, into one that exists entry by entry, so that it stays that folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wvq.tokenizer import InputError
from wvq.tokenizer.storage import atomic
from wvq.tokenizer.storage.atomic import check_output_folder, write_file, written_whole
from wvq.tokenizer.storage.untrusted import user_path


def write(target: Path, **content: str) -> None:
    with written_whole(target) as new:
        for name, text in content.items():
            (new / name).mkdir()
            (new / name / "file").write_text(text)


def write_and_fail(target: Path) -> None:
    with written_whole(target) as new:
        (new / "a").mkdir()
        raise KeyError


def read(target: Path) -> dict[str, str]:
    return {path.name: (path / "file").read_text() for path in target.iterdir()}


def test_a_new_folder(tmp_path: Path):
    write(tmp_path / "deep" / "out", a="1", b="2")
    assert read(tmp_path / "deep" / "out") == {"a": "1", "b": "2"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_a_folder_that_exists_stays_the_same_folder(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir(mode=0o750)
    before = out.stat()
    write(out, a="1", b="2")
    write(out, a="3", b="4", c="5")
    assert read(out) == {"a": "3", "b": "4", "c": "5"}
    assert (out.stat().st_ino, out.stat().st_mode) == (before.st_ino, before.st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    write(tmp_path / "out", a="1")
    assert read(tmp_path / "disk") == {"a": "1"}
    assert (tmp_path / "out").is_symlink()


def test_what_would_be_lost_and_a_failure_change_nothing(tmp_path: Path):
    out = tmp_path / "out"
    write(out, a="1", own="2")
    with pytest.raises(InputError, match=r"out would be replaced, but holds 'own' as well"):
        write(out, a="3")
    with pytest.raises(KeyError):
        write_and_fail(out)
    assert read(out) == {"a": "1", "own": "2"}


def test_entries_that_were_moved_are_moved_back_if_another_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    write(out, a="1", b="2")
    replace = os.replace

    def refuse(source: Path, goal: Path) -> None:
        if Path(goal) == out / "b" and Path(source).parent.name == "new":
            raise OSError(18, "Invalid cross-device link")
        replace(source, goal)

    monkeypatch.setattr(atomic.os, "replace", refuse)
    with pytest.raises(OSError, match="cross-device"):
        write(out, a="3", b="4", c="5")
    assert read(out) == {"a": "1", "b": "2"}


def test_what_a_killed_process_left_is_no_content(tmp_path: Path):
    out = tmp_path / "out"
    (out / ".out-abc.partial" / "new").mkdir(parents=True)
    write(out, a="1")
    check_output_folder(out, ["a"])
    assert (out / "a" / "file").read_text() == "1"


@pytest.mark.skipif(not hasattr(os, "unshare") and not shutil.which("unshare"), reason="mounts need Linux's unshare")
def test_a_mount_point(tmp_path: Path):
    (tmp_path / "out").mkdir()
    program = (
        "import sys; from pathlib import Path; from wvq.tokenizer.storage.atomic import written_whole\n"
        "for text in '12':\n"
        "    with written_whole(Path('out')) as new: (new / 'a').write_text(text)\n"
        "print(Path('out/a').read_text(), sorted(p.name for p in Path('out').iterdir()), Path('out').is_mount())"
    )
    script = f'mount -t tmpfs none out && exec {sys.executable} -c "$0"'
    command = ["unshare", "-r", "-m", "sh", "-c", script, program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"nothing may be mounted here: {done.stderr.strip()}")
    assert done.stdout == "2 ['a'] True\n", done.stderr


def test_an_output_folder_is_checked_before_the_work(tmp_path: Path):
    check_output_folder(tmp_path / "new" / "one", ["a"])
    write(tmp_path / "out", a="1")
    check_output_folder(tmp_path / "out", ["a", "b"])
    with pytest.raises(InputError, match="holds 'a' as well"):
        check_output_folder(tmp_path / "out", ["b"])
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="file is a file; give a folder"):
            check_output_folder(path, ["a"])
    with pytest.raises(InputError, match="file is a file; give a folder"):
        write(tmp_path / "file", a="1")


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(atomic.os, "access", lambda path, mode: False)  # as for a user other than root
    with pytest.raises(InputError, match="cannot be written to; give another folder"):
        check_output_folder(tmp_path / "out", ["a"])


def test_a_link_stays_a_link_and_what_it_leads_to_is_written(tmp_path: Path):
    (tmp_path / "scores").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "scores" / "file")
    write_file(tmp_path / "link", b"1")
    write_file(tmp_path / "link", b"2")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "scores" / "file").read_bytes() == b"2"
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["file"]


def test_what_is_no_file_is_written_and_not_replaced(tmp_path: Path):
    """As /dev/null and /dev/stdout are."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_file(pipe, b"scores")
    assert os.read(reader, 100) == b"scores"
    os.close(reader)
    assert pipe.is_fifo()
    code = "from pathlib import Path; from wvq.tokenizer.storage.atomic import write_file; "
    code += "write_file(Path('/dev/stdout'), b'scores')"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout == b"scores"


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write(Path("~/out"), a="1")
    write_file(Path("~/deep/file"), b"2")
    assert read(tmp_path / "home" / "out") == {"a": "1"}
    assert (tmp_path / "home" / "deep" / "file").read_bytes() == b"2"
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    with pytest.raises(InputError, match="~nobody-of-that-name/x"):
        user_path("~nobody-of-that-name/x")
