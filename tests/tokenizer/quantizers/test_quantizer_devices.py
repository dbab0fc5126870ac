"""Quantizers on another device do what they do on the CPU, also where it has no float64."""

import copy
from typing import Any

import pytest
import torch
from codebooks import NAMES
from other_device import DEVICES, device_called
from torch import nn

from wvq.tokenizer import CodebookUsage, build_quantizer, maximum_mean_discrepancy, nearest_codes

CASES: dict[str, dict[str, Any]] = {
    **{name: {} for name in NAMES},
    "transport, averages": {"decay": 0.9},
    "wasserstein, data": {"initialization": "data", "gradient_estimator": "rotation"},
    "ema, kmeans++": {"initialization": "kmeans++"},
    "online, probrandom": {"anchor": "probrandom"},
    "vanilla, revival": {"revival": 0.99},
    "product": {"quantizer": "transport"},
    "residual": {"quantizer": "wasserstein"},
}


def train(quantizer: nn.Module, device: torch.device) -> tuple[list[float], list[torch.Tensor]]:
    """Losses of three steps of two micro-batches and the state after them, on the CPU."""
    parameters = [p for p in quantizer.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1) if parameters else None
    quantizer.accumulation_steps = 2  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    generator, seen = torch.Generator().manual_seed(1), []
    for step in range(6):
        torch.manual_seed(step)
        z = torch.randn(4, 4, 8, 8, generator=generator).to(device).requires_grad_()
        output = quantizer(z)
        assert {output.quantized.device, output.indices.device, output.loss.device} == {z.device}
        (output.loss + output.quantized.square().mean()).backward()
        if optimizer and step % 2:
            optimizer.step()
            optimizer.zero_grad()
        seen.append(float(output.loss.detach()))
    return seen, [value.cpu() for value in quantizer.state_dict().values()]


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_training_is_that_of_the_cpu(case: str, name: str):
    torch.manual_seed(0)
    here: Any = build_quantizer(case.split(",")[0], 32, 4, **CASES[case])
    there = copy.deepcopy(here)
    expected, expected_state = train(here, torch.device("cpu"))
    with device_called(name) as device:
        losses, state = train(there.to(device), device)
        moved = [value.cpu() for value in there.to("cpu").state_dict().values()]
    assert losses[0] == pytest.approx(expected[0], rel=1e-5)
    if name == "gpu" and "probrandom" in case:
        return  # its random numbers are those of the device
    assert losses == pytest.approx(expected, rel=1e-4)
    for value, other, back in zip(state, expected_state, moved, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6)
        assert torch.equal(value, back)
        assert value.dtype == other.dtype


@pytest.mark.parametrize("case", CASES)
def test_the_default_device_has_no_say(case: str):
    """A script that sets it to a GPU may still quantize on the CPU, whose random numbers all are."""
    torch.manual_seed(0)
    quantizer: Any = build_quantizer(case.split(",")[0], 32, 4, **CASES[case])
    other = copy.deepcopy(quantizer)
    for z in torch.randn(6, 8, 4, 4, 4, generator=torch.Generator().manual_seed(1)):
        torch.manual_seed(2)
        expected = quantizer(z)
        torch.manual_seed(2)
        with torch.device("meta"):
            output = other(z)
        assert torch.equal(output.indices, expected.indices)
        assert torch.equal(output.loss, expected.loss)


@pytest.mark.parametrize("name", DEVICES)
def test_doubtful_codes_are_settled_where_they_are(name: str):
    codes = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    vectors = codes.flip(0) + 1000
    expected = nearest_codes(vectors, codes)
    with device_called(name) as device:
        assert torch.equal(nearest_codes(vectors.to(device), codes.to(device)).cpu(), expected)


@pytest.mark.parametrize("name", DEVICES)
def test_usage_and_discrepancy_are_those_of_the_cpu(name: str):
    x, y = (torch.randn(50, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    indices = torch.arange(40) % 7
    with device_called(name) as device:
        value = maximum_mean_discrepancy(x.to(device), y.to(device)).cpu()
        usage = CodebookUsage(16).to(device)
        usage.update(indices.to(device))
        counts = {name: float(count) for name, count in usage.compute().items()}
    torch.testing.assert_close(value, maximum_mean_discrepancy(x, y))
    assert counts == {"utilization": 7 / 16, "perplexity": pytest.approx(7, rel=0.02)}
