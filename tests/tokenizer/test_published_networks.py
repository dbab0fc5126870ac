"""The networks of the paper and of LlamaGen, by their published numbers of parameters; what the options of VQGAN do."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from wvq.tokenizer import InputError, TokenizerConfig, VQTokenizer
from wvq.tokenizer.autoencoder import Attention

VQGAN: dict[str, Any] = {
    "decoder_blocks": 3,
    "attention": True,
    "middle_block": True,
    "widen_in_blocks": True,
    "norm_groups": 32,
}
TINY: dict[str, Any] = {"base_channels": 32, "num_blocks": 1, "latent_channels": 8, "codebook_size": 32}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def built(**options: Any) -> VQTokenizer:
    """Without memory for its weights."""
    with torch.device("meta"):
        return VQTokenizer(TokenizerConfig(image_size=256, **VQGAN | options))


def test_vqvae_of_the_paper():
    """arXiv 2506.15078: 64 channels, 256 to the codebook, 2 blocks a resolution; 7.6 M in the encoder, 10.9 M in the
    decoder."""
    tokenizer = built(base_channels=64, channel_multipliers=(1, 1, 2, 2, 4), latent_channels=256)
    assert parameters(tokenizer.encoder) == pytest.approx(7.6e6, rel=0.01)
    assert parameters(tokenizer.decoder) == pytest.approx(10.9e6, rel=0.01)


def test_vqgan_of_the_paper():
    """The autoencoder that the paper transplants into, that of VAR (arXiv 2404.02905): 160 channels, 32 to the
    codebook; 108,761,795 parameters in encoder and decoder."""
    tokenizer = built(base_channels=160, channel_multipliers=(1, 1, 2, 2, 4), latent_channels=32, codebook_dim=32)
    assert parameters(tokenizer.encoder) + parameters(tokenizer.decoder) == 108_761_795


def test_vq_16_of_llamagen():
    """arXiv 2406.06525, "72M": 128 channels, 256 to a codebook of 16,384 codes of dimension 8.

    By hand, where a k x k convolution from a to b channels has k^2 a b + b, a norm 2 c, so that a block of width c has
    18 c^2 + 6 c, one that widens a to b has 9 a b + 9 b^2 + 2 a + 4 b and a b + b for its shortcut, and attention
    4 c^2 + 6 c:

        encoder  first convolution 3,584; resolutions of widths 128, 128, 256, 256 with what halves them: 738,944,
                 738,944, 2,690,304, 2,952,448; of width 512, with two attentions: 10,498,048; middle 10,494,976; norm
                 and last convolution 1,180,928: together 29,298,176
        decoder  first convolution 1,180,160; middle 10,494,976; three blocks and attentions of width 512 and what
                 doubles them 19,679,744; widths 256, 256, 128, 128: 4,855,296, 4,133,632, 1,215,232, 887,040; norm
                 and last convolution 3,715: together 42,449,795
        to and from the codebook 256 * 8 + 8 and 8 * 256 + 256; the codebook 16,384 * 8
    """
    tokenizer = built(base_channels=128, channel_multipliers=(1, 1, 2, 2, 4), latent_channels=256)
    assert parameters(tokenizer.encoder) == 29_298_176
    assert parameters(tokenizer.decoder) == 42_449_795
    assert parameters(tokenizer) == 29_298_176 + 42_449_795 + 2_056 + 2_304 + 131_072 == 71_883_403


def test_every_weight_of_such_a_network_is_used_and_its_places_are_those_of_vqgan():
    torch.manual_seed(0)
    options: dict[str, Any] = TINY | VQGAN | {"decoder_blocks": 2, "image_size": 8, "channel_multipliers": (1, 2)}
    options["quantizer_options"] = {"initialization": "normal"}
    tokenizer = VQTokenizer(TokenizerConfig(**options))
    images = torch.rand(2, 3, 8, 8, device="cpu") * 2 - 1
    output = tokenizer(images)
    assert output.reconstructions.shape == images.shape
    ((output.reconstructions - images).square().mean() + output.quantizer.loss).backward()
    assert [name for name, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()] == []
    names = [type(layer).__name__ for layer in tokenizer.encoder.layers]  # pyright: ignore[reportGeneralTypeIssues]
    stages = ["ResidualBlock", "Conv2d", "ResidualBlock", "Attention"]
    assert names == ["Conv2d", *stages, "ResidualBlock", "Attention", "ResidualBlock", "GroupNorm", "SiLU", "Conv2d"]
    assert sum(isinstance(layer, Attention) for layer in tokenizer.decoder.modules()) == 3
    norms = [module for module in tokenizer.modules() if isinstance(module, nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {32}


def test_a_configuration_says_nothing_of_what_older_versions_did_not_have(tmp_path: Path):
    """So that their tokenizers keep their fingerprints, by which tokens and priors belong to them."""
    more: dict[str, Any] = {"middle_block": True}
    plain, other = VQTokenizer(TokenizerConfig(**TINY)), VQTokenizer(TokenizerConfig(**TINY | more))
    for name, tokenizer in (("plain", plain), ("other", other)):
        tokenizer.save_pretrained(tmp_path / name)
        assert VQTokenizer.from_pretrained(tmp_path / name).config == tokenizer.config
    said = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert list(said) == ["_class_name", "image_size", "channels", "patch_size", "base_channels", "channel_multipliers",
                          "num_blocks", "attention", "latent_channels", "codebook_size", "codebook_dim", "quantizer",
                          "quantizer_options"]  # fmt: skip
    assert json.loads((tmp_path / "other" / "config.json").read_text()) == said | more


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_groups": 24}, "norm_groups is 24; base_channels, 32, must divide by it"),
        ({"norm_groups": -1}, "norm_groups is -1"),
        ({"decoder_blocks": -1}, "decoder_blocks is -1; it must be at least 1, or 0 for num_blocks"),
    ],
)
def test_networks_that_cannot_be_built(changes: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        TokenizerConfig(**TINY | changes)
