"""A softmax over a sample of the ids, in place of what a prior of a large codebook spends most of a step on."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_STREAM = 11  # keeps it apart from those of `order.sequences` and `tokenizer.data.batches`


class Sample(NamedTuple):
    """Ids that the loss of every token of a batch is estimated from.

    Attributes:
        ids: (S,) int64, some of them more than once.
        log_times: (S,) float32, the logarithm of how often each was to be expected.
    """

    ids: Tensor
    log_times: Tensor


class Proposal:
    """The distribution from which ids are drawn: half of it follows how often each is met, half is the same for all.

    What a collapsed codebook does not use is seldom met, and needs few comparisons; the uniform half keeps the weight
    of any id at most twice that of a uniform draw.

    Args:
        frequencies: (K,) of the codes, at least 0 and not all 0; the other ids are never a target.
        vocabulary: V, at least K.
    """

    def __init__(self, frequencies: Tensor, vocabulary: int):
        met = F.pad(frequencies.double().cpu(), (0, vocabulary - len(frequencies)))
        self.probabilities = (met / met.sum() + 1 / vocabulary).numpy() / 2

    def draw(self, seed: int, batch: int, count: int) -> Sample:
        """`count` ids, independent of each other, and the same for a seed and a batch; on the CPU."""
        generator = np.random.default_rng([seed, batch, _STREAM])
        ids = generator.choice(len(self.probabilities), count, p=self.probabilities)
        log_times = np.log(count * self.probabilities[ids]).astype(np.float32)
        return Sample(torch.from_numpy(ids), torch.from_numpy(log_times))


def sampled_cross_entropy(
    hidden: Tensor, own: Tensor, others: Tensor, log_times: Tensor, is_own: Tensor, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy, in nats, of each row's own id with all other ids known from a sample.

    The sum over the other ids is estimated, without bias, by those that were drawn, each divided by how often it was to
    be expected; the logarithm of it is a little too low (sampled softmax, arXiv 1412.2007). With every id drawn once,
    as was to be expected, it is the cross-entropy.

    Args:
        hidden: (N, C), of any floating-point type; the products are taken in it, everything else in float32.
        own: (N, C), the row of the output layer of each target.
        others: (S, C), the rows of the ids that were drawn.
        log_times: (S,), the logarithm of how often each was to be expected.
        is_own: (N, S) bool, which of them are a target's own.
        reduction: "mean", or "none" for the loss of each row.

    Returns:
        A float32 scalar or (N,).
    """
    own_logits = (hidden * own.to(hidden.dtype)).sum(dim=1, keepdim=True).float()
    logits = (hidden @ others.to(hidden.dtype).mT).float() - log_times
    logits = torch.cat([own_logits, logits.masked_fill(is_own, -torch.inf)], dim=1)
    return F.cross_entropy(logits, is_own.new_zeros(len(hidden), dtype=torch.int64), reduction=reduction)
