"""How often each code of a codebook is chosen, counted and as a picture."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wvq.tokenizer.data.batches import evenly_spaced
from wvq.tokenizer.data.decoding import to_model
from wvq.tokenizer.metrics import perplexity, utilization

from .models import Model
from .values import OnStep

_BATCH = 64


@dataclass(frozen=True)
class Usage:
    """How often each code was chosen.

    Attributes:
        images, tokens: how many were counted.
        counts: (M, K), of each codebook.
    """

    images: int
    tokens: int
    counts: Tensor

    def __str__(self) -> str:
        lines = [f"{self.tokens:,} tokens of {self.images:,} test images"]
        for number, counts in enumerate(self.counts):
            codebook = f"codebook {number}: " if len(self.counts) > 1 else ""
            dead = int((counts == 0).sum())
            lines.append(
                f"{codebook}{len(counts) - dead:,} of {len(counts):,} codes used (utilization "
                f"{float(utilization(counts)):.3f}), {dead:,} dead, perplexity {float(perplexity(counts)):,.0f}"
            )
        per_code = self.tokens / self.counts.numel()
        if per_code < 10:
            lines.append(f"only {per_code:.1f} tokens for each code: some seem dead that are merely rare")
        return "\n".join(lines)


def count_usage(model: Model, images: int, on_step: OnStep) -> Usage:
    """Usage of the codes by test images, evenly spaced among all of them.

    Raises:
        InputError: without test images.
    """
    model.test_image(0)
    assert model.test_images is not None
    tokenizer = model.pipeline.tokenizer
    config = tokenizer.config
    chosen = evenly_spaced(len(model.test_images), images)
    counts = torch.zeros(config.codes_per_position, config.codebook_size, dtype=torch.int64, device="cpu")
    for start in range(0, len(chosen), _BATCH):
        batch = model.test_images.take(chosen[start : start + _BATCH])["images"]
        indices = tokenizer.encode(to_model(batch.to(tokenizer.device))).cpu().view(-1, config.codes_per_position)
        for part, own in enumerate(indices.unbind(dim=1)):
            counts[part] += own.bincount(minlength=config.codebook_size)
        on_step(min(start + _BATCH, len(chosen)), len(chosen))
    return Usage(len(chosen), int(counts.sum()), counts)


def usage_picture(cells: Tensor, counts: Tensor) -> Tensor:
    """A map (R, C) of counts (K,), uint8 (3, R, C): the more often a code is chosen the darker its blue, on a
    logarithmic scale; dead codes red, empty cells white."""
    chosen = torch.where(cells >= 0, counts[cells.clamp(min=0)], 0)
    share = chosen.float().log1p() / chosen.max().float().log1p().clamp(min=1e-6)
    light, dark = (torch.tensor(colour, device="cpu").view(3, 1, 1) for colour in ((214.0, 230, 244), (8.0, 48, 107)))
    picture = torch.lerp(light, dark, share[None])
    dead = torch.tensor((214.0, 39, 40), device="cpu").view(3, 1, 1)
    picture = torch.where((chosen == 0)[None], dead, picture)
    return torch.where((cells < 0)[None], torch.full_like(picture, 255), picture).to(torch.uint8)
