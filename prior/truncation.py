"""From logits to a drawn code: temperature, top-k, top-p, min-p, and a draw from what is left.

Each filter keeps exactly the codes of its definition, with all that tie with the last one kept; they follow each other
in the order of transformers. Nothing is sorted whole where a short list of the largest is enough.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wvq.tokenizer.decided_there import may_ask
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.precision import float64_device, to_float64

SHORT_LIST = 256
_BLOCK = 64
_GREEDY = torch.finfo(torch.float32).tiny  # below, 1 / temperature overflows, and the highest score would be 0 * inf


def check_truncation(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    """Check the arguments of a draw.

    Raises:
        InputError: naming the argument, its value and what would be valid.
    """
    if not temperature >= 0:
        raise InputError(f"temperature is {temperature}; it must be at least 0 (0 is greedy)")
    if top_k < 0:
        raise InputError(f"top_k is {top_k}; it must be at least 0 (0 keeps all codes)")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p}; it must be in (0, 1] (1 keeps all codes)")
    if not 0 <= min_p <= 1:
        raise InputError(f"min_p is {min_p}; it must be in [0, 1] (0 keeps all codes)")


def draw_codes(
    scores: Tensor, draws: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """Codes (B,), int64, drawn by uniform numbers draws (B,), float64 in [0, 1), from scores (B, K).

    Args:
        scores: logits, or log-probabilities plus any constant a row.
        temperature: 0, or so little that float32 cannot divide by it, takes the highest score.
        top_k: codes whose score is at least the k-th largest; 0 for all.
        top_p: the most probable codes that together reach this share, as few as do (arXiv 1904.09751).
        min_p: codes with at least this share of the highest probability (arXiv 2407.01082).
    """
    if temperature < _GREEDY:
        return scores.argmax(dim=-1)
    return invert_cumulative(kept_weights(scores, temperature, top_k, top_p, min_p), draws)


def kept_weights(scores: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Probabilities (B, K) over the highest one of their row, zero for the codes that are not kept."""
    weights = (scores - scores.amax(dim=-1, keepdim=True)).div_(temperature).exp_()
    if 0 < top_k < scores.shape[-1]:
        kth = scores.topk(top_k, dim=-1).values[:, -1:]
        weights = weights.masked_fill(scores < kth, 0)
    if top_p < 1:
        weights = weights.masked_fill(weights < _smallest_of_nucleus(weights, top_p), 0)
    if min_p > 0:
        weights = weights.masked_fill(weights < min_p, 0)
    return weights


def _smallest_of_nucleus(weights: Tensor, top_p: float) -> Tensor:
    """The last weight (B, 1) that is needed to reach the share top_p of the sum of weights (B, K), largest first."""
    here, weights = weights.device, weights.to(float64_device(weights.device))
    target = top_p * weights.sum(dim=-1, keepdim=True, dtype=torch.float64)
    # Whether a short list is enough is not asked of a GPU, which sorts faster than it answers.
    number = weights.shape[-1]
    largest = weights.topk(min(SHORT_LIST, number) if may_ask(weights.device) else number, dim=-1).values
    reached = largest.cumsum(dim=-1, dtype=torch.float64)
    if largest.shape[-1] < number and not (reached[:, -1:] >= target).all():
        largest = weights.topk(number, dim=-1).values
        reached = largest.cumsum(dim=-1, dtype=torch.float64)
    last = (reached < target).sum(dim=-1, keepdim=True).clamp(max=weights.shape[-1] - 1)
    return largest.gather(-1, last).to(here)


def invert_cumulative(weights: Tensor, draws: Tensor) -> Tensor:
    """The first index of each row of weights (B, K) at which their running sum exceeds draws (B,) of the whole sum.

    Never an index of weight zero. The sum runs in float64: in float32 it would be blind to codes below 6e-8. First the
    block of 64 weights is looked for, then the weight in it: with 16,384 codes a seventh of a running sum's time.
    """
    here, weights = weights.device, weights.to(float64_device(weights.device))
    missing = -weights.shape[-1] % _BLOCK
    blocks = (F.pad(weights, (0, missing)) if missing else weights).unflatten(-1, (-1, _BLOCK))  # by nothing it copies
    sums = blocks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)  # (B, blocks)
    targets = to_float64(draws).to(weights.device)[:, None] * sums[:, -1:]
    block = _first_above(sums, targets)
    inside = blocks.gather(1, block[..., None].expand(-1, -1, _BLOCK)).squeeze(1).cumsum(dim=-1, dtype=torch.float64)
    before = F.pad(sums, (1, 0)).gather(1, block)
    return (block * _BLOCK + _first_above(inside, targets - before)).squeeze(1).to(here)


def _first_above(cumulative: Tensor, targets: Tensor) -> Tensor:
    """The first index at which rows of running sums (B, n) exceed targets (B, 1), of those below the last sum."""
    total = cumulative[:, -1:]
    return torch.searchsorted(cumulative, torch.minimum(targets, total.nextafter(torch.zeros_like(total))), right=True)
