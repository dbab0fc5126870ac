"""What the tokens around a hole make of what it is filled with, before they are encoded."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wvq.pipelines.editing.known_tokens import drawn_positions
from wvq.pipelines.editing.masked_images import masked_images
from wvq.tokenizer import VQTokenizer
from wvq.tokenizer.data.decoding import to_model


def _mean(images: Tensor, known: Tensor) -> Tensor:
    """The mean colour (N, C) of what is known, (H, W)."""
    return images[:, :, known].float().mean(dim=2)


def _border(images: Tensor, known: Tensor) -> Tensor:
    """The mean colour (N, C) of those known pixels that touch a hidden one, also by a corner."""
    beside = F.max_pool2d((~known)[None].float(), 3, stride=1, padding=1)[0] > 0
    return _mean(images, known & beside)


FLAT_FILLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean colour": _mean, "colour of the border": _border}
NEAREST = "nearest known pixel"


def fill_rows(tokenizer: VQTokenizer, images: Tensor, masks: dict[str, Tensor]) -> Iterator[dict[str, Any]]:
    """For each mask, bool (H, W), and fill: how far the kept positions of images, uint8 (N, C, H, W), have changed.

    Yields:
        {"mask", "fill", "kept": share of the positions, "same_codes": share of the kept ones whose code is that of the
        whole image, "feature_error": mean squared distance of their features to those of the whole image, over the
        trace of the features' covariance}.
    """
    with torch.no_grad():
        whole, codes = _features_and_codes(tokenizer, images)
        trace = whole.movedim(1, -1).flatten(0, 2).var(dim=0).sum()
        for name, mask in masks.items():
            kept = ~drawn_positions(tokenizer, mask[None])[0].to(whole.device)
            filled = {NEAREST: masked_images(images, mask, tokenizer.config).pixels}
            for fill, colour in FLAT_FILLS.items():
                flat = colour(images, ~mask).round().to(torch.uint8)[:, :, None, None]
                filled[fill] = torch.where(mask, flat, images)
            for fill, pixels in filled.items():
                features, own = _features_and_codes(tokenizer, pixels)
                error = (features - whole).square().sum(dim=1)[:, kept].mean() / trace
                same = (own == codes)[:, kept].float().mean()
                row = {"same_codes": float(same), "feature_error": float(error)}
                yield {"mask": name, "fill": fill, "kept": float(kept.float().mean()), **row}


def _features_and_codes(tokenizer: VQTokenizer, images: Tensor) -> tuple[Tensor, Tensor]:
    features = torch.cat([tokenizer.features(to_model(some.to(tokenizer.device))) for some in images.split(64)])
    return features.float(), tokenizer.quantizer(features).indices
