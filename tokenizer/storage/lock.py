"""One process at a time in a folder."""

import fcntl
import os
import socket
import sys
from pathlib import Path
from typing import Self

from ..errors import InputError


class Lock:
    """The lock that a file stands for, from here until `release`, the `with` block or the process ends, however.

    It is the process that holds a POSIX lock: workers that outlive a killed one do not, and a notebook that tries a
    second time is not in its own way.

    Args:
        path: made if need be; it names the holder while there is one.
        wait: for the holder to release it, instead of raising.

    Raises:
        InputError: if another process holds the lock.
    """

    def __init__(self, path: Path, wait: bool = False):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (BlockingIOError, PermissionError) as error:
            holder = path.read_text().strip() or "another process"
            os.close(self._file)
            raise InputError(
                f"{path.parent} is in use by {holder}; wait for it, stop it, or give another folder"
            ) from error
        except OSError as error:
            print(f"{path.parent}: this file system has no locks ({error.strerror}); one run only", file=sys.stderr)
            return
        os.truncate(self._file, 0)
        os.write(self._file, f"process {os.getpid()} of {socket.gethostname()}\n".encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        os.truncate(self._file, 0)
        os.close(self._file)
