"""What a token costs those that have learnt next to nothing: the scale on which a prior's bits per token are read."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wvq.tokenizer.data.batches import evenly_spaced
from wvq.tokenizer.tokens import TokenDataset

_MOST_TOKENS = 2**26  # of the training split, evenly spaced images of it: enough for K^2 pairs of a few thousand codes


def baseline_bits(train_set: TokenDataset, evaluation_set: TokenDataset) -> dict[str, float]:
    """Bits per held-out token of three models that only count, by name.

    uniform: log2 K. unigram: each code's frequency in the training tokens, one added to each count. bigram: its
    frequency after the code before it (after the start of an image for the first), interpolated with the unigram by
    Witten and Bell's rule: after a code seen n times, with d different followers, a follower seen c times has
    probability (c + d p_unigram) / (n + d). None of them knows the class or the position.
    """
    codes = train_set.num_codes
    counted, held_out = _counted_tokens(train_set), evaluation_set.tokens
    counts = torch.bincount(counted.flatten(), minlength=codes).double() + 1
    unigram = counts / counts.sum()

    pairs, times = _pairs(counted, codes).unique(return_counts=True)
    before = pairs // codes
    totals = unigram.new_zeros(codes + 1).index_add_(0, before, times.double())
    followers = torch.bincount(before, minlength=codes + 1).double()
    asked = _pairs(held_out, codes)
    place = torch.searchsorted(pairs, asked).clamp(max=len(pairs) - 1)
    seen = torch.where(pairs[place] == asked, times[place], 0).double()
    previous, chance = asked // codes, unigram[asked % codes]
    bigram = (seen + followers[previous] * chance) / (totals + followers)[previous]
    bigram = torch.where(totals[previous] > 0, bigram, chance)  # after a code that training never saw
    return {
        "uniform_bits_per_token": math.log2(codes),
        "unigram_bits_per_token": float(-unigram.log2()[held_out.flatten()].mean()),
        "bigram_bits_per_token": float(-bigram.log2().mean()),
    }


def code_counts(train_set: TokenDataset) -> Tensor:
    """How often each code stands in the training tokens, (K,) int64; in as many of them as are counted here."""
    return torch.bincount(_counted_tokens(train_set).flatten(), minlength=train_set.num_codes)


def _counted_tokens(train_set: TokenDataset) -> Tensor:
    return train_set.take(evenly_spaced(len(train_set), max(1, _MOST_TOKENS // train_set.num_tokens)))["tokens"]


def _pairs(tokens: Tensor, codes: int) -> Tensor:
    """Each token of (N, T) with the one before it as one number, before * K + token; K stands before the first."""
    before = F.pad(tokens[:, :-1].long(), (1, 0), value=codes)
    return (before * codes + tokens).flatten()
