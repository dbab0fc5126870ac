"""Differentiable augmentation: what it does to pixels, and that it follows from seed, step and place alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wvq.tokenizer.adversarial import augmentation
from wvq.tokenizer.adversarial.augmentation import augment, augmentation_draws

# What draws are of: three gates; brightness, saturation, contrast; row and column of the shift, then of the square.
NOTHING, EVERYTHING = 0.999, 0.0
NEUTRAL = (0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 16, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1


def draws(gates: tuple[float, ...], values: tuple[float, ...]) -> Tensor:
    return torch.tensor([[*gates, *values]] * 2)


def test_where_nothing_is_drawn_images_stay() -> None:
    extreme = draws((NOTHING,) * 3, (0.9, 0.1, 0.9, 0.1, 0.9, 0.1, 0.9))
    assert augment(images(), extreme).equal(images())
    assert augment(images(), draws((EVERYTHING,) * 3, NEUTRAL), probability=0.0).equal(images())


def test_colours_by_hand() -> None:
    x = images()
    only = (EVERYTHING, NOTHING, NOTHING)
    torch.testing.assert_close(augment(x, draws(only, NEUTRAL)), x)
    torch.testing.assert_close(augment(x, draws(only, (0.75, *NEUTRAL[1:]))), x + 0.25)
    grey = x.mean(1, keepdim=True)
    torch.testing.assert_close(augment(x, draws(only, (0.5, 0.0, *NEUTRAL[2:]))), grey.expand_as(x))
    torch.testing.assert_close(augment(x, draws(only, (0.5, 0.75, *NEUTRAL[2:]))), grey + 1.5 * (x - grey))
    mean = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(augment(x, draws(only, (0.5, 0.5, 0.25, *NEUTRAL[3:]))), mean + 0.75 * (x - mean))


def test_translation_by_whole_pixels() -> None:
    x = images()
    # (2 * 0.875 - 1) * 0.25 is 3/16 of 16 rows; (2 * 0.1 - 1) * 0.25 is -1/5 of 20 columns.
    moved = augment(x, draws((NOTHING, EVERYTHING, NOTHING), (0, 0, 0, 0.875, 0.1, 0, 0)), translation=0.25)
    expected = torch.zeros_like(x)
    expected[:, :, :13, 4:] = x[:, :, 3:, :16]
    assert moved.equal(expected)


def test_a_square_is_cut_out() -> None:
    x = images()
    cut = augment(x, draws((NOTHING, NOTHING, EVERYTHING), (0, 0, 0, 0, 0, 0.5, 0.0)), cutout=0.5)
    expected = x.clone()
    expected[:, :, 4:12, :5] = 0
    assert cut.equal(expected)


@given(seed=st.integers(0, 10_000))
def test_gradients_flow_to_every_pixel_that_stays(seed: int) -> None:
    x = images().requires_grad_()
    draw = augmentation_draws(seed, 0, 2)
    draw[:, 4] = draw[:, 4].clamp(min=0.1)  # grey has no gradient of colour
    seen = augment(x, draw, probability=1.0)
    (gradient,) = torch.autograd.grad(seen.square().sum(), x)
    assert gradient.isfinite().all()
    assert gradient.ne(0).any(1).sum() >= 0.99 * seen.ne(0).any(1).sum()


def test_draws_follow_from_seed_and_step() -> None:
    drawn = augmentation_draws(3, 7, 64)
    assert drawn.shape == (64, 10)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert augmentation_draws(3, 7, 64).equal(drawn)
    assert not augmentation_draws(3, 8, 64).equal(drawn)
    assert not augmentation_draws(4, 7, 64).equal(drawn)


def test_two_processes_draw_what_one_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = augmentation_draws(1, 2, 6)
    monkeypatch.setattr(augmentation, "num_processes", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(augmentation, "process_index", lambda rank=rank: rank)
        assert augmentation_draws(1, 2, 3).equal(whole[3 * rank : 3 * rank + 3])
