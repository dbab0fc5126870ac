"""Pictures that a user gives, as data URLs: decoded by their content, after their header has been looked at."""

import base64
import binascii
import io
import re
import warnings
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from wvq.tokenizer import InputError, TokenizerConfig
from wvq.tokenizer.data.decoding import FORMATS, BadImage, sized_pixels

from ..base import to_pil
from .values import a_text

_DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w.+/=-]+)*;base64,")


def read_picture(given: Any, config: TokenizerConfig, max_bytes: int, max_pixels: int) -> Tensor:
    """The picture in a data URL, cropped and resized as in training, uint8 (C, H, W).

    Args:
        given: "data:image/png;base64,..."; what it says of its type is not believed.
        config: of the tokenizer that it is for.
        max_bytes: of the file.
        max_pixels: that its header may announce.

    Raises:
        InputError: for anything else, for a larger one, and for a file that is no picture.
    """
    if given in (None, ""):
        raise InputError("there is no picture; choose a file or take a test image")
    text = a_text("the picture", given, 100 + max_bytes * 4 // 3)
    prefix = _DATA_URL.match(text)
    if prefix is None:
        raise InputError(f"the picture is {text[:40]!r}; it must be the content of a file")
    try:
        content = base64.b64decode(text[prefix.end() :], validate=True)
    except binascii.Error as error:
        raise InputError("the picture has arrived incomplete; choose it again") from error
    _check_size(content, max_pixels)
    try:
        return torch.from_numpy(sized_pixels(content, config.image_size, config.channels).copy())
    except BadImage as error:
        raise InputError(f"the picture cannot be read: {error}") from error


def _check_size(content: bytes, max_pixels: int) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of big images and damaged metadata: the next line says what matters
            width, height = Image.open(io.BytesIO(content), formats=FORMATS).size
    except Image.DecompressionBombError as error:
        raise InputError(f"the picture has too many pixels; at most {max_pixels:,} are read") from error
    except Exception as error:  # PIL's decoders raise a dozen unrelated types on damaged bytes
        raise InputError(f"the picture is no image in {', '.join(FORMATS)}") from error
    if width * height > max_pixels:
        raise InputError(f"the picture has {width} x {height} pixels; at most {max_pixels:,} are read")


def data_url(picture: Tensor | Image.Image) -> str:
    """A picture, uint8 (C, H, W) or a PIL image, as PNG in a data URL; `read_picture` gives the same pixels back."""
    image = to_pil(picture[None])[0] if isinstance(picture, Tensor) else picture
    png = io.BytesIO()
    image.save(png, "png")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
