"""Masks in the tokenizer's pixels, true where to draw."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wvq.tokenizer import InputError


def below(rows: int, image_size: int) -> Tensor:
    """The pixels below the uppermost rows, bool (H, W).

    Raises:
        InputError: for more rows than there are.
    """
    if not 0 <= rows <= image_size:
        raise InputError(f"rows is {rows}; it must be from 0 to {image_size}")
    return outside((0, 0, image_size, rows), image_size)


def outside(box: Sequence[int], image_size: int) -> Tensor:
    """The pixels outside of a box (left, top, right, bottom), bool (H, W).

    Raises:
        InputError: for a box that is not inside of the image.
    """
    left, top, right, bottom = box
    if not (0 <= left <= right <= image_size and 0 <= top <= bottom <= image_size):
        raise InputError(f"box is {tuple(box)}; left, top, right and bottom must lie in this order, 0 to {image_size}")
    mask = torch.ones(image_size, image_size, dtype=torch.bool, device="cpu")
    mask[top:bottom, left:right] = False
    return mask
