"""Next-scale prediction (VAR, arXiv 2404.02905): a prior that draws all tokens of a scale in one pass.

The model is a plain causal transformer of transformers, called with `inputs_embeds` and a mask. Position t of a
sequence, which runs from coarse to fine, gives the scores of token t itself. Its input is the class's row of the
embedding table plus, for each coarser scale, the rows of that scale's tokens, interpolated to where t lies as a
tokenizer interpolates codes. VAR has a linear map of the feature map there; a row for each code can be any function of
the code, needs no tokenizer, and leaves nothing to save beside the model. A position attends to those of its own scale
and of all coarser ones.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from wvq.tokenizer.blocks import full_block_size, padded_blocks
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.multi_scale import down_to_scale, scale_ends, up_to_grid
from wvq.tokenizer.precision import float64_device

from .finite_scores import FiniteScores
from .guidance import GuidanceSchedule, guidance_scales
from .sampling import OnToken, check_known, check_passes, check_vocabulary, uniform_draws
from .truncation import check_truncation, draw_codes


def scales_of(model: PreTrainedModel) -> tuple[int, ...]:
    """The scales that a prior was made for; () for one that draws a token a pass."""
    return tuple(getattr(model.config, "scales", ()))


def next_scale_inputs(embedded: Tensor, scales: Sequence[int]) -> dict[str, Tensor]:
    """What a model is called with: `inputs_embeds` (B, T, C) and `attention_mask` (1, 1, T, T), true where it attends.

    Args:
        embedded: (B, T, C), rows of the embedding table of the class and of all tokens but the last.
        scales: of the tokens, T in all.
    """
    mixing, mask = scale_maps(tuple(scales), embedded.device)
    return {"inputs_embeds": mixing.to(embedded.dtype) @ embedded, "attention_mask": mask}


@lru_cache(maxsize=16)
def scale_maps(scales: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """How much of each row of (class, tokens but the last) is in each input, (T, T), and the mask (1, 1, T, T)."""
    ends = scale_ends(scales)
    with torch.inference_mode(False), torch.no_grad():  # kept for later calls, in training as well
        mixing = torch.zeros(ends[-1], ends[-1] + 1, device=device)
        mixing[:, 0] = 1
        for number, (scale, start, end) in enumerate(zip(scales, [0, *ends], ends, strict=False)):
            one_each = torch.eye(scale**2, device=device).view(-1, 1, scale, scale)
            on_grid = up_to_grid(one_each, scales[-1])
            for finer, (first, last) in zip(scales[number + 1 :], pairwise(ends[number:]), strict=True):
                mixing[first:last, 1 + start : 1 + end] = down_to_scale(on_grid, finer).flatten(1).mT
        number_of = torch.searchsorted(
            torch.tensor(ends, device=device), torch.arange(ends[-1], device=device), right=True
        )
        mask = number_of[:, None] >= number_of
        return mixing[:, :-1], mask[None, None]


def sample_scales(
    model: PreTrainedModel,
    class_labels: Tensor,
    num_tokens: int,
    num_codes: int,
    guidance_scale: float = 1.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    on_token: OnToken | None = None,
    guidance_schedule: GuidanceSchedule = "constant",
    guidance_interval: tuple[int, int] | None = None,
    known_tokens: Tensor | None = None,
    dtype: torch.dtype | None = None,
    block_size: int | None = None,
    codes_per_position: int = 1,
    num_passes: int | None = None,
) -> Tensor:
    """`sample_tokens` for a prior with scales, in as many passes: the tokens of a scale are drawn independently.

    Args:
        model, class_labels, num_tokens, num_codes, guidance_scale, temperature, top_k, top_p, min_p, generator,
            guidance_schedule, guidance_interval, known_tokens, block_size: see `wvq.prior.sample_tokens`; positions are
            those of tokens, from coarse to fine.
        on_token: called after each scale with the position of its last token.
        dtype: torch.bfloat16 for products in it; the model's own by default.
        codes_per_position: 1.
        num_passes: of all scales, which is the default.

    Returns:
        (B, T) int64 in [0, K), on the model's device.

    Raises:
        InputError: for an argument out of its range, and a prior without scales.
        NonFiniteError: for scores that are NaN or infinite, naming the scale.
    """
    scales = scales_of(model)
    if not scales or num_tokens != scale_ends(scales)[-1] or codes_per_position != 1:
        raise InputError(f"the prior has scales {scales}; {num_tokens} tokens of {codes_per_position} do not fit")
    if dtype not in (None, model.dtype, torch.bfloat16) or (block_size is not None and block_size < 1):
        raise InputError(f"dtype is {dtype} and block_size {block_size}; valid are torch.bfloat16 and at least 1")
    check_passes(model.config, num_tokens, num_passes)
    check_truncation(temperature, top_k, top_p, min_p)
    by_token = guidance_scales(guidance_scale, num_tokens, guidance_schedule, guidance_interval)
    guided = any(by != 1 for by in by_token)
    check_vocabulary(model, class_labels, num_codes, guided)
    batch = len(class_labels)
    draws = uniform_draws(batch, num_tokens, generator).to(float64_device(model.device))
    sequences = torch.full((batch, num_tokens + 1), -1, device=model.device)  # the class, then the tokens
    sequences[:, 0] = class_labels.to(model.device) + num_codes
    if known_tokens is not None:
        check_known(known_tokens, batch, num_tokens, num_codes)
        sequences[:, 1 : 1 + known_tokens.shape[1]] = known_tokens.to(model.device)
    free = sequences[:, 1:] < 0
    at_once = full_block_size(model.device) if isinstance(generator, Sequence) else batch
    blocks = padded_blocks(batch, block_size or min(at_once, batch), model.device)
    was_training, step = model.training, _cached_pass(model, scales, num_codes, dtype, by_token)
    model.eval()
    try:
        caches = [DynamicCache(config=model.config) for _ in blocks]
        finite = FiniteScores(batch, guided, model.device, lambda number: f"at scale {scales[number]}")
        for number, (start, end) in enumerate(pairwise([0, *scale_ends(scales)])):
            with torch.inference_mode():  # not around the callback: its tokens, and the result, are ordinary tensors
                pairs = zip(blocks, caches, strict=True)
                scores = torch.cat([step(sequences[block], start, end, cache) for block, cache in pairs])[:batch]
                scores = finite.checked(scores, torch.arange(batch, device=scores.device), number)
                flat = draw_codes(scores.flatten(0, 1), draws[:, start:end].flatten(), temperature, top_k, top_p, min_p)
                own = sequences[:, 1 + start : 1 + end]
                own.copy_(torch.where(free[:, start:end], flat.view_as(own), own))
            if on_token:
                on_token(end - 1, sequences[:, 1 : 1 + end].clone())
        finite.check()
    finally:
        model.train(was_training)
    return sequences[:, 1:].clone()


def _cached_pass(
    model: PreTrainedModel,
    scales: tuple[int, ...],
    num_codes: int,
    dtype: torch.dtype | None,
    by_token: Sequence[float],
) -> Callable[[Tensor, int, int, DynamicCache], Tensor]:
    """The function from sequences (R, 1 + T) to scores (R, n, K) of the scale of tokens start to end, n of them, with
    guidance by so much for each token."""
    guided, guidance = any(by != 1 for by in by_token), torch.tensor(by_token, device=model.device)[:, None]
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    mixing, _ = scale_maps(scales, model.device)

    def step(sequences: Tensor, start: int, end: int, cache: DynamicCache) -> Tensor:
        ids = sequences[:, : 1 + start]
        if guided:
            ids = ids.repeat(2, 1)
            ids[len(sequences) :, 0] = model.config.vocab_size - 1
        table = embedding(ids)
        inputs = mixing[start:end, : 1 + start].to(table.dtype) @ table
        everything = torch.ones(1, 1, end - start, end, dtype=torch.bool, device=inputs.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16 != model.dtype):
            body = model.base_model(inputs_embeds=inputs, attention_mask=everything, past_key_values=cache)
            features, by = body.last_hidden_state, guidance[start:end]
            if guided:  # of the features: scores are a linear function of them
                conditional, null = features.float().chunk(2)
                features = torch.where(by == 1, conditional, null + by * (conditional - null)).to(features.dtype)
            return F.linear(features, head.weight[:num_codes]).float()

    return step
