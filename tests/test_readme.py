"""The README's code runs as it is printed."""

import re
from pathlib import Path

import pytest
import torch

from wvq.prior import PriorConfig, build_prior
from wvq.prior.model import SIZES

README = Path(__file__).parents[1] / "README.md"


def block(containing: str) -> str:
    """The README's one Python block with this text."""
    blocks = [b for b in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if containing in b]
    assert len(blocks) == 1
    return blocks[0]


def test_a_quantizer_in_somebody_elses_autoencoder():
    torch.manual_seed(0)
    encoder, decoder = torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.ConvTranspose2d(8, 3, 4, stride=4)
    images = torch.rand(2, 3, 64, 64)
    z = encoder(images)
    names = {"z": z, "decoder": decoder, "reconstruction_loss": lambda x: (x - images).square().mean()}
    exec(block("reconstruction_loss"), names)
    names["loss"].backward()
    assert names["quantizer"].weight.grad is not None
    assert encoder.weight.grad is not None
    assert encoder.weight.grad.abs().sum() > 0
    assert names["output"].indices.shape == (2, 16, 16)
    assert {"commitment_loss", "codebook_loss", "wasserstein_distance"} == names["output"].terms.keys()


def test_quantizers_combine_as_printed():
    names: dict = {"z": torch.randn(2, 8, 4, 4)}
    exec(block("ResidualQuantizer"), names)
    assert names["output"].indices.shape == (2, 4, 4, 4)


@pytest.mark.parametrize("size", SIZES)
def test_the_table_of_sizes_is_what_is_built(size):
    with torch.device("meta"):
        prior = build_prior(PriorConfig(size=size, num_codes=16_384, num_tokens=256, num_classes=1000))
    count = sum(parameter.numel() for parameter in prior.parameters())
    width, layers, heads = SIZES[size]
    cells = [
        size, width, layers, heads, f"{count / 1e6:.0f} M", f"{2 * count / 2**30:.2f} GiB",
        f"{16 * count / 2**30:.2f} GiB", f"{2 * 2 * 2 * layers * width * 256 / 2**20:.0f} MiB",
    ]  # fmt: skip
    assert "| " + " | ".join(map(str, cells)) + " |" in README.read_text().splitlines()
