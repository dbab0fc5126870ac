"""Where the time of a training step goes: what `wvq benchmark training --profile true` prints.

The loop of the training itself says which phase it is in, and torch.profiler what ran meanwhile. Of forward, backward
and optimizer counts the time in which something computes: operations of torch on a CPU, kernels on a GPU. What is left
of them is collective, where processes exchange tensors and nothing computes beside it, or host: Python between the
operations, and what is no operation of torch, such as a search on the CPU. So the parts add up to the step.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from wvq.pipelines.processes import this_device
from wvq.pipelines.training.config import TrainingConfig
from wvq.pipelines.training.phases import Phase, listening

from .peak_flops import matrix_precision, peak_flops

MOST_PROFILED = 20  # steps: each has thousands of events
PARTS = ("data", "host", "forward", "backward", "optimizer", "collective", "other")
_COMPUTING = ("forward", "backward", "optimizer")
_COLLECTIVE = ("c10d::", "_c10d_functional::", "gloo:", "nccl")
_LABEL = "phase of a step: "

Spans = npt.NDArray[np.float64]


def profile_steps(train: Callable[[Any], Any], training: TrainingConfig) -> dict[str, Any]:
    """Run a training and return what its steps took: "seconds" each, and of those that were profiled their "parts".

    The first `log_every` steps pass, the next are profiled, at most `MOST_PROFILED`; at least as many are only timed.
    """
    profiler = StepProfiler(training.log_every, min(MOST_PROFILED, (training.steps - training.log_every) // 2))
    with listening(profiler):
        train(training)
    device, precision = this_device(), matrix_precision(training.mixed_precision)
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    peak, rate = peak_flops(name, precision), profiler.flops / profiler.seconds
    return {
        "device": name,
        "seconds": profiler.seconds,
        "parts": profiler.parts(),
        "flops": profiler.flops,
        "flops_per_second": rate,
        "precision": precision,
        "utilization": rate / peak if peak else None,
    }


def profile_table(rows: dict[str, dict[str, Any]]) -> str:
    """Rows of `profile_steps` by stage, as text: milliseconds and shares of the profiled step."""
    lines = [f"{'':<16}" + "".join(f"{stage:>20}" for stage in rows)]
    for part in (*PARTS, "step"):
        cells = [(row["parts"][part], row["parts"][part] / row["parts"]["step"]) for row in rows.values()]
        lines.append(f"{part:<16}" + "".join(f"{1e3 * seconds:>11.2f} ms {share:>5.1%}" for seconds, share in cells))
    lines.append(
        f"{'unprofiled step':<16}" + "".join(f"{1e3 * row['seconds']:>11.2f} ms      " for row in rows.values())
    )
    lines.append(f"{'GFLOP a step':<16}" + "".join(f"{row['flops'] / 1e9:>11.2f}         " for row in rows.values()))
    lines.append(
        f"{'TFLOP/s':<16}" + "".join(f"{row['flops_per_second'] / 1e12:>11.3f}         " for row in rows.values())
    )
    known = ["unknown" if (share := row["utilization"]) is None else f"{share:.1%}" for row in rows.values()]
    lines.append(f"{'utilization':<16}" + "".join(f"{share:>11}         " for share in known))
    devices = {f"{row['device']}, {row['precision']}" for row in rows.values()}
    return "\n".join([line.rstrip() for line in lines] + [f"on {', '.join(sorted(devices))}"])


class StepProfiler:
    """Listens to the phases of a training loop: the first steps pass, some are profiled, the others only timed.

    While it profiles the device ends a phase before the next begins, which costs time of its own; how much is seen
    beside the steps that are only timed.

    Args:
        skipped: steps before anything is measured; the floating-point operations of the last are counted.
        profiled: steps that are.

    Attributes:
        flops: floating-point operations of a step, of matrix products, convolutions and attention, in this process.
        wall_clock: seconds of a profiled step, by another clock than the profiler's.
    """

    def __init__(self, skipped: int, profiled: int):
        self.skipped, self.profiled = skipped, profiled
        self.flops, self.wall_clock = 0, 0.0
        self._begun: list[float] = []  # when each step did
        self._on_gpu = this_device().type != "cpu"
        self._counter: FlopCounterMode | None = None
        self._profile: profile | None = None
        self._label: record_function | None = None

    def __call__(self, phase: Phase) -> None:
        """The loop enters a phase."""
        self._close_label()
        if phase == "data":
            self._begun.append(time.perf_counter())
            if len(self._begun) == self.skipped + 1:
                activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * torch.cuda.is_available()]
                self._profile = profile(activities=activities)
                self._profile.start()
                self._begun[-1] = time.perf_counter()
            elif len(self._begun) == self.skipped + self.profiled + 1 and self._profile is not None:
                self.wall_clock = (self._begun[-1] - self._begun[self.skipped]) / self.profiled
                self._profile.stop()
                self._begun[-1] = time.perf_counter()
        self._count_operations(phase)
        if self.skipped < len(self._begun) <= self.skipped + self.profiled:
            self._label = record_function(_LABEL + phase)
            self._label.__enter__()

    def _close_label(self) -> None:
        if self._label is not None:
            if self._on_gpu:
                torch.accelerator.synchronize()
            self._label.__exit__(None, None, None)
            self._label = None

    def _count_operations(self, phase: Phase) -> None:
        if phase == "forward" and len(self._begun) == self.skipped and self._counter is None:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()
        elif phase == "optimizer" and self._counter is not None and not self.flops:
            self._counter.__exit__(None, None, None)
            self.flops = self._counter.get_total_flops()

    @property
    def seconds(self) -> float:
        """Seconds of a step that was only timed, the median."""
        return statistics.median(np.diff(self._begun[self.skipped + self.profiled :]).tolist())

    def parts(self) -> dict[str, float]:
        """Seconds of a profiled step, by `PARTS`; they add up to `step`, which is among them."""
        assert self._profile is not None
        events: Any = self._profile.events()
        labels, compute, collective = [], [], []
        device = "CUDA" if self._on_gpu else "CPU"
        for event in events:
            span = (event.time_range.start, event.time_range.end)
            if event.name.startswith(_LABEL) and event.device_type.name == "CPU":
                labels.append((event.name.removeprefix(_LABEL), *span))
            elif event.device_type.name == device and event.name.startswith(_COLLECTIVE):
                collective.append(span)
            elif event.device_type.name == device and self._computes(event):
                compute.append(span)
        total = max(end for _, _, end in labels) - min(start for _, start, _ in labels)
        parts = divide(labels, compute, collective, total)
        return {name: seconds / 1e6 / self.profiled for name, seconds in parts.items()}

    def _computes(self, event: Any) -> bool:
        return not event.is_user_annotation if self._on_gpu else event.name.startswith("aten::")


def divide(
    labels: Sequence[tuple[str, float, float]],
    compute: Sequence[tuple[float, float]],
    collective: Sequence[tuple[float, float]],
    total: float,
) -> dict[str, float]:
    """Time by `PARTS`, and their sum, `step`.

    Args:
        labels: phase, beginning and end; they do not overlap.
        compute, collective: beginnings and ends of what computes, and of what is exchanged.
        total: time of all steps; what no label covers is "other".
    """
    parts: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    busy, either = union(compute), union([*compute, *collective])
    for name, start, end in labels:
        if name in _COMPUTING:
            computing = covered(busy, start, end)
            exchanging = covered(either, start, end) - computing
            parts[name] += computing
            parts["collective"] += exchanging
            parts["host"] += end - start - computing - exchanging
        elif name != "other":
            parts[name] += end - start
    parts["other"] = total - sum(parts.values())
    return {**parts, "step": total}


def union(spans: Sequence[tuple[float, float]]) -> Spans:
    """(N, 2) beginnings and ends, in order, of what any of these spans covers."""
    if not spans:
        return np.zeros((0, 2))
    starts, ends = np.array(sorted(spans), np.float64).T
    ends = np.maximum.accumulate(ends)
    first = np.append(True, starts[1:] > ends[:-1])
    return np.stack([starts[first], ends[np.append(first[1:], True)]], axis=1)


def covered(spans: Spans, start: float, end: float) -> float:
    """How much of a span these cover, which do not overlap."""
    return float((spans.clip(start, end) @ [-1.0, 1.0]).sum())
