"""The README's code runs as it is printed."""

import re
from pathlib import Path

import torch

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
