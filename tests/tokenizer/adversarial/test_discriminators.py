"""Discriminators: shapes, what they learn, and what is no part of them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from wvq.tokenizer.adversarial.discriminators import Discriminator, FeatureDiscriminator, PatchDiscriminator
from wvq.tokenizer.adversarial.losses import hinge_discriminator_loss, r1_penalty
from wvq.tokenizer.errors import InputError


@pytest.fixture(scope="module")
def images(fashion_images: tuple[Tensor, Tensor]) -> Tensor:
    """(8, 1, 32, 32) in [-1, 1]."""
    return F.pad(fashion_images[0][::75].float() / 127.5 - 1, (2, 2, 2, 2), value=-1)


def build(name: str) -> Discriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(1, 8, 2) if name == "patch" else FeatureDiscriminator("st-lpips-alex", width=16)


def test_patches_of_70_pixels() -> None:
    """The published discriminator: its parameters without batch norm, and what one logit sees."""
    network = PatchDiscriminator(3)
    convolutions = 4**2 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 1
    assert sum(p.numel() for p in network.parameters()) == convolutions + 2 * (128 + 256 + 512)
    for layer in network.modules():
        if isinstance(layer, nn.GroupNorm):  # which sees the whole image
            layer.forward = nn.Identity().forward
    images = torch.zeros(1, 3, 160, 160, requires_grad=True)
    logits = network.judge(images)
    assert logits.shape == (1, 1, 18, 18)
    logits[0, 0, 9, 9].backward()
    assert images.grad is not None
    seen = images.grad[0].abs().sum(0).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [70, 70]


@given(side=st.integers(12, 40), base=st.integers(1, 12))
def test_every_width_and_size_has_logits(side: int, base: int) -> None:
    logits = PatchDiscriminator(1, base, 2).judge(torch.zeros(2, 1, side, side + 5))
    assert logits.shape[:2] == (2, 1)
    assert logits.numel() > 0


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(InputError, match=r"images are \(23, 64\); the discriminator takes 24 a side"):
        PatchDiscriminator(3, 8).judge(torch.zeros(1, 3, 23, 64))


@pytest.mark.parametrize("name", ["patch", "feature"])
def test_an_image_is_judged_alone(name: str, images: Tensor) -> None:
    """Whatever else is in the batch, so that any number of processes judge alike."""
    network = build(name).train()
    torch.testing.assert_close(network.judge(images)[2:4], network.judge(images[2:4]), atol=1e-5, rtol=1e-4)
    assert not dict(network.named_buffers())


@pytest.mark.parametrize("name", ["patch", "feature"])
def test_it_tells_two_small_sets_apart(name: str, images: Tensor) -> None:
    network, real, fake = build(name), images[:4], images[4:]
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    loss = torch.zeros(())
    for _ in range(40):
        loss = hinge_discriminator_loss(network.judge(real), network.judge(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert network.judge(real).flatten(1).mean(1).min() > network.judge(fake).flatten(1).mean(1).max()
    assert loss.item() < 0.5


@pytest.mark.parametrize("name", ["patch", "feature"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite(name: str, dtype: torch.dtype, images: Tensor) -> None:
    network, images = build(name), images[:1].clone().requires_grad_()
    with torch.autocast("cpu", dtype):
        logits = network.judge(images)
    penalty = hinge_discriminator_loss(logits, logits)
    penalty.backward()
    assert images.grad is not None
    assert all(x.isfinite().all() for x in (logits, images.grad, *(p.grad for p in network.parameters())))  # pyright: ignore[reportOptionalMemberAccess]


def test_only_heads_are_trained_kept_and_counted(images: Tensor) -> None:
    network = FeatureDiscriminator("st-lpips-alex", width=16)
    assert {name.split(".")[0] for name in network.state_dict()} == {"heads"}
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert len(network.heads) == 5
    logits = network.judge(images)
    assert logits.ndim == 2
    assert copy.deepcopy(network).judge(images).equal(logits)
    # R1 goes through the frozen network to the images, and from there to the heads.
    pixels = images[:1].clone().requires_grad_()
    r1_penalty(pixels, network.judge(pixels)).backward()
    weight = network.heads[0].get_submodule("1").get_parameter("weight")
    assert weight.grad is not None
    assert weight.grad.norm() > 0


def test_maps_count_alike(images: Tensor) -> None:
    network = FeatureDiscriminator("st-lpips-alex", width=16)
    for number, head in enumerate(network.heads):
        last = head.get_submodule("5")
        nn.init.zeros_(last.get_parameter("weight"))
        nn.init.constant_(last.get_parameter("bias"), 2.0**number)
    logits = network.judge(images[:1])
    assert [(logits == 2.0**number).sum().item() for number in range(5)] == [16] * 5
