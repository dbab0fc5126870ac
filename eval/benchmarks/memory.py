"""The most memory that a block of code needed beyond what was there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class PeakMemory:
    """Bytes at the peak over those at the start of the block; known after it."""

    bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Measure the block: allocated memory of a GPU; resident memory of the process on a CPU (Linux; 0 elsewhere)."""
    peak = PeakMemory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
    elif _CLEAR.exists():
        _CLEAR.write_text("5")  # sets the peak of the resident memory back to its present value
        before = _resident("VmRSS")
        yield peak
        peak.bytes = max(0, _resident("VmHWM") - before)
    else:
        yield peak


def _resident(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
