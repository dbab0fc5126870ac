"""Which positions a prior of free order draws in which pass: few first, and those of a pass far apart."""

import itertools
import math

import torch
from torch import Tensor


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


def spread_order(num_tokens: int, codes_per_position: int = 1, device: torch.device | str = "cpu") -> Tensor:
    """The T tokens of an image, each once, (T,) int64: those that follow each other lie far apart.

    The positions of the grid come in the order of Bayer's matrix of ordered dithering (1973), in which the first n
    always cover the grid evenly. A grid that is no power of two has the part that it covers. The grid is square, or as
    near to it as T / M divides. Of several codes at a position all first ones are drawn before all second ones.

    It is the same for all images: what is drawn at temperature 0, or between known tokens, then follows from these
    alone, and the queries of a pass, which learnt from every order, know of no other.
    """
    positions = num_tokens // codes_per_position
    height = next(h for h in range(math.isqrt(positions), 0, -1) if positions % h == 0)
    width = positions // height
    bits = (width - 1).bit_length()
    places = torch.arange(positions, device=device)
    y, x, rank = places // width, places % width, torch.zeros_like(places)
    for bit in range(bits):  # from the lowest bit of the coordinates, which is the highest of the rank
        rank = rank * 4 + 2 * ((x ^ y) >> bit & 1) + (y >> bit & 1)
    codes = torch.arange(codes_per_position, device=device)
    return (rank.argsort() * codes_per_position + codes[:, None]).flatten()
