"""Work shared out by leases: workers that share a folder and nothing else, and may join and die at any time.

A lease is a file. Who makes it works on the part of its name, and writes to it now and then as long as it is at it.
Whoever sees it unchanged for `LEASE_SECONDS` by its own clock takes the part over: clocks of machines are never
compared. Nothing is locked; a file system has to make a file only if there is none (O_EXCL), as NFS does since its
version 3.

The files of a part are numbered. Who takes it over makes the next number, which one worker can, and removes those
before; so the holder is who made the highest. Leases save work and keep nothing right: who slept over its lease may
work beside who took it over. So a part has to come out the same whoever makes it, and is published by `write_once`.
"""

import functools
import json
import os
import random
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

LEASE_SECONDS = 60.0  # without a sign of life until others take a part over
_RENEWALS = 4  # of a lease in that time
_LONGEST_PAUSE = 1.0  # seconds between looks at parts that others are at
_QUIET = 5.0  # seconds of waiting before a word about it

GONE = (FileNotFoundError, FileExistsError)
"""What is raised in a folder that others remove: `mkdir` finds it there, and then not."""

Make = Callable[[str, Callable[[], bool]], None]


def work_through(folder: Path, parts: Iterable[str], done: Callable[[str], bool], make: Make) -> None:
    """Return when all parts are done, by this worker or by others that call it with the same folder.

    Where nobody else works the parts are made in order.

    Args:
        folder: of the leases, made if need be, and removed when no worker is left.
        parts: names, without "/".
        done: whether a part is; it stays so. It is seen by all workers: a file that `write_once` made, say.
        make: makes a part and publishes it. Its second argument tells whether the part is still this worker's: a long
            work asks now and then, and returns if it is not.

    Raises:
        Exception: what `make` raises; the part is then free for others. Not those of `GONE` where the lease was lost:
            who took it over has finished, and cleaned up.
    """
    worker = _Worker(folder)
    try:
        worker.work_through(parts, done, make)
    finally:
        worker.end()


class _Worker:
    """One worker, which holds a lease at most."""

    def __init__(self, folder: Path):
        self._folder, self._seconds = folder, LEASE_SECONDS
        self._about = {"machine": _machine(), "process": os.getpid(), "worker": secrets.token_hex(8)}
        self._lease: Path | None = None
        self._seen: dict[str, tuple[bytes, float]] = {}  # what a lease held, and since when
        self._random = random.Random()  # the global one belongs to the work
        self._renewing, self._ended = threading.Lock(), threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, daemon=True)
        self._heartbeat.start()

    def work_through(self, parts: Iterable[str], done: Callable[[str], bool], make: Make) -> None:
        left, idle, told = list(parts), 0.0, False
        while left:
            finished, claimed = set[str](), False
            taken = self._taken()
            if taken:  # else workers that begin together would all try the same
                self._random.shuffle(left)
                left.sort(key=taken.__contains__)
            for part in left:
                if done(part):
                    finished.add(part)
                elif self._claim(part, taken.get(part, 0)):
                    try:
                        if not done(part):  # as it may be since
                            make(part, self._renew)
                    except GONE:
                        if self._renew():
                            raise
                    finally:
                        self._release()
                    idle, claimed = 0.0, True
                    break
            left = [part for part in left if part not in finished]
            if left and not claimed:
                pause = min(_LONGEST_PAUSE, 0.02 + idle / 4)
                time.sleep(pause)
                idle += pause
                if idle > _QUIET and not told:
                    print(f"{self._folder}: waiting for others that are at {left[0]}", file=sys.stderr)
                    told = True

    def end(self) -> None:
        self._ended.set()
        self._heartbeat.join()
        self._release()
        with suppress(OSError):  # others are there, or have removed it
            self._folder.rmdir()

    def _taken(self) -> dict[str, int]:
        """The highest number of a lease, for each part that has one."""
        taken: dict[str, int] = {}
        with suppress(*GONE):  # all is done
            self._folder.mkdir(parents=True, exist_ok=True)
            for name in os.listdir(self._folder):
                part, _, number = name.rpartition(".")
                if number.isdecimal():  # no file that NFS keeps for a while after its end
                    taken[part] = max(int(number), taken.get(part, 0))
        return taken

    def _claim(self, part: str, number: int) -> bool:
        if number and not self._is_abandoned(f"{part}.{number}"):
            return False
        path, content = self._folder / f"{part}.{number + 1}", self._sign_of_life()
        try:
            with self._renewing, path.open("xb", buffering=0) as file:  # who dies before it writes is waited for
                self._lease = path
                file.write(content)
        except (FileExistsError, FileNotFoundError):  # somebody was quicker, or all is done
            return False
        highest = self._taken().get(part, 0)
        if highest != number + 1:  # `number` was seen before others took it over, and ended
            self._release()
            return False
        for older in range(1, number + 1):
            (self._folder / f"{part}.{older}").unlink(missing_ok=True)
        return True

    def _is_abandoned(self, name: str) -> bool:
        """Whether a lease has not changed for as long as leases last, or its process is known to be dead."""
        try:
            content, now = (self._folder / name).read_bytes(), time.monotonic()
        except FileNotFoundError:
            return False
        before, since = self._seen.setdefault(name, (content, now))
        if before != content:
            self._seen[name] = (content, now)
            return False
        return now - since > self._seconds or _is_dead(content)

    def _beat(self) -> None:
        while not self._ended.wait(self._seconds / _RENEWALS):
            self._renew()

    def _renew(self) -> bool:
        """Show that this worker is alive; whether its part is still its own."""
        with self._renewing:
            if self._lease is None:
                return False
            try:
                with self._lease.open("r+b") as file:  # never makes it anew
                    if json.loads(file.read())["worker"] == self._about["worker"]:
                        file.seek(0)
                        file.write(self._sign_of_life())
                        return True
            except (FileNotFoundError, ValueError):
                pass
            except OSError:  # a file system that has trouble; if it lasts, others take over
                return True
            self._lease = None
            return False

    def _release(self) -> None:
        if self._renew():
            with self._renewing:
                assert self._lease is not None
                self._lease.unlink(missing_ok=True)
                self._lease = None

    def _sign_of_life(self) -> bytes:
        """Of the same length always, as it is written over what is there."""
        return json.dumps(self._about | {"renewed": secrets.token_hex(8)}).encode()


@functools.cache
def _machine() -> str:
    """This machine since it was started, and the processes that see each other; "" where that is not known."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    return ""


def _is_dead(content: bytes) -> bool:
    """Whether a lease is of a process of this machine that has ended: nobody needs to wait for it."""
    with suppress(ValueError, KeyError, TypeError, PermissionError):
        about = json.loads(content)
        if about["machine"] == _machine() != "":
            try:
                os.kill(about["process"], 0)  # sends nothing
            except ProcessLookupError:
                return True
    return False
