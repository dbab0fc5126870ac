"""Bootstrap intervals: how much of a score is the luck of the draw of its images (Efron and Tibshirani, 1993)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from wvq.tokenizer.errors import InputError


@dataclass(frozen=True)
class Interval:
    """A score and the interval that holds it with the confidence asked for."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    score: Callable[..., float], *samples: Tensor, resamples: int = 200, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Bootstrap interval of score(*samples): each sample is drawn anew from its own rows, with replacement.

    Samples whose rows belong together, as an image and its reconstruction do, are to be given as one.

    It says how far the score moves with the draw of its images, at this number of them: the quantiles are those of the
    deviations from the mean over resamples, mirrored at the score, so that the interval is one of this very score. A
    Fréchet distance of resampled images is larger than that of the images; quantiles of the distances themselves, plain
    or mirrored, would be an interval of another number than the score beside which it stands. The bias that the score
    has at this number of images is not taken out; where the score is mostly that bias, as a Fréchet distance of few
    images in many dimensions is, the interval is wider than the score varies.

    Args:
        score: of tensors like the samples.
        *samples: (N, ...) each, resampled independently.
        resamples: how many.
        confidence: in (0, 1).
        seed: of the draw.

    Raises:
        InputError: for fewer than 2 resamples, a confidence outside (0, 1), or a sample of fewer than 2 rows.
    """
    if resamples < 2 or not 0 < confidence < 1:
        raise InputError(f"resamples is {resamples} and confidence {confidence}; at least 2, and between 0 and 1")
    if (fewest := min(map(len, samples))) < 2:
        raise InputError(f"a sample has {fewest} rows; an interval needs at least 2")

    def redrawn(*rows: np.ndarray) -> float:
        return score(*(x[torch.from_numpy(drawn)] for x, drawn in zip(samples, rows, strict=True)))

    result = scipy.stats.bootstrap(
        [np.arange(len(x)) for x in samples],  # numbers of rows, since scipy draws along one axis of arrays
        redrawn,
        vectorized=False,
        n_resamples=resamples,
        batch=1,
        confidence_level=confidence,
        method="basic",
        rng=np.random.default_rng(seed),
    )
    deviations = result.bootstrap_distribution - result.bootstrap_distribution.mean()
    low, high = np.quantile(deviations, [(1 - confidence) / 2, (1 + confidence) / 2])
    value = float(score(*samples))
    return Interval(value, value - float(high), value - float(low))
