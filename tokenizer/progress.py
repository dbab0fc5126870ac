"""Bars of progress: drawn over again on a terminal, a line now and then where there is none."""

import math
import sys
import time
from typing import Any

from tqdm import tqdm

LINE_SECONDS = 30.0  # between two lines of a bar where the output is no terminal
_line: int | None = None  # of the terminal, on which this process draws beside others


def progress_bar(*arguments: Any, **options: Any) -> tqdm:
    """A bar with the arguments of tqdm.

    A log file would otherwise hold every state of it, thousands of them in a single line.
    """
    stream = options.get("file") or sys.stderr
    if not stream.isatty():
        return _Lines(*arguments, **options | {"file": stream, "leave": True})
    return tqdm(*arguments, **{"file": stream, "position": _line or None, "dynamic_ncols": True} | options)


def duration_in_words(seconds: float) -> str:
    """About how long that is: "40 seconds", "12 minutes", "31 hours", "5 days"."""
    units = (("second", 1, 90), ("minute", 60, 90), ("hour", 3600, 72), ("day", 86400, math.inf))
    unit, size = next((unit, size) for unit, size, most in units if seconds < most * size)
    count = max(1, round(seconds / size))
    return f"{count:,} {unit}{'s' if count > 1 else ''}"


def draw_on_line(number: int) -> None:
    """Have the bars of this process drawn on a line of their own, one of several that share a terminal."""
    global _line
    _line = number


def shares_output() -> bool:
    """Whether other processes write where this one does, so that what it says has to say of what."""
    return _line is not None


class _Lines(tqdm):
    """The state in a line of its own at the start, at the end, and every `LINE_SECONDS` between."""

    _said = -math.inf

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        closing, now = self.disable, time.monotonic()  # `close` disables it, and adds the end of the line
        if closing or now - self._said >= LINE_SECONDS:
            self._said = now
            self.fp.write(f"{self}{'' if closing else chr(10)}")
            self.fp.flush()
        return True

    def clear(self, nolock: bool = False) -> None:
        """There is nothing to be cleared."""

    @classmethod
    def write(cls, s: str, file: Any = None, end: str = "\n", nolock: bool = False) -> None:
        print(s, file=file or sys.stdout, end=end)
