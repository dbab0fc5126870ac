"""Drawing the tokens of a prior of free order, several positions in a pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from wvq.tokenizer.blocks import padded_blocks
from wvq.tokenizer.decided_there import may_ask
from wvq.tokenizer.errors import InputError, NonFiniteError

from ..decoder import build_decoder
from ..decoder.any_model import Decoder, ModelDecoder
from ..decoder.pass_cache import PassCache
from ..truncation import draw_codes
from .passes import pass_sizes, spread_order
from .sequences import num_positions, pairs


@dataclass(frozen=True)
class Drawing:
    """How codes are drawn from scores; T tokens an image.

    Attributes:
        num_codes, codes_per_position: K and M.
        scales: guidance of the first, second, ... token that becomes known, (T,).
        temperature, top_k, top_p, min_p: of `draw_codes`.
    """

    num_codes: int
    codes_per_position: int
    scales: Sequence[float]
    temperature: float
    top_k: int
    top_p: float
    min_p: float

    @property
    def guided(self) -> bool:
        return any(scale != 1 for scale in self.scales)


def draw_in_passes(
    model: PreTrainedModel,
    labels: Tensor,
    tokens: Tensor,
    draws: Tensor,
    drawing: Drawing,
    num_passes: int,
    block_size: int | None = None,
    dtype: torch.dtype | None = None,
    on_token: Callable[[int, Tensor], None] | None = None,
) -> None:
    """Draw what is unknown of tokens, in place; all that is known, wherever it stands, is what the model sees first.

    Args:
        model: in eval mode.
        labels: (B,) int64, of the classes.
        tokens: (B, T) int64, -1 for those to be drawn.
        draws: (B, T) uniform numbers, one for each token.
        num_passes: passes at most; none draws nothing.
        block_size: images computed together, the last block filled up; all by default.
        dtype, on_token: as for `wvq.prior.sample_tokens`.

    Raises:
        InputError: for a model that has to be called instead of read.
        NonFiniteError: for scores that are NaN or infinite; a GPU is asked for them at the end.
    """
    guided = drawing.guided
    decoder = build_decoder(model, drawing.num_codes, (2 if guided else 1) * (block_size or len(tokens)), dtype)
    if isinstance(decoder, ModelDecoder):
        raise InputError("a prior of free order that is wrapped, hooked or quantized cannot be drawn from in passes")
    order = spread_order(tokens.shape[1], drawing.codes_per_position, tokens.device)
    known = (tokens >= 0).sum(dim=1)
    blocks: list[_Block] = []
    for count in known.unique().tolist():  # images of which as much is known go through their passes together
        alike = (known == count).nonzero().flatten()
        for rows in padded_blocks(len(alike), block_size or len(alike), tokens.device):
            blocks.append(_Block(alike[rows], count, order, labels, tokens, model, decoder, drawing, num_passes, dtype))
    broken = torch.full((len(tokens),), tokens.shape[1], device=tokens.device)  # the first pass of each that was not
    for number in range(max(len(block.sizes) for block in blocks)):
        with torch.inference_mode():  # not around the callback, whose tokens are ordinary tensors
            for block in blocks:
                block.draw(number, tokens, draws, broken)
        if may_ask(tokens.device):
            _check(broken, tokens.shape[1], guided)
        if on_token:
            on_token(min(block.known for block in blocks) - 1, tokens.clone())
    _check(broken, tokens.shape[1], guided)


class _Block:
    """Images that are computed together, of each of which as many tokens are known."""

    def __init__(
        self, images: Tensor, known: int, order: Tensor, labels: Tensor, tokens: Tensor, model: PreTrainedModel,
        decoder: Decoder, drawing: Drawing, num_passes: int, dtype: torch.dtype | None,
    ):  # fmt: skip
        self.images, self.known, self.decoder, self.drawing = images, known, decoder, drawing
        self.sizes = pass_sizes(len(order) - known, num_passes)
        places = order.expand(len(images), -1)
        unknown = (tokens[images].gather(1, places) < 0).int()
        self.places = places.gather(1, unknown.argsort(dim=1, stable=True))  # first what is known, each in the order
        given = pairs(tokens[images], self.places[:, :known], drawing.num_codes)
        first_class = drawing.num_codes + num_positions(model.config)
        self.fed = torch.cat([(labels[images] + first_class)[:, None], given], dim=1)
        if drawing.guided:
            self.fed = self.fed.repeat(2, 1)
            self.fed[len(images) :, 0] = model.config.vocab_size - 1
        like = torch.empty(0, dtype=dtype or model.dtype, device=model.device)
        like = like.bfloat16() if dtype == torch.int8 else like
        self.cache = PassCache(model.config, len(self.fed), 2 * len(order) + 1, like)

    def draw(self, number: int, tokens: Tensor, draws: Tensor, broken: Tensor) -> None:
        """Draw the codes of a pass into tokens (B, T); broken (B,) takes note of scores that are not finite."""
        if number >= len(self.sizes):
            return
        rows, count, K = len(self.images), self.sizes[number], self.drawing.num_codes
        places = self.places[:, self.known : self.known + count]
        queries = (places + K).repeat(len(self.fed) // rows, 1)
        self.cache.queries = count
        logits = self.decoder(torch.cat([self.fed, queries], dim=1), self.cache, last=count)
        scores = self._guided(logits.view(-1, rows, count, K))
        bad = ~scores.isfinite().flatten(1).all(dim=1)
        broken[self.images] = torch.where(bad, broken[self.images].clamp(max=number), broken[self.images])
        scores = scores.masked_fill(bad[:, None, None], 0.0)  # else the draw would be no code
        drawn = self._draw(scores, places, draws[self.images].gather(1, places))
        tokens[self.images[:, None], places] = drawn
        self.fed = torch.stack([queries, drawn.repeat(len(self.fed) // rows, 1)], dim=2).flatten(1)
        self.known += count

    def _guided(self, logits: Tensor) -> Tensor:
        """Scores (R, n, K) from logits of the class and, with guidance, of the null class, (1 or 2, R, n, K)."""
        scales = self.drawing.scales[self.known : self.known + logits.shape[2]]
        if all(scale == 1 for scale in scales):
            return logits[0]
        scale = torch.tensor(scales, device=logits.device)[:, None]
        return torch.where(scale == 1, logits[0], logits[1] + scale * (logits[0] - logits[1]))

    def _draw(self, scores: Tensor, places: Tensor, draws: Tensor) -> Tensor:
        """Codes (R, n) from scores (R, n, K) of tokens places (R, n), each one of the codes whose turn it is."""
        how, turn = self.drawing, places % self.drawing.codes_per_position
        own = scores.unflatten(2, (how.codes_per_position, -1))
        own = own.gather(2, turn[:, :, None, None].expand(-1, -1, 1, own.shape[3]))[:, :, 0]
        drawn = draw_codes(
            own.flatten(0, 1), draws.flatten(), how.temperature, how.top_k, how.top_p, how.min_p
        )  # fmt: skip
        return drawn.view_as(places) + turn * own.shape[2]


def _check(broken: Tensor, none: int, guided: bool) -> None:
    """Raises: NonFiniteError: naming the first pass and image with scores that are not finite; `none` where all are."""
    if (first := int(broken.min())) < none:
        raise NonFiniteError(
            f"the scores of image {broken.tolist().index(first)} in pass {first} are not finite; "
            f"try {'a lower guidance_scale, and ' * guided}whether all weights of the prior are finite"
        )
