"""Seconds by stage, kept in a file so that they add up over interruptions."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import read_json

Item = TypeVar("Item")


class Clock:
    """Adds up seconds under names.

    Args:
        path: JSON file in which the sums are kept.
    """

    def __init__(self, path: Path):
        self.path = path
        self.seconds: dict[str, float] = read_json(path) if path.exists() else {}

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a sum and keep it."""
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 3)
        write_json(self.path, self.seconds)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the duration of the block, if it ends without an exception."""
        started = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - started)

    def each(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items as they come; the time spent on making them, not on what is done with them, is added at the end."""
        total, started = 0.0, time.perf_counter()
        for item in items:
            total += time.perf_counter() - started
            yield item
            started = time.perf_counter()
        self.add(name, total)
