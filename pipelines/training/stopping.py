"""Signals that stop a run after the step it is in."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from accelerate import Accelerator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # Ctrl-C, and what schedulers send ahead of the end
SAME_SIGNAL_SECONDS = 2.0  # a launcher passes on to its processes what they have been sent already


class StopRequest:
    """Set by the first of `SIGNALS` at any process; the loop saves after the step it is in, then calls `exit`."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.signal_number = 0

    def requested(self) -> bool:
        """Whether to stop, the same answer on every process: one that stopped alone would leave the others waiting."""
        if self.accelerator.num_processes > 1:
            numbers = torch.tensor([self.signal_number], device=self.accelerator.device)
            self.signal_number = int(self.accelerator.gather(numbers).max())  # pyright: ignore[reportAttributeAccessIssue]
        return self.signal_number > 0

    def exit(self, step: int) -> NoReturn:
        """End the program with the signal's exit code (128 + its number)."""
        if self.accelerator.is_main_process:
            print(f"stopped after step {step}; the same command resumes from there", file=sys.stderr)
        raise SystemExit(128 + self.signal_number)


@contextmanager
def stop_request(accelerator: Accelerator) -> Iterator[StopRequest]:
    """Turn `SIGNALS` into a request to stop after the current step; a second one, later on, stops at once."""
    request = StopRequest(accelerator)
    asked_at = 0.0

    def ask(number: int, frame: Any) -> None:
        nonlocal asked_at
        if not asked_at:
            request.signal_number, asked_at = number, time.monotonic()
        elif time.monotonic() - asked_at >= SAME_SIGNAL_SECONDS:
            restore()
            signal.raise_signal(number)

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    previous: dict[int, Any] = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield request
    finally:
        restore()
