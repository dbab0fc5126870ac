"""Edits in token space: `ReconstructionPipeline.decode`, `combine` and `interpolate`."""

from typing import Any

import pytest
import torch
from tiny_pipelines import tiny_tokenizer
from torch import Tensor

from wvq.pipelines import ReconstructionPipeline
from wvq.tokenizer import InputError, nearest_codes


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return ReconstructionPipeline(tiny_tokenizer())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tokens(pipeline, images) -> Tensor:
    return pipeline(images, output_type="latent").images


def test_decoded_tokens_are_the_reconstruction_until_one_is_changed(pipeline, images, tokens):
    expected = pipeline(images, output_type="uint8").images
    assert torch.equal(pipeline.decode(tokens, "uint8").images, expected)
    changed = tokens.clone()
    changed[2, 0, 0] = (changed[2, 0, 0] + 1) % 32
    other = pipeline.decode(changed, "uint8").images
    assert [torch.equal(*pair) for pair in zip(other, expected, strict=True)] == [True, True, False, True]


def test_combined_images_have_the_tokens_of_both(pipeline, images, tokens):
    side = tokens.shape[-1]
    left = torch.arange(side).expand(side, side) < side // 2
    one, other = images[:2], images[2:]
    combined = pipeline.combine(one, other, left, "latent").images
    assert torch.equal(combined[:, :, : side // 2], tokens[2:, :, : side // 2])
    assert torch.equal(combined[:, :, side // 2 :], tokens[:2, :, side // 2 :])
    both = pipeline.combine(one, other, torch.stack([left, ~left]), "latent").images
    assert torch.equal(both[0], combined[0])
    assert torch.equal(both[1], pipeline.combine(other, one, left, "latent").images[1])
    assert torch.equal(pipeline.combine(one, other, left, "uint8").images, pipeline.decode(combined, "uint8").images)


def test_between_two_images_are_the_codes_nearest_to_a_mixture(pipeline):
    # Images of one colour each, since noise gives nearly the same tokens everywhere.
    colours = torch.randint(256, (8, 3, 1, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images = colours.expand(8, 3, 16, 16)
    tokens = pipeline(images, output_type="latent").images
    assert (tokens[:4] != tokens[4:]).any()
    steps = pipeline.interpolate(images[:4], images[4:], 4, "latent").images.unflatten(0, (4, 4))
    assert torch.equal(steps[:, 0], tokens[:4])
    assert torch.equal(steps[:, 3], tokens[4:])
    codebook = pipeline.tokenizer.quantizer.codebook.detach()
    for step in (1, 2):  # at a half two codes would be equally near
        mixture = torch.lerp(codebook[tokens[:4]], codebook[tokens[4:]], step / 3)
        assert torch.equal(steps[:, step].flatten(), nearest_codes(mixture.flatten(0, 2), codebook))
    assert len(pipeline.interpolate(images[:4], images[4:], 4).images) == 16


@pytest.mark.parametrize(
    "changes",
    [
        {"quantizer": "fsq", "codebook_size": 64, "quantizer_options": {}},
        {"quantizer": "residual", "quantizer_options": {"quantizer": "vanilla", "initialization": "normal"}},
        {"quantizer": "product"},
        {"quantizer": "spherical", "quantizer_options": {}},
        {"quantizer": "vanilla", "scales": (1, 2, 4), "quantizer_options": {"init_std": 1.0}},
    ],
)
def test_the_way_of_any_quantizer_begins_and_ends_at_the_images(changes: dict[str, Any], images):
    pipeline: Any = ReconstructionPipeline(tiny_tokenizer(**changes))
    tokens = pipeline(images, output_type="latent").images
    others = tokens.roll(1, 0)
    steps = pipeline.interpolate(images, images.roll(1, 0), 3, "latent").images.unflatten(0, (len(images), 3))
    assert torch.equal(steps[:, 0], tokens)
    assert torch.equal(steps[:, 2], others)
    if changes["quantizer"] == "fsq":
        codebook = pipeline.tokenizer.quantizer.codebook.detach()
        mixture = torch.lerp(codebook[tokens], codebook[others], 0.5).flatten(0, 2)
        distances = torch.cdist(mixture, codebook)
        found = distances.gather(1, steps[:, 1].flatten()[:, None]).squeeze(1)
        torch.testing.assert_close(found, distances.amin(dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p, x: p.decode(torch.full((1, 4, 4), 32)), "indices reach from 32 to 32; valid are 0 to 31"),
        (lambda p, x: p.combine(x, x[:1], torch.zeros(4, 4, dtype=torch.bool)), "others are 1 for 4 images"),
        (lambda p, x: p.combine(x, x, torch.zeros(4, 4)), r"mask has shape \(4, 4\) and dtype torch.float32"),
        (
            lambda p, x: p.combine(x, x, torch.zeros(16, 16, dtype=torch.bool)),
            r"it must be bool \(4, 4\) or \(4, 4, 4\)",
        ),
        (lambda p, x: p.interpolate(x, x, 1), "num_steps is 1; it must be at least 2"),
        (lambda p, x: p.interpolate(x, x[:2], 3), "others are 2 for 4 images; give one for each"),
        (lambda p, x: p.interpolate(x, x, 3, "png"), "output_type is 'png'"),
    ],
)
def test_bad_edits_are_named(pipeline, images, edit, message):
    with pytest.raises(InputError, match=message):
        edit(pipeline, images)
