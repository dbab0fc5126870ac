"""What is unusual, but an image, is read right."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_files import OTHER, PICTURE, SIZE, config_of, encoded, png_of_16_bits
from PIL import Image

from wvq.tokenizer.data import dataset as data
from wvq.tokenizer.data.dataset import load_splits


def upright(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


CMYK = Image.fromarray(PICTURE).convert("CMYK")
PALETTE = Image.fromarray(PICTURE // 86 * 86).quantize(27)
SIXTEEN = np.random.default_rng(1).integers(0, 65536, (SIZE, SIZE, 3), np.uint16)
TURNED = Image.Exif()
TURNED[0x0112] = 6  # the camera was held upright

GOOD: dict[str, tuple[bytes, np.ndarray]] = {
    "cmyk.tif": (encoded(CMYK, "TIFF"), upright(CMYK)),
    "cmyk.jpg": (
        encoded(CMYK, "JPEG", quality=95),
        upright(Image.open(io.BytesIO(encoded(CMYK, "JPEG", quality=95)))),
    ),
    "16-bit-grey.png": (encoded(Image.fromarray(SIXTEEN[..., 0])), np.stack([np.round(SIXTEEN[..., 0] / 257)] * 3)),
    "16-bit-rgb.png": (png_of_16_bits(2, SIXTEEN), (SIXTEEN >> 8).transpose(2, 0, 1)),
    "animated.gif": (encoded(PALETTE, "GIF", save_all=True, append_images=[OTHER]), upright(PALETTE)),
    "animated.png": (
        encoded(Image.fromarray(PICTURE), save_all=True, append_images=[OTHER]),
        upright(Image.fromarray(PICTURE)),
    ),
    "animated.webp": (
        encoded(Image.fromarray(PICTURE), "WEBP", save_all=True, append_images=[OTHER], lossless=True),
        upright(Image.fromarray(PICTURE)),
    ),
    "palette-with-alpha.png": (
        encoded(Image.new("P", (SIZE, SIZE), 0), transparency=0),
        np.full((3, SIZE, SIZE), 255),
    ),
    "turned.png": (encoded(Image.fromarray(PICTURE), exif=TURNED), np.rot90(PICTURE, -1).transpose(2, 0, 1)),
    "1x1.png": (encoded(Image.new("RGB", (1, 1), (9, 8, 7))), np.broadcast_to([[[9]], [[8]], [[7]]], (3, SIZE, SIZE))),
    "png-called.jpg": (encoded(Image.fromarray(PICTURE)), upright(Image.fromarray(PICTURE))),
    "line\nbreak.png": (encoded(Image.fromarray(PICTURE)), upright(Image.fromarray(PICTURE))),
    "ünïcödé 猫 🐈.png": (encoded(Image.fromarray(PICTURE)), upright(Image.fromarray(PICTURE))),
    os.fsdecode(b"not-unicode-\xff.png"): (encoded(Image.fromarray(PICTURE)), upright(Image.fromarray(PICTURE))),
}


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("name", GOOD, ids=ascii)
def test_unusual_images_are_handled_right(photos: Path, monkeypatch: pytest.MonkeyPatch, name: str, fits: bool):
    content, expected = GOOD[name]
    shutil.rmtree(photos / "cats")
    (photos / "cats").mkdir()
    (photos / "cats" / name).write_bytes(content)
    shutil.copytree(photos, photos / "both" / "train")
    shutil.copytree(photos / "both" / "train", photos / "both" / "test", ignore=shutil.ignore_patterns("both"))
    if not fits:
        monkeypatch.setattr(data, "IN_MEMORY_BYTES", 0)
    for split in load_splits(config_of(photos / "both")):
        batch = split.__getitems__(range(len(split)))
        assert batch["labels"].tolist() == [0] + [1] * 20
        assert (batch["images"][0].numpy() == expected).all()
        assert split.bad_images == {}
