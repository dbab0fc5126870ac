"""LlamaGen's sizes (arXiv 2406.06525, table 1) by their published numbers of parameters."""

import pytest
import torch

from wvq.prior import PriorConfig, build_prior
from wvq.prior.model import SIZES, feed_forward_width

# Of LlamaGen's code by hand: two tables of 16,384 codes and one of 1,001 classes, (4 C^2 + 3 C F + 2 C) a layer, C.
PUBLISHED = {
    "B": (110_888_448, 111e6),
    "L": (342_910_976, 343e6),
    "XL": (774_699_520, 775e6),
    "XXL": (1_410_972_672, 1.4e9),
    "3B": (3_096_659_200, 3.1e9),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_numbers_of_parameters(size: str):
    exact, published = PUBLISHED[size]
    width, layers, _ = SIZES[size]
    inner = feed_forward_width(width)
    by_hand = (2 * 16384 + 1001) * width + layers * (4 * width**2 + 3 * width * inner + 2 * width) + width
    assert by_hand == exact
    with torch.device("meta"):
        prior = build_prior(PriorConfig(size=size, num_codes=16384, num_tokens=256, num_classes=1000))  # pyright: ignore[reportArgumentType]
    # Ours has rows for the classes in the output table as well, which are never drawn.
    count = sum(parameter.numel() for parameter in prior.parameters())
    assert count == exact + 1001 * width
    assert count == pytest.approx(published, rel=0.01)


def test_feed_forward_widths():
    widths = {size: feed_forward_width(width) for size, (width, _, _) in SIZES.items()}
    assert widths == {"XS": 512, "S": 1024, "M": 1376, "B": 2048, "L": 2816, "XL": 3584, "XXL": 4096, "3B": 8704}
