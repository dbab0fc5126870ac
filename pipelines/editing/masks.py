"""Masks in the tokenizer's pixels, true where to draw."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wvq.tokenizer import InputError
from wvq.tokenizer.image_size import ImageSize, height_and_width


def below(rows: int, image_size: ImageSize) -> Tensor:
    """The pixels below the uppermost rows, bool (H, W).

    Raises:
        InputError: for more rows than there are.
    """
    height, width = height_and_width(image_size)
    if not 0 <= rows <= height:
        raise InputError(f"rows is {rows}; it must be from 0 to {height}")
    return outside((0, 0, width, rows), image_size)


def outside(box: Sequence[int], image_size: ImageSize) -> Tensor:
    """The pixels outside of a box (left, top, right, bottom), bool (H, W).

    Raises:
        InputError: for a box that is not inside of the image.
    """
    left, top, right, bottom = box
    height, width = height_and_width(image_size)
    if not (0 <= left <= right <= width and 0 <= top <= bottom <= height):
        most = width if height == width else f"{width} and {height}"
        raise InputError(f"box is {tuple(box)}; left, top, right and bottom must lie in this order, 0 to {most}")
    mask = torch.ones(height, width, dtype=torch.bool, device="cpu")
    mask[top:bottom, left:right] = False
    return mask
