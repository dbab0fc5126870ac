"""What keeps the host from waiting for a GPU: what depends on values there is decided there.

A GPU works through a queue. Whoever asks for a number that is still to be computed empties it first, and it stands
still until the next operations have come.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def may_ask(device: torch.device) -> bool:
    """Whether a number of a tensor there can be read without waiting, and without breaking a graph that is compiled."""
    return device.type == "cpu" and not torch.compiler.is_compiling()


@contextmanager
def moved_only_where(moves: Tensor | None, state: Iterable[Tensor]) -> Iterator[None]:
    """What is done inside to the tensors of `state`, in place, is undone unless `moves`, a bool scalar, is true.

    Args:
        moves: on the device of the tensors, or on one that they can be moved to; None for true.
    """
    tensors = [] if moves is None else [tensor.data for tensor in state]  # no version for autograd to miss
    before = [tensor.clone() for tensor in tensors]
    yield
    for tensor, old in zip(tensors, before, strict=True):
        assert moves is not None
        tensor.copy_(torch.where(moves.to(tensor.device), tensor, old))


def count_each(indices: Tensor, number: int, dtype: torch.dtype) -> Tensor:
    """How often each of 0, ..., number - 1 is among the indices (N,), (number,); `torch.bincount` asks for the largest.

    Args:
        dtype: of the counts; float32 is exact up to 2^24.
    """
    counts = torch.zeros(number, dtype=dtype, device=indices.device)
    return counts.index_add_(0, indices, counts.new_ones(1).expand(len(indices)))
