"""A quantizer that is cast to half precision, alone or with its tokenizer, computes what it computes in float32."""

import copy
from typing import Any

import pytest
import torch
from codebooks import NAMES
from torch import Tensor, nn

from wvq.tokenizer import TokenizerConfig, VQTokenizer, build_quantizer

CASES: dict[str, dict[str, Any]] = {
    **{name: {} for name in NAMES},
    "transport, averages": {"decay": 0.9},
    "wasserstein, rotation": {"gradient_estimator": "rotation", "initialization": "data"},
    **{
        f"{kind}, {name}": {"quantizer": name}
        for kind in ("product", "residual")
        for name in ("ema", "wasserstein", "transport")
    },
}
HALF = (torch.float16, torch.bfloat16)


def build(case: str) -> Any:
    torch.manual_seed(0)
    return build_quantizer(case.split(",")[0], 64, 8, **CASES[case])


def dtypes(module: nn.Module) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in module.state_dict().items()}


def losses(quantizer: Any, casts: list[torch.dtype | None], dtype: torch.dtype, shift: float, whole: bool) -> Tensor:
    """Losses of a step after each cast, with features of this dtype, which are cast to float32 again if `whole`."""
    parameters = [p for p in quantizer.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1) if parameters else None
    generator = torch.Generator().manual_seed(1)
    seen = []
    for cast in casts:
        if cast is not None:
            quantizer.to(cast)
        z = (torch.randn(8, 8, 8, 8, generator=generator) + shift).to(dtype)
        output = quantizer(z.float() if whole else z)
        if optimizer and output.loss.requires_grad:
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        seen.append(output.loss.detach())
    return torch.stack(seen)


@pytest.mark.parametrize("shift", [0.0, 3.0, 10.0, 100.0])
@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("case", CASES)
def test_loss_is_that_of_float32(case: str, half: torch.dtype, shift: float):
    casts = [None, None, half, None, torch.float32, None, half, None]
    ours, expected = build(case), build(case)
    before = dtypes(ours)
    made = losses(ours, casts, half, shift, whole=False)
    torch.testing.assert_close(made, losses(expected, [None] * 8, half, shift, whole=True), rtol=1e-2, atol=0)
    assert dtypes(ours) == before
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("cast", [*HALF, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_a_cast_changes_no_number(case: str, cast: torch.dtype):
    quantizer = build(case)
    quantizer(torch.randn(100, 8) + 3)
    for module in (quantizer, nn.Sequential(quantizer)):
        moved = copy.deepcopy(module).to(cast)
        for one, other in zip(moved.state_dict().values(), module.state_dict().values(), strict=True):
            assert torch.equal(one, other)
            assert one.dtype == other.dtype


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("name", ["ema", "wasserstein", "transport", "residual"])
def test_a_cast_tokenizer_trains_as_its_quantizer_does(name: str, half: torch.dtype):
    torch.manual_seed(0)
    tokenizer = VQTokenizer(
        TokenizerConfig(image_size=8, channels=1, base_channels=8, channel_multipliers=(1,), num_blocks=1,
                        latent_channels=8, codebook_size=16, codebook_dim=4, quantizer=name)
    )  # fmt: skip
    images = torch.rand(8, 1, 8, 8) * 2 - 1
    for cast in (torch.float32, half, torch.float32, half):
        tokenizer.to(cast)
        alone = copy.deepcopy(tokenizer.quantizer).float()
        output = tokenizer(images)
        expected = alone(output.features.detach().float())
        assert output.features.dtype == output.reconstructions.dtype == cast
        assert torch.equal(output.quantizer.indices, expected.indices)
        torch.testing.assert_close(output.quantizer.loss, expected.loss, rtol=1e-2, atol=0)
        for value, other in zip(tokenizer.quantizer.state_dict().values(), alone.state_dict().values(), strict=True):
            assert torch.equal(value, other)


def test_a_residual_quantizer_refuses_what_is_no_number():
    with pytest.raises(ValueError, match=r"z has dtype torch\.int64; it must be floating-point"):
        build("residual, ema")(torch.ones(3, 8, dtype=torch.int64))
