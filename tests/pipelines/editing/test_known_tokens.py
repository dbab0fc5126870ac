"""The positions that are drawn: those with a hidden pixel, and those whose encoder looks into what is hidden."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipelines import tiny_tokenizer
from torch import Tensor, nn

from wvq.pipelines.editing.known_tokens import drawn_positions
from wvq.pipelines.editing.masks import outside
from wvq.tokenizer import VQTokenizer


def looking(rows_up: int) -> VQTokenizer:
    """A tokenizer of 4 x 4 positions, each of which sees what lies `rows_up` positions above it, and nothing else."""
    tokenizer = tiny_tokenizer()
    convolutions = [layer for layer in tokenizer.encoder.modules() if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for layer in convolutions:
            taps = torch.zeros(3, 3)
            taps[1 - rows_up if layer is convolutions[-1] else 1, 1] = 1.0
            layer.weight *= taps
    return tokenizer


def cells(mask: Tensor) -> Tensor:
    """Which positions of a mask (16, 16) have a hidden pixel, (4, 4)."""
    return mask.view(4, 4, 4, 4).any(dim=3).any(dim=1)


@given(seed=st.integers(0, 1000), share=st.floats(0, 0.3))
@settings(max_examples=20, deadline=None)
def test_where_nobody_looks_elsewhere_only_touched_positions_are_drawn(seed: int, share: float):
    mask = torch.rand(16, 16, generator=torch.Generator().manual_seed(seed)) < share
    assert torch.equal(drawn_positions(looking(0), mask[None])[0], cells(mask))


def test_who_looks_into_what_is_hidden_is_drawn_as_well():
    upper = ~outside((0, 0, 16, 8), 16)
    assert drawn_positions(looking(1), upper[None])[0].all(dim=1).tolist() == [True, True, True, False]
    assert drawn_positions(looking(1), ~upper[None])[0].all(dim=1).tolist() == [False, False, True, True]


@pytest.mark.parametrize("hidden", [False, True])
def test_all_or_nothing(hidden: bool):
    mask = torch.full((1, 16, 16), hidden)
    assert torch.equal(drawn_positions(tiny_tokenizer(), mask), torch.full((1, 4, 4), hidden))


def test_each_image_has_its_own_positions():
    masks = torch.rand(5, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.1
    masks[3] = masks[1]
    tokenizer = tiny_tokenizer()
    alone = torch.cat([drawn_positions(tokenizer, mask[None]) for mask in masks])
    assert torch.equal(drawn_positions(tokenizer, masks), alone)
    assert len(alone.unique(dim=0)) == 4
