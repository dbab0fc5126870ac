"""Which phase of a step a training loop is in, told to what measures it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Phase = Literal["data", "host", "forward", "backward", "optimizer", "other"]

_listeners: list[Callable[[Phase], None]] = []


def enter(phase: Phase) -> None:
    """Say that a phase begins, with which the one before it ends. A step begins with "data", the wait for its batch;
    "host" is what is done to the batch before the model sees it, "other" what follows the update."""
    for listener in _listeners:
        listener(phase)


@contextmanager
def listening(listener: Callable[[Phase], None]) -> Iterator[None]:
    """Inside, the listener is told the phases of the loops of this process."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
