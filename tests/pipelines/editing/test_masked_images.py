"""What is left of images when a mask has taken out what it hides: tensors and pictures, and masks of both."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_pipelines import TOKENIZER
from torch import Tensor

from wvq.pipelines.base import sized_picture
from wvq.pipelines.editing.masked_images import masked_images
from wvq.tokenizer import InputError

SIZE = TOKENIZER.image_shape[1]  # 16


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(noise(height, width, 3, seed=seed).numpy())


def hole(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    mask = Image.new("1", size)
    mask.paste(1, (left, top, right, bottom))
    return mask


@given(seed=st.integers(0, 1000), share=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_hidden_pixels_have_the_colour_of_the_nearest_others(seed: int, share: float):
    images = noise(2, 3, SIZE, SIZE, seed=seed)
    mask = torch.rand(2, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) < share
    left = masked_images(images, mask, TOKENIZER)
    assert torch.equal(left.hidden, mask)
    other = torch.where(mask[:, None], noise(2, 3, SIZE, SIZE, seed=seed + 1), images)
    assert torch.equal(masked_images(other, mask, TOKENIZER).pixels, left.pixels)
    for image, hidden, made in zip(images, mask, left.pixels, strict=True):
        known = (~hidden).nonzero()
        if not len(known):
            assert (made == 128).all()
            continue
        for place in torch.cartesian_prod(torch.arange(SIZE), torch.arange(SIZE)):
            distances = (known - place).square().sum(dim=1)
            nearest = known[distances == distances.min()]
            assert any(torch.equal(made[:, *place], image[:, row, column]) for row, column in nearest)


def test_a_large_picture_shows_nothing_of_what_is_hidden_of_it():
    large, other = picture(50, 40), picture(50, 40, seed=1)
    mask = hole(12, 11, 29, 33, large.size)
    changed = Image.composite(other, large, mask)
    left = masked_images(large, mask, TOKENIZER)
    assert torch.equal(masked_images(changed, mask, TOKENIZER).pixels, left.pixels)
    # The square of 40 begins at column 5, and a pixel is 2.5 of its own: 7 / 2.5 to 24 / 2.5, 11 / 2.5 to 33 / 2.5.
    assert torch.equal(left.hidden[0], masked_images(noise(1, 3, 16, 16), hole(2, 4, 10, 14), TOKENIZER).hidden[0])
    outside = torch.where(left.hidden[:, None], 0, left.pixels)
    plain = masked_images(large, Image.new("1", large.size), TOKENIZER).pixels
    far = torch.ones(SIZE, SIZE, dtype=torch.bool)
    far[2:16, :12] = False  # what the resize reaches from the hole
    assert torch.equal(outside[0, :, far], plain[0, :, far])


@pytest.mark.parametrize("side", [40, 14])
def test_kept_pixels_are_those_of_training_but_where_these_would_show_what_is_hidden(side: int):
    large = picture(side, side)
    mask = hole(side // 4, side // 4, side // 2, side // 2, large.size)
    left = masked_images(large, mask, TOKENIZER)
    plain = sized_picture(large, SIZE, 3)
    others = [Image.composite(picture(side, side, seed=seed), large, mask) for seed in range(1, 6)]
    shows = torch.stack([sized_picture(other, SIZE, 3) != plain for other in others]).any(dim=0).any(dim=0)
    kept = ~left.hidden[0]
    assert torch.equal(left.pixels[0, :, kept & ~shows], plain[:, kept & ~shows])
    assert (kept & shows).any()


def test_rectangles_are_cropped_with_their_masks():
    config = replace(TOKENIZER, image_size=(16, 24))
    large, mask = (
        picture(72, 60),
        hole(12, 30, 24, 36, (72, 60)),
    )  # 6 rows are cut off above and below, 3 pixels are one
    left = masked_images(large, mask, config)
    expected = torch.zeros(16, 24, dtype=torch.bool)
    expected[8:10, 4:8] = True
    assert torch.equal(left.hidden[0], expected)
    changed = Image.composite(picture(72, 60, seed=1), large, mask)
    assert torch.equal(masked_images(changed, mask, config).pixels, left.pixels)
    assert torch.equal(masked_images(large, expected, config).hidden[0], expected)


@pytest.mark.parametrize(
    ("size", "picture_size"),
    [((48, 32), (120, 101)), ((32, 48), (101, 120)), ((32, 16), (120, 101)), ((16, 16), (9, 31))],
)
def test_what_no_mask_hides_has_the_crop_and_resize_of_training(size: Any, picture_size: Any):
    config, large = replace(TOKENIZER, image_size=size), picture(*picture_size)
    left = masked_images(large, Image.new("L", picture_size), config)
    assert torch.equal(left.pixels[0], sized_picture(large, size, 3))
    grey = replace(config, channels=1)
    left = masked_images(large, Image.new("L", picture_size), grey)
    assert torch.equal(left.pixels[0], sized_picture(large, size, 1))


def test_a_mask_with_a_transparent_colour_is_refused():
    mask = hole(2, 3, 5, 9).convert("L")
    mask.info["transparency"] = 0  # over white all of it would be drawn
    for images in (picture(SIZE, SIZE), noise(1, 3, SIZE, SIZE)):
        with pytest.raises(InputError, match="mask has a transparent colour"):
            masked_images(images, mask, TOKENIZER)


@pytest.mark.parametrize("side", [40, 16, 7])
def test_a_mask_of_the_tokenizers_size_hides_what_it_covers_of_any_picture(side: int):
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[4:9, 3:12] = True
    large = picture(side, side)
    covered = mask.repeat_interleave(side, 0).repeat_interleave(side, 1)  # in SIZE * side steps: sums of both sizes
    touched = covered.view(side, SIZE, side, SIZE).any(dim=3).any(dim=1)
    changed = Image.composite(picture(side, side, seed=1), large, Image.fromarray(touched.numpy()))
    left = masked_images([large, large], mask, TOKENIZER)
    assert torch.equal(left.hidden, mask.expand(2, -1, -1))
    assert torch.equal(masked_images(changed, mask, TOKENIZER).pixels[0], left.pixels[0])


def test_masks_are_white_where_to_draw_and_of_two_modes():
    images = noise(2, 3, SIZE, SIZE)
    expected = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    expected[3:9, 2:5] = True
    binary = hole(2, 3, 5, 9)
    grey = Image.new("L", (SIZE, SIZE), 127)
    grey.paste(128, (2, 3, 5, 9))
    for mask in (binary, grey, [binary, grey], expected, expected.expand(2, -1, -1), [expected] * 2):
        assert torch.equal(masked_images(images, mask, TOKENIZER).hidden, expected.expand(2, -1, -1))


def test_a_mask_belongs_to_the_upright_picture():
    upright = picture(20, 30)
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # shown turned back
    mask = hole(3, 8, 9, 12, upright.size)
    one, other = (masked_images(image, mask, TOKENIZER) for image in (upright, turned))
    assert torch.equal(one.pixels, other.pixels)
    assert torch.equal(one.hidden, other.hidden)


def test_given_pixels_are_pasted_over_what_was_drawn():
    images, drawn = noise(2, 3, SIZE, SIZE), noise(2, 3, SIZE, SIZE, seed=1)
    pasted = masked_images(images, hole(2, 3, 5, 9), TOKENIZER).around(drawn)
    assert torch.equal(pasted[:, :, 3:9, 2:5], drawn[:, :, 3:9, 2:5])
    pasted[:, :, 3:9, 2:5] = images[:, :, 3:9, 2:5]
    assert torch.equal(pasted, images)


IMAGES, MASK, BOOL = noise(2, 3, SIZE, SIZE), hole(0, 0, 4, 4), torch.ones(SIZE, SIZE, dtype=torch.bool)
REFUSED: list[tuple[Any, Any, str]] = [
    (IMAGES.float(), MASK, r"images have dtype torch.float32 and shape \(2, 3, 16, 16\); give uint8 \(N, 3, 16, 16\)"),
    (IMAGES[:, :, :8], MASK, r"images have dtype torch.uint8 and shape \(2, 3, 8, 16\)"),
    (IMAGES[:0], MASK, r"images have dtype torch.uint8 and shape \(0, 3"),
    (IMAGES, torch.zeros(4, 4, dtype=torch.bool), r"mask has shape \(4, 4\) and dtype torch.bool; it must be bool \(1"),
    (IMAGES, torch.zeros(SIZE, SIZE), "mask has shape .* dtype torch.float32"),
    (IMAGES, torch.zeros(3, SIZE, SIZE, dtype=torch.bool), r"mask has shape \(3, 16, 16\) .* or \(2, 16, 16\)"),
    (IMAGES, hole(0, 0, 2, 2, (8, 16)), r"mask has size \(8, 16\) and mode 1; it must be \(16, 16\), of mode 1 or L"),
    (IMAGES, MASK.convert("RGB"), r"mask has size \(16, 16\) and mode RGB"),
    (IMAGES, [MASK], "there are 1 masks for 2 images; give one for all, or one for each"),
    ([], MASK, "images is empty"),
    (picture(20, 30), hole(0, 0, 4, 4, (30, 20)), r"mask has size \(30, 20\) and mode 1; it must be \(20, 30\)"),
    (picture(20, 30), MASK, r"mask has size \(16, 16\)"),
    (picture(20, 30), torch.zeros(30, 20, dtype=torch.bool), r"mask has shape \(30, 20\)"),
    (Image.new("F", (16, 16)), MASK, "an image cannot be used: floating-point pixels"),
    (list(IMAGES), MASK, r"images has one of type Tensor; give a uint8 tensor \(N, C, H, W\), or PIL images"),
    (IMAGES.numpy(), MASK, "images has one of type ndarray; give a uint8 tensor"),
    (IMAGES, BOOL.numpy(), "mask is of type ndarray; give a bool tensor or PIL masks"),
    (IMAGES, None, "mask is of type NoneType; give a bool tensor or PIL masks"),
    (IMAGES, [BOOL.numpy()] * 2, "mask has one of type ndarray; give a bool tensor or PIL masks"),
    (IMAGES, [BOOL, BOOL[:8]], r"mask has shape \(8, 16\) and dtype torch.bool; it must be bool \(16, 16\)"),
    (IMAGES, [BOOL.byte()] * 2, r"mask has shape \(16, 16\) and dtype torch.uint8; it must be bool \(16, 16\)"),
    (picture(20, 30), [BOOL.float()], r"mask has shape \(16, 16\) and dtype torch.float32; it must be bool"),
]


@pytest.mark.parametrize(("images", "mask", "message"), REFUSED)
def test_what_does_not_fit_is_named(images: Any, mask: Any, message: str):
    with pytest.raises(InputError, match=message):
        masked_images(images, mask, TOKENIZER)
