"""From an encoded image to a uint8 array of one size: the one decoding, crop and resize of training and evaluation."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..image_size import ImageSize, height_and_width

CROP = "centre square of the shorter side"
_CROP_RECTANGLE = "largest centred rectangle of the size's aspect ratio"
RESIZE = "PIL bicubic, antialiased when reducing"
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # of PIL's others, EPS would run Ghostscript


class BadImage(Exception):
    """A file that cannot be read, bytes that are no image, or an image without a faithful 8-bit form; the message is
    the reason."""


def crop_in_words(image_size: ImageSize | list[int] | None) -> str:
    """What is cut out for images of a size, as protocols say it; a JSON file has a list of the two sides."""
    return _CROP_RECTANGLE if isinstance(image_size, tuple | list) else CROP


def sized_pixels(
    content: bytes | npt.NDArray[np.uint8] | Image.Image, image_size: ImageSize, channels: int
) -> npt.NDArray[np.uint8]:
    """Decode, cut out the largest centred part of the size's aspect ratio (of a square one the centre square of the
    shorter side), resize; pixels of that size already pass bit-exact.

    Rotated as its EXIF orientation says, transparency over white, 16-bit grey scaled to 8, the first frame of several.
    Embedded colour profiles are not applied. JPEG is decoded in full: PIL's decoding at a reduced scale is quicker, but
    gives other pixels.

    Args:
        content: an encoded image, pixels (H, W) or (H, W, 3), or a PIL image of any mode.
        image_size: height and width wanted, one number or both.
        channels: 1 for grey (ITU-R 601 luma), 3 for RGB.

    Returns:
        (channels, height, width) uint8.

    Raises:
        BadImage: for content that cannot be decoded, and, from its header alone, for an image of more than twice
            `PIL.Image.MAX_IMAGE_PIXELS`, 179 million pixels unless that is changed.
    """
    height, width = height_and_width(image_size)
    if isinstance(content, np.ndarray) and content.shape == (height, width):
        return np.broadcast_to(content, (channels, height, width))  # a shortcut: all below changes nothing
    with _reasons(content):
        image = _eight_bit(_cropped(_decode(content), image_size), "L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def open_picture(content: bytes) -> Image.Image:
    """The upright picture in a file of one of `FORMATS`, of its own size and mode.

    Raises:
        BadImage: as `sized_pixels`.
    """
    with _reasons(content):
        return _decode(content)


@contextmanager
def _reasons(content: bytes | npt.NDArray[np.uint8] | Image.Image) -> Iterator[None]:
    """What PIL raises inside, as BadImage."""
    try:
        with warnings.catch_warnings():
            # Big images and damaged metadata: PIL decodes the pixels all the same, and the user cannot act on either.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    except BadImage:
        raise
    except Exception as error:  # PIL's decoders raise a dozen unrelated types on damaged bytes
        unknown = f"not an image in {', '.join(FORMATS)}"
        reason = unknown if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
        raise BadImage(reason if not isinstance(content, bytes) or content else "empty") from error


def _decode(content: bytes | npt.NDArray[np.uint8] | Image.Image) -> Image.Image:
    """Upright image of any mode."""
    if isinstance(content, np.ndarray):
        return Image.fromarray(content)
    if isinstance(content, Image.Image):
        return ImageOps.exif_transpose(content)
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def crop_shape(width: int, height: int, image_size: ImageSize) -> tuple[int, int]:
    """Height and width, to the nearest pixel, of what is cut out of an image: all of one axis, as much of the other."""
    h, w = height_and_width(image_size)
    return min(height, max(1, round(Fraction(width * h, w)))), min(width, max(1, round(Fraction(height * w, h))))


def _cropped(image: Image.Image, image_size: ImageSize) -> Image.Image:
    down, across = crop_shape(image.width, image.height, image_size)
    if (across, down) == image.size:
        return image
    left, top = (image.width - across) // 2, (image.height - down) // 2
    return image.crop((left, top, left + across, top + down))


def _eight_bit(image: Image.Image, mode: str) -> Image.Image:
    """Mode L or RGB from any that has a defined white."""
    if image.mode == "F":
        raise BadImage("floating-point pixels have no defined white")
    if image.mode.startswith("I"):
        image = _scaled_down(image)
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    elif image.mode not in ("1", "L"):
        image = image if image.mode == "RGB" else image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _scaled_down(image: Image.Image) -> Image.Image:
    """Mode L from 16-bit grey, where PIL's own conversion clips every value above 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImage("32-bit integer pixels have no defined white")
    if "transparency" in image.info:
        values[values == image.info["transparency"]] = 65535
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def to_model(images: Tensor) -> Tensor:
    """uint8 images to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] to uint8: clamped, rounded, then cast."""
    return ((images.float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
