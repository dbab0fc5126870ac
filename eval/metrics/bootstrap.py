"""Bootstrap intervals: how much of a score is the luck of the draw of its images (Efron and Tibshirani, 1993)."""

from collections.abc import Callable
from dataclasses import dataclass

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
    """Basic bootstrap interval of score(*samples): each sample is drawn anew from its own rows, with replacement.

    The quantiles are mirrored at the score, which takes the bias that resampling adds out once: a Fréchet distance of
    resampled images is too large, so its plain quantiles would lie above it.

    Args:
        score: of tensors like the samples.
        *samples: (N, ...) each, resampled independently.
        resamples: how many.
        confidence: in (0, 1).
        seed: of the draw.

    Raises:
        InputError: for fewer than 2 resamples or a confidence outside (0, 1).
    """
    if resamples < 2 or not 0 < confidence < 1:
        raise InputError(f"resamples is {resamples} and confidence {confidence}; at least 2, and between 0 and 1")
    generator = torch.Generator().manual_seed(seed)
    value = float(score(*samples))
    scores = torch.tensor(
        [score(*(x[torch.randint(len(x), (len(x),), generator=generator)] for x in samples)) for _ in range(resamples)],
        dtype=torch.float64,
    )
    tail = (1 - confidence) / 2
    return Interval(value, 2 * value - float(scores.quantile(1 - tail)), 2 * value - float(scores.quantile(tail)))
