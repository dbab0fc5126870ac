"""Sums and rows over all processes; with one process, the input itself."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from .errors import InputError

Result = TypeVar("Result")


def num_processes() -> int:
    """How many processes work together; 1 before they have found each other."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Which of `num_processes` this one is, from 0."""
    return dist.get_rank() if num_processes() > 1 else 0


def _several() -> bool:
    return num_processes() > 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of a tensor of one shape over all processes; a collective call."""
    if not _several():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor that is sharded over processes put together, by a collective call; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def minimum_over_processes(tensor: Tensor) -> Tensor:
    """The elementwise minimum of a tensor of one shape over all processes; a collective call."""
    if not _several():
        return tensor
    least = tensor.clone()
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return least


def rows_of_all_processes(rows: Tensor) -> Tensor:
    """The rows (N, ...) of all processes one after the other, by rank; N may differ. A collective call."""
    if not _several():
        return rows
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    sizes = [int(count) for count in counts]
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])


def on_first_process(function: Callable[[], Result], group: dist.ProcessGroup | None = None) -> Result:
    """Call a function on the first process alone; its result, a small one, on all. A collective call.

    Args:
        function: what is called.
        group: of all processes, for a thread that is not to meet the collective calls of another.

    Raises:
        InputError, OSError: on all processes alike, if the function raises it; one that stopped alone would leave the
            others waiting.
    """
    if not _several():
        return function()
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = function()
        except (InputError, OSError) as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, group=group)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def on_every_process(function: Callable[[], Result], group: dist.ProcessGroup | None = None) -> Result:
    """Call a function on each process, for its share of some work; each has its own result. A collective call.

    Args:
        function: what is called.
        group: as in `on_first_process`.

    Raises:
        InputError, OSError: on all processes alike, if the function raises it on one: that of the first of them by
            rank. A share may be empty or hold the one bad image; who stopped alone would leave the others waiting.
    """
    if not _several():
        return function()
    result: Result | None = None
    error: Exception | None = None
    try:
        result = function()
    except (InputError, OSError) as raised:
        error = raised
    errors: list[Exception | None] = [None] * dist.get_world_size()
    dist.all_gather_object(errors, error, group=group)
    if (first := next((raised for raised in errors if raised is not None), None)) is not None:
        raise first
    return cast(Result, result)


def from_every_process(function: Callable[[], Result], group: dist.ProcessGroup | None = None) -> list[Result]:
    """`on_every_process`, with the results of all, small ones, by rank."""
    own = on_every_process(function, group)
    if not _several():
        return [own]
    results: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(results, own, group=group)
    return results
