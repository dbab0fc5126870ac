"""How probable a prior finds given token sequences."""

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

from wvq.tokenizer.errors import InputError, NonFiniteError
from wvq.tokenizer.precision import float64_device

from .next_scale import next_scale_inputs, scales_of
from .order.sequences import input_sequence, num_positions, raster_orders
from .turns import check_codes_per_position, check_turns, turns


def log_likelihood(
    model: PreTrainedModel,
    tokens: Tensor,
    class_labels: Tensor,
    num_codes: int,
    batch_size: int = 64,
    codes_per_position: int = 1,
) -> Tensor:
    """Log-probability (B,), float64, in nats, of drawing these tokens of these classes at temperature 1, unfiltered.

    Of drawing them in raster order: a prior of free order gives every order a probability, which need not be the same.

    Args:
        model: as for `wvq.prior.sample_tokens`.
        tokens: (B, T) int64 in [0, K).
        class_labels: (B,) int64; the highest is the null class.
        num_codes: K.
        batch_size: sequences at once.
        codes_per_position: as for `wvq.prior.sample_tokens`.

    Raises:
        InputError: for tokens or labels out of range, or another number of them than of labels.
        NonFiniteError: for scores that are NaN or infinite.
    """
    if tokens.ndim != 2 or len(tokens) != len(class_labels) or tokens.numel() == 0:
        raise InputError(f"tokens have shape {tuple(tokens.shape)}; it must be (B, T) for {len(class_labels)} labels")
    if not 0 <= int(tokens.min()) <= int(tokens.max()) < num_codes:
        raise InputError(
            f"tokens reach from {int(tokens.min())} to {int(tokens.max())}; valid are 0 to {num_codes - 1}"
        )
    null_class = model.config.vocab_size - 1 - num_codes - num_positions(model.config)
    if not 0 <= int(class_labels.min()) <= int(class_labels.max()) <= null_class:
        raise InputError(
            f"class_labels reach from {int(class_labels.min())} to {int(class_labels.max())}; "
            f"valid are 0 to {null_class}, the last being the null class"
        )
    check_codes_per_position(codes_per_position, num_codes, tokens.shape[1])
    check_turns("tokens", tokens, num_codes, codes_per_position)
    was_training = model.training
    model.eval()
    sums = []
    try:
        with torch.inference_mode():
            for codes, labels in zip(tokens.split(batch_size), class_labels.split(batch_size), strict=True):
                codes = codes.to(model.device)
                orders = raster_orders(codes)
                inputs, predicted = input_sequence(model.config, num_codes, codes, labels.to(model.device), orders)
                given = {"input_ids": inputs}
                if scales := scales_of(model):
                    given = next_scale_inputs(model.get_input_embeddings()(inputs), scales)
                logits = model(**given, use_cache=False).logits[:, predicted, :num_codes].float()
                _check_finite(logits)
                total = torch.zeros(len(codes), dtype=torch.float64, device=float64_device(model.device))
                for places, ids in turns(num_codes, codes_per_position):
                    scores = logits[:, places, ids].log_softmax(dim=-1)
                    own = codes[:, places, None] - ids.start
                    total += scores.gather(-1, own).to(total.device).sum(dim=(1, 2), dtype=torch.float64)
                sums.append(total)
    finally:
        model.train(was_training)
    return torch.cat(sums)  # an ordinary tensor, which can be changed


def _check_finite(logits: Tensor) -> None:
    """Raises: NonFiniteError: naming the first position at which logits (B, T, K) are not finite."""
    if not logits.isfinite().all():
        position = int(logits.isfinite().all(dim=2).all(dim=0).int().argmin())
        raise NonFiniteError(
            f"the scores at position {position} are not finite; try whether all weights of the prior are finite"
        )


def bits_per(log_likelihood: Tensor, parts: int) -> Tensor:
    """Bits that each of `parts` tokens or pixels takes, from log-likelihoods in nats."""
    return -log_likelihood / (parts * math.log(2))
