"""Sums and rows over all processes; with one process, the input itself."""

import torch
import torch.distributed as dist
from torch import Tensor


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of a tensor of one shape over all processes; a collective call."""
    if not _several():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


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
