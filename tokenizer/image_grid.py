"""Pictures in rows and columns."""

import io
import math
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image
from torch import Tensor

from .storage.atomic import write_file


def image_grid(images: Tensor, columns: int, padding: int = 2, scale: int = 1) -> Image.Image:
    """Images (N, C, H, W), uint8, in raster order on white; the last row is filled up with white.

    Args:
        columns: pictures a row.
        padding: white pixels between and around them.
        scale: each pixel becomes scale x scale pixels.
    """
    pictures = images.cpu().numpy().repeat(scale, axis=2).repeat(scale, axis=3)
    rows = math.ceil(len(pictures) / columns)
    n, channels, height, width = pictures.shape
    cells = np.full((rows * columns, channels, height + padding, width + padding), 255, np.uint8)
    cells[:n, :, padding:, padding:] = pictures
    sheet = rearrange(cells, "(r k) c h w -> (r h) (k w) c", r=rows)
    sheet = np.pad(sheet, ((0, padding), (0, padding), (0, 0)), constant_values=255)
    return Image.fromarray(sheet if channels == 3 else sheet[:, :, 0])


def save_grid(images: Tensor, path: Path, columns: int) -> None:
    """Write `image_grid` as PNG, small images enlarged, whole or not at all."""
    png = io.BytesIO()
    image_grid(images, columns, scale=max(1, 64 // max(images.shape[-2:]))).save(png, "png")
    write_file(path, png.getvalue())
