"""The lock of a folder: whose it is, when it ends, and what stands in nobody's way."""

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.lock import Lock

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12; the children only wait


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / ".lock"


@pytest.fixture
def forked() -> Iterator[Callable[[Callable[[], object]], int]]:
    """Starts a process that does something and then waits; it is killed at the end."""
    processes: list[int] = []

    def start(work: Callable[[], object]) -> int:
        reading, writing = os.pipe()
        if not (process := os.fork()):
            try:
                kept = work()
                os.write(writing, b"done" if kept else b"fail")
                signal.pause()
            finally:
                os._exit(1)
        processes.append(process)
        assert os.read(reading, 4) == b"done"
        return process

    yield start
    for process in processes:
        end(process)


def end(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_the_holder_is_named_and_its_end_is_the_locks_end(path: Path, forked: Callable[..., int]):
    holder = forked(lambda: Lock(path))
    with pytest.raises(InputError, match=rf"run is in use by process {holder} of {os.uname().nodename}; wait for it"):
        Lock(path)
    end(holder)
    with Lock(path):
        pass


def test_a_worker_that_outlives_a_killed_holder_does_not_hold_the_lock(path: Path, forked: Callable[..., int]):
    reading, writing = os.pipe()

    def hold_and_fork() -> Lock:
        lock = Lock(path)
        if not (worker := os.fork()):
            signal.pause()
        os.write(writing, f"{worker}\n".encode())
        return lock

    holder = forked(hold_and_fork)
    worker = int(os.read(reading, 20))
    try:
        with pytest.raises(InputError, match=f"process {holder} of"):
            Lock(path)  # what the worker was given and closed is still the holder's
        end(holder)
        with Lock(path):
            os.kill(worker, 0)  # it is there
    finally:
        os.kill(worker, signal.SIGKILL)


def test_with_wait_it_is_waited_for(path: Path, forked: Callable[..., int]):
    holder = forked(lambda: Lock(path))
    threading.Timer(0.3, end, [holder]).start()
    with Lock(path, wait=True):
        assert path.read_text().strip().startswith(f"process {os.getpid()} of ")
    assert not path.read_text().strip()  # nobody's


def test_a_process_is_not_in_its_own_way(path: Path, forked: Callable[..., int]):
    kept = Lock(path)
    others: list[Lock] = []
    thread = threading.Thread(target=lambda: others.append(Lock(path)))
    thread.start()
    thread.join()
    with Lock(path, wait=True):
        pass
    forked(lambda: Lock(path))  # free: the process has released it, whatever its other attempts keep
    assert others
    kept.release()


def test_a_file_system_without_locks_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def flock(file: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with Lock(path):
        assert "run: this file system has no locks (Function not implemented); one run only" in capsys.readouterr().err


def test_what_is_wrong_beside_locks_is_raised(path: Path):
    path.parent.write_bytes(b"a file where the folder should be")
    with pytest.raises(FileExistsError):
        Lock(path)
