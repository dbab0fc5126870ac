"""Drawing the tokens of a prior of free order, several positions in a pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wvq.tokenizer.blocks import padded_blocks

from ..decoder.any_model import Decoder
from ..finite_scores import FiniteScores
from ..truncation import draw_codes
from .passes import pass_sizes, spread_order
from .sequences import pairs


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
    decoder: Decoder,
    class_ids: Tensor,
    null_class: int,
    tokens: Tensor,
    draws: Tensor,
    drawing: Drawing,
    num_passes: int,
    block_size: int | None = None,
    at_once: int = 16,
    on_token: Callable[[int, Tensor], None] | None = None,
    grid_shape: tuple[int, int] | None = None,
) -> None:
    """Draw what is unknown of tokens, in place; all that is known, wherever it stands, is what the model sees first.

    Args:
        decoder: of a prior of free order.
        class_ids: (B,) int64 ids of the classes, and that of the null class.
        tokens: (B, T) int64, -1 for those to be drawn.
        draws: (B, T) uniform numbers, one for each token.
        num_passes: passes at most; there are none where nothing is to be drawn.
        block_size: images computed together, the last block filled up; by default up to at_once, as many as there are.
        on_token: as for `wvq.prior.sample_tokens`.
        grid_shape: see `wvq.prior.order.passes.spread_order`.

    Raises:
        NonFiniteError: for scores that are NaN or infinite; a GPU is asked for them at the end.
    """
    order = spread_order(tokens.shape[1], drawing.codes_per_position, tokens.device, grid_shape)
    known = (tokens >= 0).sum(dim=1)
    blocks: list[_Block] = []
    for count in known.unique().tolist():  # images of which as much is known go through their passes together
        alike = (known == count).nonzero().flatten()
        for rows in padded_blocks(len(alike), block_size or min(at_once, len(alike)), tokens.device):
            images, sizes = alike[rows], pass_sizes(len(order) - count, num_passes)
            blocks.append(_Block(images, sizes, order, class_ids[images], null_class, tokens[images], decoder, drawing))
    finite = FiniteScores(len(tokens), drawing.guided, tokens.device, "in pass {}".format)
    for number in range(max(len(block.sizes) for block in blocks)):
        with torch.inference_mode():  # not around the callback, whose tokens are ordinary tensors
            for block in blocks:
                block.draw(number, tokens, draws, finite)
        if on_token:
            on_token(min(block.known for block in blocks) - 1, tokens.clone())
    finite.check()
    decoder.give_back(block.cache for block in blocks)


class _Block:
    """Images that are computed together, of each of which as many tokens are known.

    A pass feeds the codes of the pass before, and then its queries: ids of the positions whose codes are wanted. Every
    token is told its place in the sequence of pairs that the model has learnt from, and stays in the cache, so that a
    pass computes two tokens for each that it draws. Of their own pass queries see nothing but themselves, since no code
    of it is known yet, and codes the pairs before them; of the passes before, both see everything.
    """

    def __init__(
        self, images: Tensor, sizes: list[int], order: Tensor, class_ids: Tensor, null_class: int, tokens: Tensor,
        decoder: Decoder, drawing: Drawing,
    ):  # fmt: skip
        self.images, self.sizes, self.decoder, self.drawing = images, sizes, decoder, drawing
        self.known = len(order) - sum(sizes)
        self.scales = torch.tensor(drawing.scales, device=tokens.device)
        places = order.expand(len(images), -1)
        unknown = (tokens.gather(1, places) < 0).int()
        self.places = places.gather(1, unknown.argsort(dim=1, stable=True))  # first what is known, each in the order
        given = pairs(tokens, self.places[:, : self.known], drawing.num_codes)
        self.fed = torch.cat([class_ids[:, None], given], dim=1)
        if drawing.guided:
            self.fed = self.fed.repeat(2, 1)
            self.fed[len(images) :, 0] = null_class
        with torch.inference_mode():
            self.cache = decoder.new_cache(len(self.fed), 2 * len(order) + 1, one_by_one=False)
        self.kept = 0  # tokens in the cache

    def draw(self, number: int, tokens: Tensor, draws: Tensor, finite: FiniteScores) -> None:
        """Draw the codes of a pass into tokens (B, T), by draws (B, T), which may be where there is float64."""
        if number >= len(self.sizes):
            return
        rows, count = len(self.images), self.sizes[number]
        places = self.places[:, self.known : self.known + count]
        queries = (places + self.drawing.num_codes).repeat(len(self.fed) // rows, 1)
        scores = self.decoder.logits(self._guided(self._features(queries).unflatten(0, (-1, rows))))
        scores = finite.checked(scores, self.images, number)
        uniform = draws[self.images.to(draws.device)].gather(1, places.to(draws.device))
        drawn = self._draw(scores, places, uniform)
        tokens[self.images[:, None], places] = drawn
        self.fed = drawn.repeat(len(self.fed) // rows, 1)
        self.known += count

    def _features(self, queries: Tensor) -> Tensor:
        """What the decoder's `logits` takes for the codes at queries (R, n), ids of positions; (R, n, F)."""
        before, fed, count = self.kept, self.fed.shape[1], queries.shape[1]
        end, self.kept = before + fed, before + fed + count
        seen = torch.arange(self.kept, device=queries.device)
        new = seen[before:]
        visible = (seen <= new[:, None]) & ((seen < end) | (seen == new[:, None]))
        each, positions = seen[: max(fed, count)], new.clone()
        if before:  # codes, whose queries are the last that the cache has
            visible[:fed, before - fed : before] = each[:fed] <= each[:fed, None]
            positions[:fed] = before - fed + 1 + 2 * each[:fed]
        positions[fed:] = end + 2 * each[:count]
        new_tokens = torch.cat([self.fed, queries], dim=1)
        return self.decoder(new_tokens, self.cache, positions, visible, num_logits=count)

    def _guided(self, features: Tensor) -> Tensor:
        """Mixtures (R, n, F) of those of the class and, with guidance, of the null class, (1 or 2, R, n, F)."""
        drawn = slice(self.known, self.known + features.shape[2])
        if all(scale == 1 for scale in self.drawing.scales[drawn]):
            return features[0]
        scale = self.scales[drawn, None]
        return torch.where(scale == 1, features[0], features[1] + scale * (features[0] - features[1]))

    def _draw(self, scores: Tensor, places: Tensor, draws: Tensor) -> Tensor:
        """Codes (R, n) from scores (R, n, K) of tokens places (R, n), each one of the codes whose turn it is."""
        how, turn = self.drawing, places % self.drawing.codes_per_position
        own = scores.unflatten(2, (how.codes_per_position, -1))
        own = own.gather(2, turn[:, :, None, None].expand(-1, -1, 1, own.shape[3]))[:, :, 0]
        drawn = draw_codes(
            own.flatten(0, 1), draws.flatten(), how.temperature, how.top_k, how.top_p, how.min_p
        )  # fmt: skip
        return drawn.view_as(places) + turn * own.shape[2]
