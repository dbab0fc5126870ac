"""One process at a time in a folder."""

import errno
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from ..errors import InputError

_LOCKED_BYTES = 1  # at the start of the file, which on Windows nobody else can read or cut off
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class Lock:
    """The lock that a file stands for, until `release`, the end of the `with` block or of the process, however it ends.

    It is the process that holds it: workers that outlive a killed one do not, and a notebook that tries a second time
    is not in its own way.

    Args:
        path: made if need be; it names the holder while there is one.
        wait: for the holder to release it, instead of raising.

    Raises:
        InputError: if another process holds the lock.
        OSError: if the file cannot be made.
    """

    def __init__(self, path: Path, wait: bool = False):
        # One instance a path, shared by all threads, so that the process is not in its own way. Without flock filelock
        # would fall back to a file whose existence is the lock, and which a killed process leaves behind.
        self._lock = FileLock(
            path.absolute(),
            is_singleton=True,
            thread_local=False,
            fallback_to_soft=False,
            preserve_lock_file=True,
            on_acquired=_write_holder,
        )
        try:
            self._lock.acquire(blocking=wait)
        except Timeout as error:
            raise InputError(
                f"{path.parent} is in use by {_read_holder(path)}; wait for it, stop it, or give another folder"
            ) from error
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            print(f"{path.parent}: this file system has no locks ({error.strerror}); one run only", file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        if self._lock.is_locked:
            with suppress(FileNotFoundError):  # removed by somebody else
                os.truncate(self._lock.lock_file, _LOCKED_BYTES)
        self._lock.release(force=True)  # for the whole process, however many attempts it made


def _write_holder(file: int) -> None:
    os.ftruncate(file, 0)
    os.write(file, b"\n" * _LOCKED_BYTES + f"process {os.getpid()} of {socket.gethostname()}\n".encode())


def _read_holder(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(_LOCKED_BYTES)
        return file.read().decode().strip() or "another process"
