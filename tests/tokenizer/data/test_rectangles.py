"""Images of any height and width: what is cut out, what passes as it is, and that squares are what they ever were."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wvq.tokenizer import InputError, TokenizerConfig
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.decoding import crop_in_words, sized_pixels
from wvq.tokenizer.image_size import height_and_width, image_size, size_in_json, size_in_words

sides = st.integers(1, 60)
wanted = st.integers(4, 24)


def noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@given(sides, sides, wanted, wanted)
def test_any_image_becomes_one_of_the_size(height: int, width: int, h: int, w: int) -> None:
    for channels in (1, 3):
        assert sized_pixels(noise(height, width), (h, w), channels).shape == (channels, h, w)


@given(wanted, wanted)
def test_pixels_of_the_size_pass_as_they_are(h: int, w: int) -> None:
    image = noise(h, w)
    assert (sized_pixels(image, (h, w), 3) == np.asarray(image).transpose(2, 0, 1)).all()
    grey = np.asarray(image)[..., 0]
    assert (sized_pixels(grey, (h, w), 1) == grey).all()


@given(sides, sides, wanted)
def test_a_square_is_the_centre_of_the_shorter_side(height: int, width: int, size: int) -> None:
    image, side = noise(height, width), min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    expected = square if side == size else square.resize((size, size), Image.Resampling.BICUBIC)
    assert (sized_pixels(image, size, 3) == np.asarray(expected).transpose(2, 0, 1)).all()
    assert (sized_pixels(image, image_size([size, size]), 3) == sized_pixels(image, size, 3)).all()


@given(wanted, wanted, st.integers(1, 4), st.integers(0, 30), st.booleans())
def test_what_is_cut_off_is_as_much_on_both_sides_and_only_that(h: int, w: int, k: int, margin: int, beside: bool):
    """A part of the size's own aspect ratio between two margins is all that is seen."""
    edges = ((0, 0), (margin, margin)) if beside else ((margin, margin), (0, 0))
    image = Image.fromarray(np.pad(np.full((k * h, k * w), 99, np.uint8), edges))
    assert (sized_pixels(image, (h, w), 1) == 99).all()
    thicker = Image.fromarray(np.pad(np.full((k * h, k * w), 99, np.uint8), edges, constant_values=255))
    assert (sized_pixels(thicker, (h, w), 1) == 99).all()


@given(st.integers(1, 999), st.integers(1, 999))
def test_one_form_of_each_size(height: int, width: int) -> None:
    size = image_size([height, width])
    assert height_and_width(size) == (height, width)
    assert isinstance(size, int) == (height == width)
    assert image_size(size) == image_size(size_in_json(size)) == size
    assert size_in_words(size) == f"{height} x {width}"
    assert crop_in_words(size) == crop_in_words(size_in_json(size))


def test_a_size_in_configurations() -> None:
    assert DataConfig(image_size=[32, 32]) == DataConfig(image_size=32)  # pyright: ignore[reportArgumentType]
    config = DataConfig(image_size=(32, 48), channels=1)
    assert config.shape == (1, 32, 48)
    tokenizer = TokenizerConfig(image_size=(32, 48), patch_size=2, codebook_size=64, quantizer="product")
    assert (tokenizer.grid_shape, tokenizer.grid_size, tokenizer.num_positions) == ((4, 6), (4, 6), 24)
    assert (tokenizer.indices_shape, tokenizer.num_tokens) == ((4, 6, 2), 48)
    assert TokenizerConfig(image_size=32).grid_size == 8
    with pytest.raises(InputError, match=r"image_size is \(32, 50\); .* it must divide by 4"):
        TokenizerConfig(image_size=(32, 50))
    for size, message in (((3, 48), "at least 4"), ((32, 4.5), "whole number"), ((1, 2, 3), "height and width")):
        with pytest.raises(InputError, match=message):
            DataConfig(image_size=size)  # pyright: ignore[reportArgumentType]
