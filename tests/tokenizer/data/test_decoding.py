"""Decoding, crop and resize: `wvq.tokenizer.data.decoding`."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from PIL import Image

from wvq.tokenizer.data.decoding import BadImage, sized_pixels

RAMP = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


def encoded(image: Image.Image, suffix: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


@given(arrays(np.uint8, (8, 8, 3)))
@settings(max_examples=20, deadline=None)
def test_an_image_of_the_right_size_passes_bit_exact(pixels):
    assert (sized_pixels(encoded(Image.fromarray(pixels)), 8, 3) == pixels.transpose(2, 0, 1)).all()


def test_grey_passes_bit_exact_encoded_or_not_in_one_channel_and_in_three():
    grey = RAMP[..., 0].copy()
    for content in (grey, encoded(Image.fromarray(grey))):
        assert (sized_pixels(content, 8, 1) == grey[None]).all()
        assert (sized_pixels(content, 8, 3) == np.stack([grey] * 3)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_over_white(mode):
    # At alpha 51 = 0.2 x 255 the sums are whole numbers: 0.2 x colour + 0.8 x 255.
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 51))
    image.putpixel((0, 0), (100, 100, 100, 51))
    image.putpixel((1, 0), (37, 37, 37, 255))
    image.putpixel((2, 0), (37, 37, 37, 0))
    pixels = sized_pixels(encoded(image.convert(mode)), 4, 3)
    assert (pixels == pixels[0]).all()
    assert pixels[0, 0].tolist() == [224, 37, 255, 204]
    assert (sized_pixels(encoded(image.convert(mode)), 4, 1) == pixels[:1]).all()


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_a_transparent_palette_entry_is_white(transparency):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([200, 0, 0, 10, 20, 30])
    image.putpixel((0, 0), 0)
    pixels = sized_pixels(encoded(image, transparency=transparency), 4, 3)
    assert pixels[:, 0, 0].tolist() == [255, 255, 255]
    assert pixels[:, 1, 1].tolist() == [10, 20, 30]
    assert sized_pixels(encoded(image), 4, 3)[:, 0, 0].tolist() == [200, 0, 0]  # opaque without it


@pytest.mark.parametrize(("mode", "colour", "key"), [("L", 9, 9), ("RGB", (9, 8, 7), (9, 8, 7)), ("I;16", 900, 900)])
def test_the_colour_that_a_png_declares_transparent_is_white(mode, colour, key):
    assert (sized_pixels(encoded(Image.new(mode, (4, 4), colour), transparency=key), 4, 3) == 255).all()


@pytest.mark.parametrize("suffix", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_by_the_full_range(suffix):
    values = np.array([[0, 128, 129, 256], [257, 25700, 32768, 65278], [65407, 65535, 1, 2], [3, 4, 5, 6]], np.uint16)
    pixels = sized_pixels(encoded(Image.fromarray(values), suffix), 4, 1)
    assert (pixels[0] == np.round(values / 257)).all()


def test_32_bit_images_are_refused_because_nothing_says_what_is_white():
    for image in (Image.new("F", (4, 4), 0.5), Image.new("I", (4, 4), 70000), Image.new("I", (4, 4), -1)):
        with pytest.raises(BadImage, match="no defined white"):
            sized_pixels(encoded(image, "TIFF"), 4, 1)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    for orientation, turned in ((3, np.rot90(RAMP, 2)), (6, np.rot90(RAMP, -1)), (8, np.rot90(RAMP, 1))):
        exif[0x0112] = orientation
        content = encoded(Image.fromarray(RAMP), exif=exif)
        assert (sized_pixels(content, 8, 3) == turned.transpose(2, 0, 1)).all()


def test_cmyk_bilevel_and_grey_of_colour_are_as_pil_converts_them():
    cmyk = Image.merge("CMYK", [Image.fromarray(RAMP[..., band]) for band in (0, 1, 2, 0)])
    expected = np.asarray(cmyk.convert("RGB"))
    assert (sized_pixels(encoded(cmyk, "TIFF"), 8, 3) == expected.transpose(2, 0, 1)).all()
    grey = np.asarray(Image.fromarray(RAMP).convert("L"))
    assert (sized_pixels(encoded(Image.fromarray(RAMP)), 8, 1) == grey).all()
    assert (sized_pixels(encoded(Image.fromarray(RAMP[..., 0] > 9)), 8, 1)[0] == 255 * (RAMP[..., 0] > 9)).all()


@pytest.mark.parametrize(("width", "height"), [(40, 64), (65, 40), (33, 33), (9, 12), (16, 31)])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_and_resize_are_pil_bicubic_of_the_centre_square(width, height, channels):
    whole = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(whole[top : top + side, left : left + side]).convert("L" if channels == 1 else "RGB")
    expected = np.atleast_3d(np.asarray(square.resize((16, 16), Image.Resampling.BICUBIC))).transpose(2, 0, 1)
    pixels = sized_pixels(encoded(Image.fromarray(whole)), 16, channels)
    assert pixels.shape == (channels, 16, 16)
    assert pixels.dtype == np.uint8
    assert (pixels == expected).all()


def test_reducing_is_antialiased():
    checkerboard = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    inner = sized_pixels(checkerboard, 8, 1)[0, 1:-1, 1:-1].astype(int)
    assert (abs(inner - 127.5) <= 1).all()


def test_the_first_frame_of_an_animation_is_taken():
    first, second = Image.new("L", (4, 4), 10), Image.new("L", (4, 4), 200)
    content = encoded(first, "GIF", save_all=True, append_images=[second])
    assert (sized_pixels(content, 4, 1) == 10).all()


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (b"not pixels", "not an image")])
def test_what_is_no_image_is_bad(content, reason):
    with pytest.raises(BadImage, match=reason):
        sized_pixels(content, 8, 3)


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_damaged_files_are_bad_images_and_never_another_error_or_a_warning(suffix):
    content = encoded(Image.fromarray(RAMP.repeat(8, 0).repeat(8, 1)), suffix)
    with pytest.raises(BadImage):
        sized_pixels(content[: len(content) // 2], 8, 3)
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 4):
            damaged[position] = rng.integers(256)
        try:
            assert sized_pixels(bytes(damaged), 8, 3).shape == (3, 8, 8)
        except BadImage:
            continue


def test_decompression_bombs_are_bad_images_and_merely_big_ones_pass_silently(monkeypatch):
    content = encoded(Image.new("L", (20, 20), 7))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # PIL warns above this and refuses above twice this
    assert (sized_pixels(content, 20, 1) == 7).all()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadImage, match="exceeds limit"):
        sized_pixels(content, 20, 1)
