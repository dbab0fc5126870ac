"""A softmax over a sample of the ids, in place of what a prior of a large codebook spends most of a step on."""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_STREAM = 11  # keeps it apart from those of `order.sequences` and `tokenizer.data.batches`
_BLOCK_ENTRIES = 2**24  # logits held at once: 64 MiB of float32
_CPU_BLOCK_ENTRIES = 2**18  # there 1 MiB, which stays in a core's cache: three times as fast as all at once


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


class _SampledCrossEntropy(torch.autograd.Function):
    """The mean over rows, its gradients taken block by block in the forward pass: logits never leave the cache."""

    @staticmethod
    def forward(
        ctx, hidden: Tensor, own: Tensor, others: Tensor, log_times: Tensor, is_own: Tensor, differentiable: bool
    ) -> Tensor:
        count, matrix = len(hidden), others.to(hidden.dtype)
        wanted = differentiable and any(ctx.needs_input_grad)
        total = torch.zeros((), device=hidden.device)
        by_hidden, by_own = (torch.empty_like(hidden), torch.empty_like(own)) if wanted else (None, None)
        by_others = torch.zeros(others.shape, device=others.device) if wanted else None
        entries = _CPU_BLOCK_ENTRIES if hidden.device.type == "cpu" else _BLOCK_ENTRIES
        rows = max(1, entries // len(others))
        for start in range(0, count, rows):
            block = slice(start, start + rows)
            row, own_row = hidden[block], own[block].to(hidden.dtype)
            own_logits = (row * own_row).sum(dim=1, keepdim=True).float()
            logits = (row @ matrix.mT).float().sub_(log_times).masked_fill_(is_own[block], -torch.inf)
            normalizer = torch.logaddexp(logits.logsumexp(dim=1, keepdim=True), own_logits)
            total += (normalizer - own_logits).sum()
            if by_hidden is None or by_own is None or by_others is None:
                continue
            slope = (logits.sub_(normalizer).exp_() / count).to(hidden.dtype)
            own_slope = ((own_logits - normalizer).expm1_() / count).to(hidden.dtype)
            by_hidden[block] = torch.addmm(own_row * own_slope, slope, matrix)
            by_own[block] = row * own_slope
            by_others += (slope.mT @ row).float()
        ctx.save_for_backward(by_hidden, by_own, by_others)
        ctx.others_dtype = others.dtype
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        by_hidden, by_own, by_others = ctx.saved_tensors
        scale = grad_outputs[0]
        by_others = (by_others * scale).to(ctx.others_dtype)
        return by_hidden * scale.to(by_hidden.dtype), by_own * scale.to(by_own.dtype), by_others, None, None, None


def sampled_cross_entropy(hidden: Tensor, own: Tensor, others: Tensor, log_times: Tensor, is_own: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of each row's own id with all other ids known from a sample.

    The sum over the other ids is estimated, without bias, by those that were drawn, each divided by how often it was to
    be expected; the logarithm of it is a little too low (sampled softmax, arXiv 1412.2007). With every id drawn once,
    as was to be expected, it is the cross-entropy.

    Args:
        hidden: (N, C), of any floating-point type; the products are taken in it, everything else in float32.
        own: (N, C), the row of the output layer of each target.
        others: (S, C), the rows of the ids that were drawn.
        log_times: (S,), the logarithm of how often each was to be expected.
        is_own: (N, S) bool, which of them are a target's own.

    Returns:
        A float32 scalar, differentiable once by hidden, own and others.
    """
    arguments = (hidden, own, others, log_times, is_own, torch.is_grad_enabled())
    return _SampledCrossEntropy.apply(*arguments)  # pyright: ignore[reportReturnType]
