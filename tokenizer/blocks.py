"""Batches computed in blocks of one size, so that a row's result does not depend on how many rows there are.

The last bits of a matrix product or convolution depend on the number of rows, not on what the other rows hold or on
where in the batch a row is. So a batch is cut into blocks, and the last one is filled up.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def full_block_size(device: torch.device) -> int:
    """Enough rows for nearly full speed, few enough that the last block does not wait for many that fill it up."""
    return 16 if device.type == "cpu" else 64


def padded_blocks(count: int, block_size: int, device: torch.device) -> list[Tensor]:
    """Row numbers (block_size,) of each block of `count` rows; the last row is repeated as often as needed."""
    padded = -(-count // block_size) * block_size
    return list(torch.arange(padded, device=device).clamp(max=count - 1).split(block_size))


def in_blocks(function: Callable[[Tensor], Tensor], rows: Tensor, block_size: int | None = None) -> Tensor:
    """function (block_size, ...) -> (block_size, ...) of rows (N, ...), N >= 1, block by block; (N, ...).

    Args:
        block_size: by default all rows, as many as fill a block of the device.
    """
    block_size = block_size or min(len(rows), full_block_size(rows.device))
    blocks = padded_blocks(len(rows), block_size, rows.device)
    return torch.cat([function(rows[block]) for block in blocks])[: len(rows)]
