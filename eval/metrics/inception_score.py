"""The Inception score: how sure a classifier is of each image, and how varied over all (arXiv 1606.03498)."""

import numpy as np
import torch
from torch import Tensor

from wvq.tokenizer.errors import InputError


def inception_score(logits: Tensor, splits: int = 10, seed: int | None = 2020) -> tuple[float, float]:
    """exp of the mean divergence of each image's classes from those of all: mean and standard deviation over splits.

    Args:
        logits: (N, classes); of Inception "unbiased" ones, without the bias of the last layer, as published scores are.
        splits: parts of the shuffled images that are scored each by itself.
        seed: of the shuffle, which is that of torch-fidelity; None for the given order.

    Returns:
        Mean and standard deviation, the mean in [1, classes].

    Raises:
        InputError: for fewer images than splits.
    """
    if not 1 <= splits <= len(logits):
        raise InputError(f"splits is {splits}; it must be from 1 to the {len(logits)} images")
    if seed is not None:
        random = np.random.RandomState(seed)  # the generator of torch-fidelity, so the order is the same
        logits = logits[torch.from_numpy(random.permutation(len(logits)))]
    log_shares = logits.double().log_softmax(dim=1)
    scores = []
    for part in range(splits):
        chunk = log_shares[part * len(logits) // splits : (part + 1) * len(logits) // splits]
        mean = chunk.logsumexp(dim=0) - np.log(len(chunk))
        scores.append(float((chunk.exp() * (chunk - mean)).sum(dim=1).mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))
