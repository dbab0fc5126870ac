"""Drawing token sequences from a prior: one cached forward pass a position, both guidance halves in one batch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from wvq.tokenizer.blocks import full_block_size, padded_blocks
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.precision import float64_device, has_float64

from .decoder import build_decoder, kept_decoder
from .finite_scores import FiniteScores
from .guidance import GuidanceSchedule, guidance_scales
from .order.parallel_decoding import Drawing, draw_in_passes
from .order.sequences import has_free_order, num_positions
from .truncation import check_truncation, draw_codes
from .turns import check_codes_per_position, check_turns, turns

OnToken = Callable[[int, Tensor], None]


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
    guidance_schedule: GuidanceSchedule = "constant",
    guidance_interval: tuple[int, int] | None = None,
    known_tokens: Tensor | None = None,
    dtype: torch.dtype | None = None,
    block_size: int | None = None,
    codes_per_position: int = 1,
    num_passes: int | None = None,
    grid_shape: tuple[int, int] | None = None,
) -> Tensor:
    """Sample images as token sequences, conditioned on their class.

    The model's vocabulary is codes, class ids, null class; the prompt is the class id. With guidance the scores are
    null + guidance_scale * (class - null), as in transformers, before temperature and truncation; the output layer,
    being linear, computes them from the same mixture of its inputs. Only codes can be drawn. Each draw inverts the
    cumulative distribution at one uniform number per image and position.

    With a generator per image an image depends on its own numbers alone, but for the last bits of a product, which
    depend on how many rows it has. With a `block_size` images are computed in blocks of that size, the last filled up:
    then an image is the same in any batch.

    What a decoder prepares is kept for the next call, unless the model is in training mode:
    see `wvq.prior.decoder.kept_decoder`.

    A prior of free order (`wvq.prior.order.sequences`) draws its tokens in an order in which neighbours lie far apart,
    several of them in a pass if there are fewer passes than tokens: each then knows all that was drawn in the passes
    before, and none of its own. It sees all known tokens first, wherever they stand.

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
        on_token: called after each drawn position with the position and a copy of the tokens so far,
            (B, position + 1); with free order after each pass, with how many tokens of each image are known, less one,
            and a copy of all, (B, T), -1 where one is still to be drawn.
        guidance_schedule, guidance_interval: see `wvq.prior.guidance.guidance_scales`.
        known_tokens: (B, n), n <= T: codes that are given, -1 where one is to be drawn, as it is from n on.
        dtype: of the matrices, torch.bfloat16 or torch.int8 for speed; the model's own by default.
        block_size: images computed together. By default as many as there are; with a generator each at most 16 on a
            CPU and 64 elsewhere.
        codes_per_position: M codes at each position of the tokenizer's grid, one after another: token t is drawn from
            the K / M codes whose turn it is, those from (t mod M) * K / M on.
        num_passes: passes in which a prior of free order draws an image, in [1, T]; few are fast, and tokens of one
            pass do not know each other. T by default, or one for each token that is not known.
        grid_shape: height and width of the tokenizer's grid, by which a prior of free order knows what lies far apart;
            by default see `wvq.prior.order.passes.spread_order`.

    Returns:
        (B, T) int64 in [0, K), on the model's device.

    Raises:
        InputError: for an argument out of its range, and for fewer passes than tokens with a prior of raster order.
        NonFiniteError: for scores that are NaN or infinite, as one bad weight makes them; it says at which position. A
            GPU is asked for them at the end.
    """
    if getattr(model.config, "scales", ()):
        raise InputError(f"the prior has scales {tuple(model.config.scales)}; give it to sample_scales")
    check_truncation(temperature, top_k, top_p, min_p)
    check_codes_per_position(codes_per_position, num_codes, num_tokens)
    scales = guidance_scales(guidance_scale, num_tokens, guidance_schedule, guidance_interval)
    guided = any(scale != 1 for scale in scales)
    check_vocabulary(model, class_labels, num_codes, guided)
    check_passes(model.config, num_tokens, num_passes)
    batch, null_class = len(class_labels), model.config.vocab_size - 1
    draws = uniform_draws(batch, num_tokens, generator).to(float64_device(model.device))
    sequences = torch.full((batch, num_tokens + 1), -1, device=model.device)  # the prompt, then the tokens
    sequences[:, 0] = class_labels.to(model.device) + num_codes + num_positions(model.config)
    if known_tokens is not None:
        check_known(known_tokens, batch, num_tokens, num_codes)
        check_turns("known_tokens", known_tokens, num_codes, codes_per_position)
        sequences[:, 1 : 1 + known_tokens.shape[1]] = known_tokens.to(model.device)
    free = sequences[:, 1:] < 0
    undecided = free.any(dim=0).nonzero().flatten().tolist()

    if block_size is not None and block_size < 1:
        raise InputError(f"block_size is {block_size}; it must be at least 1")
    at_once = full_block_size(model.device) if isinstance(generator, Sequence) else batch
    blocks = padded_blocks(batch, block_size or min(at_once, batch), model.device)
    rows = (2 if guided else 1) * len(blocks[0])
    ids = [of_turn for _, of_turn in turns(num_codes, codes_per_position)]

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            prepare = build_decoder if was_training else kept_decoder  # what is being trained will change
            drawn, computed = 1, 1  # tokens of an image in a step, about
            if has_free_order(model.config):
                drawn = -(-num_tokens // (num_passes or num_tokens))
                computed = 2 * drawn
            decoder = prepare(model, num_codes, rows * computed, dtype, len(blocks[0]) * drawn)
        if has_free_order(model.config):
            how = Drawing(num_codes, codes_per_position, scales, temperature, top_k, top_p, min_p)
            ids, tokens, passes = sequences[:, 0], sequences[:, 1:].clone(), num_passes or num_tokens
            draw_in_passes(
                decoder, ids, null_class, tokens, draws, how, passes, block_size, at_once, on_token, grid_shape
            )
            return tokens
        with torch.inference_mode():
            caches = [decoder.new_cache(rows, num_tokens) for _ in blocks]
        finite = FiniteScores(batch, guided, model.device, "at position {}".format)
        seen = 0
        for position in undecided:  # what is known before and between is seen on the way
            with torch.inference_mode():  # not around the callback: its tokens, and the result, are ordinary tensors
                own = ids[position % codes_per_position]
                for block, cache in zip(blocks, caches, strict=True):
                    new = sequences[block, seen : position + 1]
                    if guided:
                        new = new.repeat(2, 1)
                        if seen == 0:
                            new[len(block) :, 0] = null_class
                    features, *rest = decoder(new, cache).flatten(0, 1).chunk(2 if guided else 1)
                    if scales[position] != 1:
                        features = rest[0] + scales[position] * (features - rest[0])
                    scores = finite.checked(decoder.logits(features), block, position)[:, own]
                    uniform = draws[block.to(draws.device), position]  # which may be where there is float64
                    code = own.start + draw_codes(scores, uniform, temperature, top_k, top_p, min_p)
                    given = sequences[block, position + 1]
                    sequences[block, position + 1] = torch.where(free[block, position], code, given)
            seen = position + 1
            if on_token:
                on_token(position, sequences[:, 1 : position + 2].clone())
        finite.check()
        decoder.give_back(caches)
    finally:
        model.train(was_training)
    return sequences[:, 1:].clone()


def check_sampling(guidance_scale: float, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    """Check the sampling arguments that need no model.

    Raises:
        InputError: naming the argument, its value and what would be valid.
    """
    guidance_scales(guidance_scale, 1)
    check_truncation(temperature, top_k, top_p, min_p)


def check_vocabulary(model: PreTrainedModel, class_labels: Tensor, num_codes: int, guided: bool) -> None:
    """Raises: InputError: unless the model's ids leave room for so many codes, and for these labels and guidance."""
    num_classes = model.config.vocab_size - 1 - num_codes - num_positions(model.config)
    if num_codes != (own := getattr(model.config, "num_codes", num_codes)):  # which a foreign model does not say
        raise InputError(f"num_codes is {num_codes}; this prior has {own}")
    if num_codes < 1 or num_classes < 0:
        raise InputError(
            f"num_codes is {num_codes}; the model's vocabulary of {model.config.vocab_size} leaves room for "
            f"1 to {model.config.vocab_size - 1} codes beside the null class"
        )
    if guided and num_classes == 0:
        raise InputError("guidance was asked of a prior without classes; its guidance_scale can only be 1")
    if class_labels.ndim != 1 or len(class_labels) == 0:
        raise InputError(f"class_labels has shape {tuple(class_labels.shape)}; it must be (B,) with B >= 1")
    if not 0 <= int(class_labels.min()) <= int(class_labels.max()) <= num_classes:
        raise InputError(
            f"class_labels reach from {int(class_labels.min())} to {int(class_labels.max())}; "
            f"valid are 0 to {num_classes}, the last being the null class"
        )


