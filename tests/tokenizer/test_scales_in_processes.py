"""Two processes with half of each batch end with the tokenizer with scales that one trains, to rounding."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run
from tiny_pipelines import tiny_tokenizer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

CASES: dict[str, dict[str, Any]] = {
    "wasserstein, normalized": {"quantizer_options": {"init_std": 0.5}, "normalize_scales": True},
    "ema, data of three steps": {
        "quantizer": "ema",
        "quantizer_options": {"initialization": "data", "initialization_steps": 3, "decay": 0.9},
    },
}
STEPS, BATCH = 6, 8


def train(case: str) -> dict[str, Tensor]:
    """State after the steps; this process sees its share of each batch."""
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    rank = torch.distributed.get_rank() if world > 1 else 0
    options: dict[str, Any] = {"scales": (1, 2, 4)} | CASES[case]
    module = tiny_tokenizer(**options)
    model = DistributedDataParallel(module) if world > 1 else module
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.05)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        images = torch.rand(BATCH, 3, 16, 16, generator=generator).chunk(world)[rank] * 2 - 1
        output = model(images)
        (output.quantizer.loss + (output.reconstructions - images).square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def process(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    torch.save({case: train(case) for case in CASES}, folder / f"{os.environ['RANK']}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """Results of each of two processes."""
    folder = tmp_path_factory.mktemp("two")
    run(2, process, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(two: list[dict[str, dict[str, Tensor]]], case: str):
    expected = train(case)
    for other in two:
        assert other[case].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                other[case][name], value, rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
            )
