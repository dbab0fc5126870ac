"""PSNR of luma, MS-SSIM and LPIPS against their formulas."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

from wvq.eval.metrics.image_quality import luma, multiscale_ssim, psnr_luma
from wvq.eval.metrics.perceptual import PerceptualSimilarity
from wvq.tokenizer.errors import InputError


def noisy(images: Tensor, amount: int) -> Tensor:
    noise = torch.randint(-amount, amount + 1, images.shape, generator=torch.Generator().manual_seed(0))
    return (images.long() + noise).clamp(0, 255).byte()


def rgb(images: Tensor, size: int) -> Tensor:
    """Real images with three different channels."""
    large = torch.nn.functional.interpolate(images.float(), (size, size), mode="bilinear").byte()
    return torch.cat([large, 255 - large, large // 2], dim=1)


def test_luma_is_that_of_studio_swing() -> None:
    colours = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)
    expected = torch.tensor([16, 235, 81.481, 144.553, 40.966], dtype=torch.float64)
    torch.testing.assert_close(luma(colours.view(5, 3, 1, 1)).flatten(), expected, atol=1e-3, rtol=0)
    grey = torch.tensor([[[[100]]]], dtype=torch.uint8)
    torch.testing.assert_close(luma(grey), luma(grey.repeat(1, 3, 1, 1)))


def test_psnr_of_luma_equals_its_formula_and_is_above_that_of_rgb(fashion_images: tuple[Tensor, Tensor]) -> None:
    originals = rgb(fashion_images[0][::100], 28)
    others = noisy(originals, 20)
    error = (luma(originals) - luma(others)).square().mean(dim=(1, 2, 3))
    expected = 10 * torch.log10(255**2 / error)
    torch.testing.assert_close(psnr_luma(originals, others), expected, atol=1e-3, rtol=0)
    of_rgb = 10 * torch.log10(255**2 / (originals.double() - others.double()).square().mean(dim=(1, 2, 3)))
    assert (psnr_luma(originals, others) > of_rgb + 1).all()
    assert psnr_luma(originals, originals) == pytest.approx(torch.full((6,), 80.0))


@pytest.mark.parametrize("size", [161, 175])
def test_images_a_little_too_small_for_ms_ssim_are_refused(size: int):
    images = torch.zeros(1, 1, size, size, dtype=torch.uint8)
    with pytest.raises(InputError, match="need more than 175"):
        multiscale_ssim(images, images)
    assert multiscale_ssim(*[torch.zeros(1, 1, 176, 176, dtype=torch.uint8)] * 2).shape == (1,)


def test_ms_ssim_falls_with_noise_image_by_image(fashion_images: tuple[Tensor, Tensor]) -> None:
    originals = rgb(fashion_images[0][::300], 176)
    values = multiscale_ssim(originals, originals)
    assert values.shape == (2,)
    assert values == pytest.approx(torch.ones(2))
    little, much = multiscale_ssim(originals, noisy(originals, 10)), multiscale_ssim(originals, noisy(originals, 60))
    assert ((little < 1) & (little > much) & (much > 0)).all()
    assert multiscale_ssim(originals[1:], noisy(originals, 10)[1:]) == pytest.approx(little[1:])
    with pytest.raises(InputError, match=r"images are \(28, 28\); MS-SSIM's 5 scales need more than 175"):
        multiscale_ssim(fashion_images[0][:1], fashion_images[0][:1])


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torchvision ships it, of random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return path


def test_lpips_is_that_of_torchmetrics_with_the_same_weights(
    alexnet: Path, fashion_images: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    originals = rgb(fashion_images[0][::150], 64)
    others = noisy(originals, 40)
    network = PerceptualSimilarity("alex", alexnet).train()
    assert not network.training
    ours = network(originals, others)

    def backbone(name: str, pretrained: bool = False):
        model = torchvision.models.alexnet(weights=None)
        model.load_state_dict(torch.load(alexnet, weights_only=True))
        return model.features

    monkeypatch.setattr("torchmetrics.functional.image.lpips._get_tv_model_features", backbone)
    theirs = learned_perceptual_image_patch_similarity(
        originals.float() / 127.5 - 1, others.float() / 127.5 - 1, "alex", reduction="none"
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    assert (ours > 0).all()
    assert network(originals, originals) == pytest.approx(torch.zeros(4), abs=1e-6)
    assert network.protocol["name"] == "lpips-alex"
    assert network(originals[:1, :1], others[:1, :1]).shape == (1,)


def test_missing_or_foreign_weights_are_named(alexnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"no weights of vgg at .*vgg16-397923af\.pth; pass weights=FILE"):
        PerceptualSimilarity("vgg")
    with pytest.raises(InputError, match="does not hold torchvision's weights of vgg"):
        PerceptualSimilarity("vgg", alexnet)
    with pytest.raises(InputError, match="network is 'squeeze'; valid are alex, vgg"):
        PerceptualSimilarity("squeeze", alexnet)  # pyright: ignore[reportArgumentType]


def test_only_pairs_of_eight_bit_images_are_taken() -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"images are torch\.uint8 and torch\.float32"):
        psnr_luma(images, images.float())
    with pytest.raises(InputError, match=r"originals are \(2, 3, 8, 8\), reconstructions \(1, 3, 8, 8\)"):
        psnr_luma(images, images[:1])
