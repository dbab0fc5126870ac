"""Pictures that are given as data URLs, and their reconstructions."""

import base64
import math
from typing import Any

import pytest
import torch
from app_models import tiny_model
from image_files import encoded, png_header
from PIL import Image

from wvq.pipelines.app.reconstructing import reconstruct
from wvq.pipelines.app.uploads import data_url, read_picture
from wvq.tokenizer import InputError
from wvq.tokenizer.data import to_model
from wvq.tokenizer.metrics import ReconstructionQuality

MODEL = tiny_model()
LIMITS = {"max_bytes": 100_000, "max_pixels": 1_000_000}


def read(given: Any) -> torch.Tensor:
    return read_picture(given, MODEL.config, **LIMITS)


def url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def test_a_picture_comes_back_as_it_was():
    image = torch.randint(256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read(data_url(image)), image)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "bmp", "tiff"])
def test_any_picture_is_cropped_and_resized(kind):
    image = Image.new("RGB", (60, 40), (200, 10, 10))
    picture = read(url(encoded(image, kind), "text/html"))  # what a browser says of its type is not believed
    assert picture.shape == (3, 16, 16)
    assert abs(picture[0].float().mean() - 200) < 5


BAD = {
    "none": None,
    "empty": "",
    "number": 5,
    "list": ["data:"],
    "path": "/etc/passwd",
    "address": "http://127.0.0.1/",
    "file address": "file:///etc/passwd",
    "no base64": "data:image/png;base64,????",
    "cut off": "data:image/png;base64,abcde",
    "empty file": url(b""),
    "text": url(b"hello"),
    "svg": url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
    "postscript": url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "half a png": url(encoded(Image.new("RGB", (64, 64)), "png")[:60]),
    "announced": url(png_header(100_000, 100_000)),
    "large": url(png_header(2000, 1000)),
    "too many bytes": url(bytes(200_000)),
    "floating point": url(encoded(Image.new("F", (9, 9)), "tiff")),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_refused_in_a_sentence(name):
    with pytest.raises(InputError, match="picture") as caught:
        read(BAD[name])
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_a_reconstruction_has_its_figures():
    image = torch.randint(256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = reconstruct(MODEL, image, "Bag")
    output = MODEL.pipeline.tokenizer(to_model(image[None]))
    quality = ReconstructionQuality(32, 4)
    quality.update(
        image[None], made.image[None], output.features, output.quantizer.indices,
        output.quantizer.quantized.movedim(1, -1),
    )  # fmt: skip
    assert made.psnr == pytest.approx(quality.compute()["psnr"], rel=1e-5)
    assert made.bits == 16 * 5
    nats = MODEL.pipeline.likelihood(image[None], "Bag")["bits_per_pixel"].item() * 256
    assert made.prior_bits == pytest.approx(nats)
    assert made.raw_bits == 8 * 3 * 256
    assert "16 tokens of 32 codes are 80 bits" in str(made)
    with pytest.raises(InputError, match="class"):
        reconstruct(MODEL, image, "nothing")


def test_an_exact_reconstruction_has_no_error(monkeypatch):
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    monkeypatch.setattr(MODEL.pipeline.tokenizer, "decode", lambda _: torch.full((1, 3, 16, 16), -1.0))
    assert math.isinf(reconstruct(MODEL, image, "Bag").psnr)
