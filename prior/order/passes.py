"""Which positions a prior of free order draws in which pass: few first, and those of a pass far apart."""

import itertools
import math

import torch
from torch import Tensor

from wvq.tokenizer.errors import InputError


def pass_sizes(count: int, num_passes: int) -> list[int]:
    """How many of `count` positions are drawn in each of min(num_passes, count) passes: few first, many last.

    What is still unknown falls as a cosine, as in MaskGIT (arXiv 2202.04200); each pass draws at least one.
    """
    passes = min(num_passes, count)
    known = [0]
    for number in range(1, passes + 1):
        wanted = round(count * (1 - math.cos(math.pi / 2 * number / passes)))
        known.append(max(known[-1] + 1, min(wanted, count - (passes - number))))
    return [after - before for before, after in itertools.pairwise(known)]


def spread_order(
    num_tokens: int,
    codes_per_position: int = 1,
    device: torch.device | str = "cpu",
    grid_shape: tuple[int, int] | None = None,
) -> Tensor:
    """The T tokens of an image, each once, (T,) int64: those that follow each other lie far apart.

    The positions of the grid come in the order of Bayer's matrix of ordered dithering (1973), in which the first n
    always cover the grid evenly. A grid that is no power of two has the part that it covers. Of several codes at a
    position all first ones are drawn before all second ones.

    It is the same for all images: what is drawn at temperature 0, or between known tokens, then follows from these
    alone, and the queries of a pass, which learnt from every order, know of no other.

    Args:
        num_tokens: T.
        codes_per_position: M.
        device: of the order.
        grid_shape: height and width of the grid, T / M positions; by default square, or as near to it as they divide
            with a width that is no less than the height.

    Raises:
        InputError: for a grid of another number of positions.
    """
    positions = num_tokens // codes_per_position
    if grid_shape is None:
        height = next(h for h in range(math.isqrt(positions), 0, -1) if positions % h == 0)
        grid_shape = height, positions // height
    if math.prod(grid_shape) != positions:
        raise InputError(f"grid_shape is {grid_shape}; it must have {positions} positions")
    width, bits = grid_shape[1], (max(grid_shape) - 1).bit_length()
    places = torch.arange(positions, device=device)
    y, x, rank = places // width, places % width, torch.zeros_like(places)
    for bit in range(bits):  # from the lowest bit of the coordinates, which is the highest of the rank
        rank = rank * 4 + 2 * ((x ^ y) >> bit & 1) + (y >> bit & 1)
    codes = torch.arange(codes_per_position, device=device)
    return (rank.argsort() * codes_per_position + codes[:, None]).flatten()