def check_passes(config: Any, num_tokens: int, num_passes: int | None) -> None:
    """Raises: InputError: unless a model or `PriorConfig` of this configuration can draw so many tokens in so many
    passes; None leaves the passes to it."""
    if scales := getattr(config, "scales", ()):
        if num_passes not in (None, len(scales)):
            raise InputError(f"num_passes is {num_passes}; a prior with {len(scales)} scales draws each in a pass")
    elif has_free_order(config):
        if num_tokens != config.num_tokens:
            raise InputError(f"num_tokens is {num_tokens}; this prior of free order has {config.num_tokens}")
        if num_passes is not None and not 1 <= num_passes <= num_tokens:
            raise InputError(f"num_passes is {num_passes}; it must be from 1 to num_tokens, {num_tokens}")
    elif num_tokens > (own := getattr(config, "num_tokens", num_tokens)):
        raise InputError(
            f"num_tokens is {num_tokens}; this prior has {own}, and draws the first of them if asked for fewer"
        )
    elif num_passes not in (None, num_tokens):
        raise InputError(
            f"num_passes is {num_passes}; a prior of raster order draws a token in each pass, {num_tokens} in all "
            "(one that draws several is trained with --order random)"
        )


def check_known(known: Tensor, batch: int, num_tokens: int, num_codes: int) -> None:
    """Raises: InputError: unless the known tokens are (B, n), n <= T, in [0, K) or -1."""
    if known.ndim != 2 or len(known) != batch or known.shape[1] > num_tokens or known.is_floating_point():
        raise InputError(
            f"known_tokens has shape {tuple(known.shape)} and dtype {known.dtype}; "
            f"it must be integers ({batch}, n) with n <= {num_tokens}, the tokens of an image"
        )
    if known.numel() and not -1 <= int(known.min()) <= int(known.max()) < num_codes:
        raise InputError(
            f"known_tokens reach from {int(known.min())} to {int(known.max())}; "
            f"valid are 0 to {num_codes - 1}, and -1 for a token to be drawn"
        )


def uniform_draws(batch: int, num_tokens: int, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    """Uniform numbers (B, T), float64 where the generator's device has it, from one generator or from one per image."""

    def draw(*shape: int, source: torch.Generator | None) -> Tensor:
        device = source.device if source else torch.device("cpu")
        dtype = torch.float64 if has_float64(device) else torch.float32
        return torch.rand(*shape, dtype=dtype, generator=source, device=device)

    if generator is None or isinstance(generator, torch.Generator):
        return draw(batch, num_tokens, source=generator)
    if len(generator) != batch:
        raise InputError(f"{len(generator)} generators were given for {batch} images; give one, or one per image")
    return torch.stack([draw(num_tokens, source=own) for own in generator])
