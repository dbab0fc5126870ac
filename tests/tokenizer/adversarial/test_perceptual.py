"""The perceptual loss: numbers of ST-LPIPS, and what a distance must do."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from wvq.tokenizer.adversarial.perceptual import PerceptualLoss
from wvq.tokenizer.errors import InputError

NAMES = ("st-lpips-alex", "st-lpips-vgg16")
# Of `waves()`, as stlpips-pytorch 0.0.2 itself gives it.
PUBLISHED = {"st-lpips-alex": 0.0876811221, "st-lpips-vgg16": 0.1647624373}
CONVOLUTIONS = {  # of the state dict; its first is the stage's number
    "st-lpips-alex": (("1.0",), ("2.5",), ("3.9",), ("4.11",), ("5.13",)),
    "st-lpips-vgg16": (
        ("1.0", "1.2"),
        ("2.6", "2.8"),
        ("3.12", "3.14", "3.16"),
        ("4.20", "4.22", "4.24"),
        ("5.28", "5.30", "5.32"),
    ),
}


def waves() -> tuple[Tensor, Tensor]:
    rows, columns, colours = torch.arange(40.0)[:, None], torch.arange(48.0), torch.tensor([1.0, 2, 3])[:, None, None]
    images = torch.sin(0.3 * colours * rows + 0.2 * columns)[None]
    return images, 0.5 * images + 0.25 * torch.cos(0.5 * rows - 0.1 * colours * columns)


@pytest.fixture(scope="module")
def losses() -> dict[str, PerceptualLoss]:
    return {name: PerceptualLoss(name) for name in NAMES}


@pytest.fixture(scope="module")
def images(fashion_images: tuple[Tensor, Tensor]) -> Tensor:
    """(4, 1, 32, 32) in [-1, 1]."""
    return F.pad(fashion_images[0][::150].float() / 127.5 - 1, (2, 2, 2, 2), value=-1)


@pytest.mark.parametrize("name", NAMES)
def test_st_lpips_is_what_its_package_computes(name: str, losses: dict[str, PerceptualLoss]) -> None:
    assert losses[name](*waves()).item() == pytest.approx(PUBLISHED[name], rel=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_st_lpips_follows_its_formula(name: str, losses: dict[str, PerceptualLoss]) -> None:
    """Step by step, from the tensors of the package's file."""
    from importlib.resources import files

    file = {"st-lpips-alex": "alex_shift_tolerant.pth", "st-lpips-vgg16": "vgg_shift_tolerant.pth"}[name]
    path = files("stlpips_pytorch") / "weights" / "vST0.0" / file
    state = torch.load(str(path), map_location="cpu", weights_only=True)
    filters = [value for key, value in state.items() if key.endswith("filt")]

    def maps(image: Tensor) -> list[Tensor]:
        x = image - torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
        x = x / torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
        left, found = list(filters), []

        def blurred(x: Tensor) -> Tensor:
            kernel, mirrored = left.pop(0), F.pad(x, (2, 2, 2, 2), mode="reflect")
            weights = [(row, column, kernel[0, 0, row, column]) for row in range(3) for column in range(3)]
            height, width = mirrored.shape[-2] - 2, mirrored.shape[-1] - 2
            sums = torch.stack([w * mirrored[..., r : r + height, c : c + width] for r, c, w in weights]).sum(0)
            return sums[..., ::2, ::2]

        for number, stage in enumerate(CONVOLUTIONS[name]):
            if number and (name.endswith("vgg16") or number < 3):
                x = blurred(F.max_pool2d(x, 2 if name.endswith("vgg16") else 3, stride=1))
            for layer in stage:
                weight, bias = state[f"net.slice{layer}.weight"], state[f"net.slice{layer}.bias"]
                first = weight.shape[-1] == 11
                x = F.conv2d(x, weight, bias, padding=2 if first else weight.shape[-1] // 2)
                x = F.relu(blurred(x) if first else x)
            found.append(x)
        return found

    a, b = (maps(image) for image in waves())
    total = torch.zeros(())
    for number, (x, y) in enumerate(zip(a, b, strict=True)):
        difference = x / x.square().sum(1, keepdim=True).sqrt() - y / y.square().sum(1, keepdim=True).sqrt()
        difference = torch.where(difference.isnan(), 0, difference)  # a place without features
        total += (state[f"lin{number}.model.1.weight"] * difference.square()).sum(1).mean()
    torch.testing.assert_close(losses[name](*waves()), total)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_symmetric_distance_of_each_pair(name: str, losses: dict[str, PerceptualLoss], images: Tensor) -> None:
    loss, others = losses[name], images.roll(1, 0)
    assert loss(images, images) == 0
    distances = loss.distances(images, others)
    assert distances.min() > 0
    torch.testing.assert_close(loss.distances(others, images), distances)
    torch.testing.assert_close(loss.distances(images[:1], others[:1]), distances[:1])
    torch.testing.assert_close(loss(images, others), distances.mean())
    colour = [pair[:1].expand(-1, 3, -1, -1) for pair in (images, others)]
    torch.testing.assert_close(loss.distances(*colour), distances[:1])


@pytest.mark.parametrize("name", NAMES)
def test_blur_costs_more_the_more_there_is_of_it(name: str, losses: dict[str, PerceptualLoss], images: Tensor) -> None:
    distances = [losses[name].distances(images, gaussian_blur(images, [9, 9], [s, s])) for s in (0.4, 0.8, 1.6)]
    assert (distances[0] < distances[1]).all()
    assert (distances[1] < distances[2]).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_shift_costs_less_than_a_blur_of_the_same_squared_error(
    name: str, losses: dict[str, PerceptualLoss], images: Tensor
) -> None:
    """What its networks were made tolerant of."""
    shifted, blurred = images.roll(1, -1), gaussian_blur(images, [9, 9], [1.2, 1.2])
    assert F.mse_loss(shifted, images) > F.mse_loss(blurred, images)
    assert losses[name](images, shifted) < losses[name](images, blurred) / 2


def test_gradients_reach_the_reconstructions_alone(losses: dict[str, PerceptualLoss], images: Tensor) -> None:
    loss = losses["st-lpips-alex"].train()
    assert not any(module.training for module in loss.modules())
    originals, reconstructions = images.clone().requires_grad_(), images.roll(1, 0).requires_grad_()
    value = loss(originals, reconstructions)
    value.backward()
    assert originals.grad is None
    assert all(parameter.grad is None for parameter in loss.parameters())
    gradient = reconstructions.grad
    assert gradient is not None
    # A small step against the gradient lowers the loss by what the gradient says.
    step = 1e-3 / gradient.norm()
    with torch.no_grad():
        lower = loss(originals, reconstructions - step * gradient)
    assert (value - lower).item() == pytest.approx(1e-3 * gradient.norm().item(), rel=0.1)


@pytest.mark.parametrize("constant", [-1.0, 0.0])
def test_flat_images_have_finite_gradients(losses: dict[str, PerceptualLoss], images: Tensor, constant: float) -> None:
    for loss in losses.values():
        flat = torch.full_like(images, constant).requires_grad_()
        loss(images, flat).backward()
        assert flat.grad is not None
        assert flat.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(losses: dict[str, PerceptualLoss], images: Tensor, dtype: torch.dtype) -> None:
    loss, images = losses["st-lpips-alex"], images[:2]
    reconstructions = images.roll(1, 0).requires_grad_()
    with torch.autocast("cpu", dtype):
        value = loss(images, reconstructions)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(images, images.roll(1, 0)).item(), rel=0.02)
    assert reconstructions.grad is not None
    assert reconstructions.grad.isfinite().all()


def test_pairs_have_one_shape(losses: dict[str, PerceptualLoss], images: Tensor) -> None:
    with pytest.raises(InputError, match=r"images are \(4, 1, 32, 32\), reconstructions \(2, 1, 32, 32\)"):
        losses["st-lpips-alex"](images, images[:2])
