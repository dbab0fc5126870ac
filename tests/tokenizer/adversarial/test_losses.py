"""Hinge losses, LeCam, R1, the adaptive weight and the ramp: formulas by hand, and one or two processes."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from processes import run
from torch import Tensor, nn

from wvq.tokenizer.adversarial.losses import (
    LeCam,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    r1_penalty,
    ramp,
)
from wvq.tokenizer.distributed import process_index
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import read_json


def test_hinge_losses_by_hand() -> None:
    real, fake = torch.tensor([[2.0], [0.25], [-1.0], [1.0]]), torch.tensor([[-3.0, -0.5], [0.0, 1.5]])
    # Real: 0, 0.75, 2, 0. Fake: 0, 0.5, 1, 2.5.
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx((2.75 / 4 + 4 / 4) / 2)
    assert hinge_generator_loss(fake).item() == pytest.approx(0.5)
    assert hinge_discriminator_loss(torch.zeros(3), torch.zeros(2, 5)) == 1


def test_lecam_by_hand() -> None:
    lecam = LeCam(decay=0.9)
    real, fake = torch.tensor([3.0, -1.0]), torch.tensor([-2.0, 0.0])
    # Means 1 and -1, so averages 0.1 and -0.1. Real: 3.1^2 and 0. Fake: 2.1^2 and 0.1^2.
    assert lecam(real, fake).item() == pytest.approx((3.1**2 + 2.1**2 + 0.1**2) / 2)
    lecam(real, fake)
    assert (lecam.mean_real.item(), lecam.mean_fake.item()) == pytest.approx((0.19, -0.19))
    assert set(lecam.state_dict()) == {"mean_real", "mean_fake"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_lecam_keeps_its_means_in_a_step_that_is_skipped(bad: float) -> None:
    lecam = LeCam()
    lecam(torch.ones(2), -torch.ones(2))
    before = {name: value.clone() for name, value in lecam.state_dict().items()}
    assert not lecam(torch.tensor([bad, 1.0]), torch.ones(2)).isfinite()
    assert not lecam(torch.ones(2), torch.tensor([bad, 1.0])).isfinite() or bad > 0
    assert lecam.state_dict() == before


class Critic(nn.Module):
    """A logit for each place, of images (B, 1, 4, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(images).tanh())


def batches() -> tuple[Critic, Tensor, Tensor]:
    torch.manual_seed(0)
    return Critic(), torch.randn(4, 1, 4, 4), torch.randn(4, 1, 4, 4)


def terms(rows: slice) -> dict[str, float | list[float]]:
    """What the share of these rows, of three steps, gives where it is averaged over processes."""
    critic, real, fake = batches()
    lecam = LeCam(decay=0.5)
    penalties = []
    for step in range(3):
        penalties.append(lecam(critic(real[rows]) + step, critic(fake[rows]) - step).item())
    logits = critic(fake[rows])
    weight = adaptive_weight((logits - 3).square().mean(), -logits.mean(), critic.last.weight)
    return {
        "penalties": penalties,
        "means": [lecam.mean_real.item(), lecam.mean_fake.item()],
        "weight": weight.item(),
    }


def share(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = process_index()
    write_json(folder / f"{rank}.json", terms(slice(2 * rank, 2 * rank + 2)))


def test_two_processes_are_one_on_the_joined_batch(tmp_path: Path) -> None:
    run(2, share, tmp_path)
    one, first, second = terms(slice(0, 4)), *(read_json(tmp_path / f"{rank}.json") for rank in range(2))
    assert first["means"] == second["means"] == pytest.approx(one["means"])
    assert first["weight"] == second["weight"] == pytest.approx(one["weight"], rel=1e-5)
    averages = [(a + b) / 2 for a, b in zip(first["penalties"], second["penalties"], strict=True)]
    assert averages == pytest.approx(one["penalties"])


def test_r1_is_the_squared_gradient_of_each_image() -> None:
    critic, images, _ = batches()
    images.requires_grad_()
    penalty = r1_penalty(images, critic(images))
    by_hand = []
    for image in images.detach():
        jacobian = torch.autograd.functional.jacobian(lambda x: critic(x[None]).mean(), image)
        by_hand.append(jacobian.square().sum())  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(penalty, torch.stack(by_hand).mean())
    penalty.backward()
    assert critic.first.weight.grad is not None
    assert critic.first.weight.grad.norm() > 0


def test_the_adaptive_weight_by_hand() -> None:
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    # Gradients: 2 * (3, 4), of norm 10; (0.5, 0), of norm 0.5.
    reconstruction, adversarial = weight.square().sum(), 0.5 * weight[0]
    assert adaptive_weight(reconstruction, adversarial, weight).item() == pytest.approx(10 / 0.5001)
    assert adaptive_weight(reconstruction, 0 * adversarial, weight, limit=100.0) == 100
    assert not adaptive_weight(reconstruction, adversarial, weight).requires_grad
    (reconstruction + adversarial).backward()  # graphs are kept


@given(step=st.integers(0, 300), start=st.integers(0, 100), length=st.integers(0, 100))
def test_the_ramp_rises_from_its_start(step: int, start: int, length: int) -> None:
    value = ramp(step, start, length)
    assert 0 <= value <= ramp(step + 1, start, length) <= 1
    assert (value == 0) == (step < start or (step == start and length > 0))
    assert (value == 1) == (step >= start + length)
    if start <= step <= start + length:
        assert value * length == pytest.approx(step - start)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_logits_of_half_precision_are_finite(dtype: torch.dtype) -> None:
    real, fake = torch.tensor([300.0, -300], dtype=dtype), torch.tensor([-300.0, 300], dtype=dtype)
    for loss in (hinge_discriminator_loss(real, fake), hinge_generator_loss(fake), LeCam()(real, fake)):
        assert loss.dtype == torch.float32
        assert loss.isfinite()
