"""Tokenizers with product and residual quantizers: their indices, the sequences made of these, and what is counted."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import tiny_tokenizer
from torch import Tensor

from wvq.tokenizer import InputError, ProductQuantizer, ResidualQuantizer, TokenizerConfig, VQTokenizer
from wvq.tokenizer.metrics import ReconstructionQuality, token_entropy

KINDS = {"product": ProductQuantizer, "residual": ResidualQuantizer}
THREE: dict[str, Any] = {"quantizers": 3, "quantizer": "vanilla", "init_std": 1.0}


def build(kind: str, **options: Any) -> VQTokenizer:
    return tiny_tokenizer(quantizer=kind, codebook_dim=6, quantizer_options=THREE | options).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("kind", KINDS)
def test_indices_have_one_code_of_each_sub_quantizer(kind: str, images: Tensor):
    tokenizer = build(kind)
    assert type(tokenizer.quantizer) is KINDS[kind]
    output, indices = tokenizer(images), tokenizer.encode(images)
    assert indices.shape == (5, 4, 4, 3)
    assert torch.equal(indices, output.quantizer.indices)
    torch.testing.assert_close(
        tokenizer.decode(indices), output.reconstructions.detach().clamp(-1, 1), rtol=1e-4, atol=1e-4
    )


def test_a_sequence_is_read_position_by_position_with_ids_of_each_sub_quantizer():
    tokenizer = build("residual")
    config = tokenizer.config
    assert (config.codes_per_position, config.num_codes, config.num_tokens) == (3, 3 * 32, 4 * 4 * 3)
    indices = torch.randint(32, (5, 4, 4, 3))
    tokens = tokenizer.to_sequence(indices)
    expected = [
        [32 * m + int(indices[image, row, column, m]) for row in range(4) for column in range(4) for m in range(3)]
        for image in range(5)
    ]
    assert tokens.tolist() == expected
    assert torch.equal(tokenizer.from_sequence(tokens), indices)
    indices[2, 1, 3, 1] = -1
    assert tokenizer.to_sequence(indices)[2, 3 * (4 * 1 + 3) + 1] == -1
    assert tokenizer.to_sequence(indices[:0]).shape == (0, 48)


def test_with_one_codebook_a_sequence_is_the_grid_in_raster_order():
    tokenizer = tiny_tokenizer()
    config = tokenizer.config
    assert (config.codes_per_position, config.num_codes, config.num_tokens) == (1, 32, 16)
    indices = torch.randint(32, (5, 4, 4))
    assert torch.equal(tokenizer.to_sequence(indices), indices.flatten(1))
    assert torch.equal(tokenizer.from_sequence(indices.flatten(1)), indices)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_is_exact(kind: str, images: Tensor, tmp_path: Path):
    tokenizer = build(kind, quantizer="wasserstein", alignment="transport", decay=0.9).train()
    for _ in range(3):
        tokenizer(images)
    tokenizer.eval().save_pretrained(tmp_path / "model")
    loaded = VQTokenizer.from_pretrained(tmp_path / "model")
    assert loaded.config == tokenizer.config
    assert loaded.fingerprint == tokenizer.fingerprint
    indices = tokenizer.encode(images)
    assert torch.equal(loaded.encode(images), indices)
    assert torch.equal(loaded.decode(indices), tokenizer.decode(indices))


def test_quality_counts_the_codes_of_every_sub_quantizer(images: Tensor):
    tokenizer = build("product")
    quality = ReconstructionQuality(96, 6)
    with torch.no_grad():
        features, indices = tokenizer.features(images), tokenizer.encode(images)
        codes = tokenizer.quantizer.lookup(indices)
    pixels = ((images + 1) * 127.5).to(torch.uint8)
    quality.update(pixels, pixels, features, tokenizer.to_sequence(indices), codes)
    for m in range(3):
        own = quality.histogram[32 * m : 32 * (m + 1)]
        assert torch.equal(own, torch.bincount(indices[..., m].flatten(), minlength=32))
    bits = 16 * sum(token_entropy(own) for own in quality.histogram.split(32))
    assert quality.compute()["token_entropy"] == pytest.approx(float(bits))
    error = (features.movedim(1, -1) - codes).square().sum(dim=-1).mean()
    assert quality.compute()["quantization_error"] == pytest.approx(float(error))


def test_unquantized_is_of_each_slice_or_the_features_themselves(images: Tensor):
    product, residual = (build(kind, quantizer="spherical").quantizer for kind in KINDS)
    z = 10 * torch.randn(5, 6, 4, 4)
    slices = [own / own.norm(dim=1, keepdim=True) for own in z.split(2, dim=1)]
    torch.testing.assert_close(product.unquantized(z), torch.cat(slices, dim=1))
    assert torch.equal(residual.unquantized(z), z)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.decode(torch.zeros(2, 4, 4).long()), r"indices have shape \(2, 4, 4\).* \(B, 4, 4, 3\)"),
        (lambda t: t.decode(torch.full((2, 4, 4, 3), 32)), "indices reach from 32 to 32; valid are 0 to 31"),
        (lambda t: t.to_sequence(torch.zeros(2, 4, 4, 2)), r"indices have shape \(2, 4, 4, 2\).* \(B, 4, 4, 3\)"),
        (lambda t: t.from_sequence(torch.zeros(2, 16)), r"tokens have shape \(2, 16\); this tokenizer takes \(B, 48\)"),
        (lambda t: t.decode(t.from_sequence(torch.zeros(2, 48).long())), "indices reach from -64 to 0; valid are 0 to"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, message: str):
    with pytest.raises(InputError, match=message):
        call(build("residual"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantizer": "product", "codebook_dim": 4, "quantizer_options": {"quantizers": 3}}, "codebook_dim is 4; a"),
        ({"quantizer": "residual", "quantizer_options": {"quantizers": "2"}}, "quantizers is '2'; it must be an int"),
        ({"quantizer": "residual", "quantizer_options": {"beta": 1}}, "quantizer 'residual' has no option 'beta'; it"),
        ({"quantizer": "residual", "quantizer_options": {"quantizer": ["ema"]}}, r"quantizer of 'residual' is '\["),
    ],
)
def test_configurations_that_cannot_be_used(changes: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(TokenizerConfig(), **changes)
