"""Image files of eight by eight pixels, usual and not, and a folder of them."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wvq.tokenizer.data.config import DataConfig

SIZE = 8
PICTURE = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
OTHER = Image.new("RGB", (SIZE, SIZE), (1, 2, 3))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_16_bits(colour_type: int, values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which PIL does not write: values (H, W, channels)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def png_header(width: int, height: int) -> bytes:
    """A whole, tiny file that claims to be of this size."""
    start = png_of_16_bits(0, np.zeros((1, 1, 1)))
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return start[:12] + header + struct.pack(">I", zlib.crc32(header)) + start[33:]


def write_photos(folder: Path) -> Path:
    """Two classes of 20 small pictures, each of one colour: 10 times its number, and 0 or 255 for its class."""
    for label, name in enumerate(("cats", "dogs")):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            colour = (10 * number, 255 * label, 7)
            Image.new("RGB", (SIZE, SIZE), colour).save(folder / name / f"{number:02d}.png")
    return folder


def config_of(folder: Path, **changes) -> DataConfig:
    return DataConfig(source=str(folder), **{"image_size": SIZE, "evaluation_fraction": 0.3, **changes})


def assert_labels_are_right(batch: dict[str, torch.Tensor]) -> None:
    assert (batch["images"][:, 1] == 255 * batch["labels"][:, None, None]).all()
