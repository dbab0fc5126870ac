"""From an encoded image to a square uint8 array: the one decoding, crop and resize of training and evaluation."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

CROP = "centre square of the shorter side"
RESIZE = "PIL bicubic, antialiased when reducing"
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # of PIL's others, EPS would run Ghostscript


class BadImage(Exception):
    """A file that cannot be read, bytes that are no image, or an image without a faithful 8-bit form; the message is
    the reason."""


def square_pixels(
    content: bytes | npt.NDArray[np.uint8] | Image.Image, image_size: int, channels: int
) -> npt.NDArray[np.uint8]:
    """Decode, crop to the centre square of the shorter side, resize; pixels of that size already pass bit-exact.

    Rotated as its EXIF orientation says, transparency over white, 16-bit grey scaled to 8, the first frame of several.
    Embedded colour profiles are not applied. JPEG is decoded in full: PIL's decoding at a reduced scale is quicker, but
    gives other pixels.

    Args:
        content: an encoded image, the pixels of a grey one (H, W), or a PIL image of any mode.
        image_size: height and width wanted.
        channels: 1 for grey (ITU-R 601 luma), 3 for RGB.

    Returns:
        (channels, image_size, image_size) uint8.

    Raises:
        BadImage: for content that cannot be decoded, and, from its header alone, for an image of more than twice
            `PIL.Image.MAX_IMAGE_PIXELS`, 179 million pixels unless that is changed.
    """
    if isinstance(content, np.ndarray) and content.shape == (image_size, image_size):
        return np.broadcast_to(content, (channels, image_size, image_size))  # a shortcut: all below changes nothing
    with _reasons(content):
        image = _eight_bit(_centre_square(_decode(content)), "L" if channels == 1 else "RGB")
        if image.width != image_size:
            image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def open_picture(content: bytes) -> Image.Image:
    """The upright picture in a file of one of `FORMATS`, of its own size and mode.

    Raises:
        BadImage: as `square_pixels`.
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


def _centre_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    if side == max(image.size):
        return image
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


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
