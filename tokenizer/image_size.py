"""Sizes of images: one number for squares, as ever, or a height and a width."""

from collections.abc import Sequence
from typing import Any

from .errors import InputError

ImageSize = int | tuple[int, int]


def image_size(value: int | Sequence[int], least: int = 1) -> ImageSize:
    """A size as configurations hold it: (height, width), or one number if both are the same.

    Raises:
        InputError: for what is neither one number nor two, or a number below `least`.
    """
    sides = (value,) if isinstance(value, int) else tuple(value) if isinstance(value, list | tuple) else (None,)
    whole = [side for side in sides if type(side) is int]
    if not 1 <= len(sides) <= 2 or len(whole) < len(sides):
        raise InputError(f"image_size is {value}; it must be one whole number, or height and width: [h, w]")
    if min(whole) < least:
        raise InputError(f"image_size is {value}; it must be at least {least}")
    height, width = whole[0], whole[-1]
    return height if height == width else (height, width)


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """Of images of a size."""
    return size if isinstance(size, tuple) else (size, size)


def size_in_json(size: ImageSize) -> Any:
    """A size as a JSON file gives it back: one number or a list of two."""
    return list(size) if isinstance(size, tuple) else size


def size_in_words(size: ImageSize) -> str:
    """Height x width."""
    return " x ".join(map(str, height_and_width(size)))
