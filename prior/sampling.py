"""Drawing token sequences from a prior: one cached forward pass a position, both guidance halves in one batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from wvq.tokenizer.errors import InputError

OnToken = Callable[[int, Tensor], None]


@torch.inference_mode()
def sample_tokens(
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
) -> Tensor:
    """Sample images as token sequences, conditioned on their class.

    The model's vocabulary is codes, class ids, null class; the prompt is the class id. With guidance the
    log-probabilities are null + guidance_scale * (class - null), as in transformers, before temperature and truncation;
    only codes can be drawn. Each draw inverts the cumulative distribution at one uniform number per image and position,
    so an image depends on its own numbers alone.

    Args:
        model: a causal language model of transformers; put into eval mode and left as it came.
        class_labels: (B,) int64 in [0, number of classes]; the highest is the null class (unconditional).
        num_tokens: tokens of an image, T.
        num_codes: K; ids from K on are never drawn.
        guidance_scale: 1 for none.
        temperature: 0 is greedy.
        top_k: the most probable codes kept; 0 for all.
        top_p: the smallest set of codes with this probability is kept; in (0, 1].
        min_p: codes below this share of the highest probability are dropped; in [0, 1].
        generator: source of the uniform numbers, or one per image, on any device.
        on_token: called after each position with the position and the tokens so far, (B, position + 1).

    Returns:
        (B, T) int64 in [0, K), on the model's device.

    Raises:
        InputError: for an argument out of its range.
    """
    null_class = model.config.vocab_size - 1
    check_sampling(guidance_scale, temperature, top_k, top_p, min_p)
    if class_labels.ndim != 1 or len(class_labels) == 0:
        raise InputError(f"class_labels has shape {tuple(class_labels.shape)}; it must be (B,) with B >= 1")
    if not 0 <= int(class_labels.min()) <= int(class_labels.max()) <= null_class - num_codes:
        raise InputError(
            f"class_labels reach from {int(class_labels.min())} to {int(class_labels.max())}; "
            f"valid are 0 to {null_class - num_codes}, the last being the null class"
        )
    batch = len(class_labels)
    draws = _uniform(batch, num_tokens, generator).to(model.device)
    truncate = _truncation(temperature, top_k, top_p, min_p)
    prompt = class_labels.to(model.device) + num_codes
    guided = guidance_scale != 1.0
    inputs = torch.cat([prompt, torch.full_like(prompt, null_class)]) if guided else prompt
    tokens = torch.empty(batch, num_tokens, dtype=torch.int64, device=model.device)

    was_training = model.training
    model.eval()
    cache = DynamicCache(config=model.config)
    for position in range(num_tokens):
        output = model(input_ids=inputs[:, None], past_key_values=cache, use_cache=True)
        scores = output.logits[:, -1, :num_codes].float().log_softmax(dim=-1)
        if guided:
            conditional, unconditional = scores.chunk(2)
            scores = unconditional + guidance_scale * (conditional - unconditional)
        if temperature == 0:
            tokens[:, position] = scores.argmax(dim=-1)
        else:
            probabilities = truncate(tokens[:, :position], scores).softmax(dim=-1)
            tokens[:, position] = invert_cumulative(probabilities, draws[:, position])
        inputs = tokens[:, position].repeat(2) if guided else tokens[:, position]
        if on_token:
            on_token(position, tokens[:, : position + 1])
    model.train(was_training)
    return tokens


def invert_cumulative(probabilities: Tensor, draws: Tensor) -> Tensor:
    """The first index of each row of probabilities (B, K) at which their running sum exceeds draws (B,), in [0, 1).

    Never an index of probability zero. The sum runs in float64: in float32 it would be blind to codes below 6e-8.
    """
    cumulative = probabilities.double().cumsum(dim=-1)
    targets = draws.double()[:, None] * cumulative[:, -1:]
    indices = torch.searchsorted(cumulative, targets, right=True).squeeze(1)
    last = probabilities.shape[-1] - 1 - (probabilities.flip(-1) > 0).int().argmax(dim=-1)
    return torch.minimum(indices, last)


def check_sampling(guidance_scale: float, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    """Check the sampling arguments.

    Raises:
        InputError: naming the argument, its value and what would be valid.
    """
    if guidance_scale < 0:
        raise InputError(f"guidance_scale is {guidance_scale}; it must be at least 0 (1 is no guidance)")
    if temperature < 0:
        raise InputError(f"temperature is {temperature}; it must be at least 0 (0 is greedy)")
    if top_k < 0:
        raise InputError(f"top_k is {top_k}; it must be at least 0 (0 keeps all codes)")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p}; it must be in (0, 1] (1 keeps all codes)")
    if not 0 <= min_p <= 1:
        raise InputError(f"min_p is {min_p}; it must be in [0, 1] (0 keeps all codes)")


def _truncation(temperature: float, top_k: int, top_p: float, min_p: float) -> Callable[..., Tensor]:
    """Temperature, top-k, top-p, min-p: the warpers of transformers, in its order."""
    warpers = LogitsProcessorList()
    if temperature not in (0, 1):
        warpers.append(TemperatureLogitsWarper(float(temperature)))
    if top_k > 0:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p > 0:
        warpers.append(MinPLogitsWarper(min_p))
    return warpers


def _uniform(batch: int, num_tokens: int, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    """Uniform numbers (B, T), float64, from one generator or from one per image."""
    if generator is None or isinstance(generator, torch.Generator):
        device = generator.device if generator else None
        return torch.rand(batch, num_tokens, dtype=torch.float64, generator=generator, device=device)
    if len(generator) != batch:
        raise InputError(f"{len(generator)} generators were given for {batch} images; give one, or one per image")
    return torch.stack([torch.rand(num_tokens, dtype=torch.float64, generator=g, device=g.device) for g in generator])
