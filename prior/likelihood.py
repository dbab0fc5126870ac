"""How probable a prior finds given token sequences."""

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

from wvq.tokenizer.errors import InputError


@torch.inference_mode()
def log_likelihood(
    model: PreTrainedModel, tokens: Tensor, class_labels: Tensor, num_codes: int, batch_size: int = 64
) -> Tensor:
    """Log-probability (B,), float64, in nats, of drawing these tokens of these classes at temperature 1, unfiltered.

    Args:
        model: as for `wvq.prior.sample_tokens`.
        tokens: (B, T) int64 in [0, K).
        class_labels: (B,) int64; the highest is the null class.
        num_codes: K.
        batch_size: sequences at once.

    Raises:
        InputError: for tokens out of range, or another number of them than of labels.
    """
    if tokens.ndim != 2 or len(tokens) != len(class_labels) or tokens.numel() == 0:
        raise InputError(f"tokens have shape {tuple(tokens.shape)}; it must be (B, T) for {len(class_labels)} labels")
    if not 0 <= int(tokens.min()) <= int(tokens.max()) < num_codes:
        raise InputError(
            f"tokens reach from {int(tokens.min())} to {int(tokens.max())}; valid are 0 to {num_codes - 1}"
        )
    was_training = model.training
    model.eval()
    sums = []
    for codes, labels in zip(tokens.split(batch_size), class_labels.split(batch_size), strict=True):
        codes = codes.to(model.device)
        inputs = torch.cat([labels.to(model.device)[:, None] + num_codes, codes[:, :-1]], dim=1)
        scores = model(input_ids=inputs, use_cache=False).logits[:, :, :num_codes].float().log_softmax(dim=-1)
        sums.append(scores.gather(-1, codes[:, :, None]).sum(dim=(1, 2), dtype=torch.float64))
    model.train(was_training)
    return torch.cat(sums)


def bits_per(log_likelihood: Tensor, parts: int) -> Tensor:
    """Bits that each of `parts` tokens or pixels takes, from log-likelihoods in nats."""
    return -log_likelihood / (parts * math.log(2))
