"""FID-infinity: the Fréchet distance extrapolated to endless images (arXiv 1911.07023).

With N images the distance is too large by about c / N, and c depends on the generator, so not even ranks are safe. A
line through the distances of subsets, against 1 / N, meets 0 at the distance without that bias. Here the k subsets of
N / k images are disjoint and averaged: together they see all images, so their distances share the luck of the draw, and
the line amplifies it far less than through one random subset of each size.
"""

from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from wvq.tokenizer.errors import InputError

from .bootstrap import Interval
from .frechet import frechet_distance, mean_and_factor


@dataclass(frozen=True)
class Extrapolation(Interval):
    """The extrapolated distance with its interval, and the points of the line.

    Attributes:
        counts: images of a subset: all, a half, a third, and so on.
        distances: mean over the disjoint subsets of that size.
    """

    counts: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_infinity(
    real: Tensor | tuple[Tensor, Tensor],
    generated: Tensor,
    num_sizes: int = 3,
    jackknife_groups: int = 10,
    confidence: float = 0.95,
    seed: int = 0,
    paired: bool = False,
) -> Extrapolation:
    """Fréchet distance for endless images, with a jackknife interval; it may be negative, as noise around 0 is.

    Where both sides are features, their subsets shrink together and the bias of both is taken out; a reference's
    statistics stay as they are, and so does their bias. Give at least `num_sizes` times as many images as dimensions:
    with fewer the bias is no longer a line. The interval leaves out a tenth of the images of each side in turn and
    repeats all of it, which at 2,048 dimensions takes minutes on a CPU.

    Args:
        real: features (N, d), or a reference's mean (d,) and covariance factor (d, r), as for `frechet_distance`.
        generated: features (M, d).
        num_sizes: the line goes through the distances of so many sizes of subsets: all images, halves, thirds, ...
        jackknife_groups: groups of images that are left out in turn.
        confidence: of the interval, in (0, 1).
        seed: of the draw of the subsets.
        paired: whether row i of `generated` was made of row i of `real`, as a reconstruction is. Then a subset has both
            or neither: apart they differ by what images differ, and the line would take that away from the distance.

    Raises:
        InputError: for fewer than 2 sizes or groups, a confidence outside (0, 1), or too few images for them; for pairs
            that are not as many features on both sides.
    """
    if num_sizes < 2 or jackknife_groups < 2 or not 0 < confidence < 1:
        raise InputError(
            f"num_sizes is {num_sizes}, jackknife_groups {jackknife_groups} and confidence {confidence}; valid are at "
            "least 2, at least 2, and between 0 and 1"
        )
    fewest = min(len(x) for x in (real, generated) if isinstance(x, Tensor))
    if fewest * (1 - 1 / jackknife_groups) < 3 * num_sizes:
        raise InputError(
            f"{fewest} images are too few for {num_sizes} sizes of subsets without one of {jackknife_groups} groups"
        )
    if paired and not (isinstance(real, Tensor) and len(real) == len(generated)):
        there = f"{len(real)} features" if isinstance(real, Tensor) else "statistics alone"
        raise InputError(f"paired is True, but there are {there} for {len(generated)} generated ones; pairs need both")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(generated), generator=generator, device="cpu")
    generated = generated[order]
    if isinstance(real, Tensor):
        real = real[order if paired else torch.randperm(len(real), generator=generator, device="cpu")]

    def extrapolate(left_out: int | None) -> tuple[float, list[int], list[float]]:
        """Intercept, counts and distances, without the images of one group."""
        side = _without(generated, left_out, jackknife_groups)
        other = _without(real, left_out, jackknife_groups) if isinstance(real, Tensor) else real
        counts, distances = [len(side) // k for k in range(1, num_sizes + 1)], []
        for k in range(1, num_sizes + 1):
            values = []
            for first in range(k):
                against = mean_and_factor(other[first::k]) if isinstance(other, Tensor) else other
                values.append(float(frechet_distance(*against, *mean_and_factor(side[first::k]))))
            distances.append(sum(values) / k)
        return float(np.polyfit(1 / np.array(counts), distances, 1)[1]), counts, distances

    value, counts, distances = extrapolate(None)
    left_out = np.array([extrapolate(group)[0] for group in range(jackknife_groups)])
    error = float(((jackknife_groups - 1) / jackknife_groups * ((left_out - left_out.mean()) ** 2).sum()) ** 0.5)
    reach = error * float(scipy.stats.t.ppf((1 + confidence) / 2, jackknife_groups - 1))
    return Extrapolation(value, value - reach, value + reach, tuple(counts), tuple(distances))


def _without(vectors: Tensor, group: int | None, groups: int) -> Tensor:
    if group is None:
        return vectors
    return vectors[torch.arange(len(vectors), device=vectors.device) % groups != group]
