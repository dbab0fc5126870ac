"""Work shared out by leases: who makes what, when a lease is taken over, and what a worker does that has lost it."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from wvq.tokenizer.storage import leases as module
from wvq.tokenizer.storage.leases import work_through

PARTS = [f"part-{number}" for number in range(12)]
Held = Callable[[], bool]


class Making:
    """Makes a part as a file of its name, and counts how often."""

    def __init__(self, folder: Path, seconds: float = 0.0):
        self.folder, self.seconds = folder, seconds
        self.made: list[str] = []

    def done(self, part: str) -> bool:
        return (self.folder / part).exists()

    def make(self, part: str, held: Held) -> None:
        assert held()
        self.made.append(part)
        time.sleep(self.seconds)
        (self.folder / part).touch()

    def run(self, make: Callable[[str, Held], None] | None = None) -> None:
        work_through(self.folder / "leases", PARTS, lambda part: self.done(part), make or self.make)


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.5)


def leave_lease(folder: Path, part: str, **about: object) -> Path:
    """A lease of a worker that does nothing any more."""
    (folder / "leases").mkdir(exist_ok=True)
    path = folder / "leases" / f"{part}.1"
    path.write_text(json.dumps({"machine": "elsewhere", "process": 1, "worker": "other", "renewed": 1} | about))
    return path


def run_together(makings: list[Making]) -> None:
    threads = [threading.Thread(target=making.run) for making in makings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_one_worker_makes_all_in_order_and_leaves_no_lease(tmp_path: Path) -> None:
    (tmp_path / PARTS[3]).touch()
    making = Making(tmp_path)
    making.run()
    assert making.made == [part for part in PARTS if part != PARTS[3]]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PARTS)
    making.run()
    assert len(making.made) == len(PARTS) - 1


def test_workers_make_each_part_once_between_them(tmp_path: Path) -> None:
    makings = [Making(tmp_path, seconds=0.01) for _ in range(4)]
    run_together(makings)
    assert Counter(part for making in makings for part in making.made) == Counter(PARTS)
    assert all(making.made for making in makings)
    assert not (tmp_path / "leases").exists()


def test_of_many_that_find_a_dead_worker_one_takes_over(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for part in PARTS:
        leave_lease(tmp_path, part, machine=module._machine(), process=ended.pid)
    makings = [Making(tmp_path) for _ in range(6)]
    begun = time.monotonic()
    run_together(makings)
    assert Counter(part for making in makings for part in making.made) == Counter(PARTS)
    assert not (tmp_path / "leases").exists()
    assert time.monotonic() - begun < 30, "nobody waited for each of them in turn"


def test_a_lease_that_does_not_change_is_taken_over_by_the_clock_of_who_sees_it(tmp_path: Path) -> None:
    path = leave_lease(tmp_path, PARTS[0])
    os.utime(path, (2**33, 2**33))  # a machine whose clock is centuries ahead
    making, begun = Making(tmp_path), time.monotonic()
    making.run()
    assert making.made == [*making.made[:-1], PARTS[0]]
    assert time.monotonic() - begun > 0.5
    assert not (tmp_path / "leases").exists()


def test_a_lease_that_changes_is_waited_for(tmp_path: Path) -> None:
    slow, quick = Making(tmp_path, seconds=2.0), Making(tmp_path)
    thread = threading.Thread(target=lambda: work_through(tmp_path / "leases", PARTS[:1], slow.done, slow.make))
    thread.start()
    while not list(tmp_path.glob("leases/*")):
        time.sleep(0.01)
    quick.run()
    thread.join()
    assert slow.made == PARTS[:1]
    assert sorted(quick.made) == sorted(PARTS[1:])


def test_who_has_lost_a_part_is_told_and_takes_nothing_away(tmp_path: Path) -> None:
    making = Making(tmp_path)

    def lose_the_first(part: str, held: Held) -> None:
        if part == PARTS[0] and not (tmp_path / "leases" / f"{part}.2").exists():
            (other := leave_lease(tmp_path, part)).rename(other.with_suffix(".2"))  # replaces what was there
            assert not held()
            making.done = lambda part: (tmp_path / part).exists() or part == PARTS[0]  # the other one makes it
            raise FileNotFoundError("it has cleaned up")
        making.make(part, held)

    making.run(lose_the_first)
    assert sorted(making.made) == sorted(PARTS[1:])
    assert [path.name for path in (tmp_path / "leases").iterdir()] == [f"{PARTS[0]}.2"]


@pytest.mark.parametrize("error", [FileNotFoundError, KeyboardInterrupt])
def test_a_part_that_fails_is_free_again(error: type[BaseException], tmp_path: Path) -> None:
    def fail(part: str, held: Held) -> None:
        raise error

    making = Making(tmp_path)
    with pytest.raises(error):
        making.run(fail)
    assert list(tmp_path.iterdir()) == []
    making.run()
    assert making.made == PARTS


def test_a_folder_that_others_remove_at_any_moment_stops_nobody(tmp_path: Path) -> None:
    making, ended = Making(tmp_path), threading.Event()

    def remove() -> None:
        while not ended.is_set():
            shutil.rmtree(tmp_path / "leases", ignore_errors=True)

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        for _ in range(20):
            making.run(lambda part, held: (tmp_path / part).touch())
            for part in PARTS:
                (tmp_path / part).unlink()
    finally:
        ended.set()
        thread.join()
