"""A model whose parameters are sharded over processes (FSDP2) saves whole tensors and loads them again."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from processes import run
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from wvq.pipelines.training.state import TrainingState, write_state
from wvq.pipelines.training.step_record import StepRecord


def build(accelerator: Accelerator, sharded: bool) -> tuple[nn.Module, Any, TrainingState]:
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    if sharded:
        fully_shard(model, mesh=init_device_mesh("cpu", (accelerator.num_processes,)))
    optimizer = accelerator.prepare_optimizer(torch.optim.AdamW(model.parameters(), lr=0.1))
    return model, optimizer, TrainingState(accelerator, model, [optimizer], StepRecord(accelerator, model, limit=1))


def train(model: nn.Module, optimizer: Any, steps: int) -> dict[str, Tensor]:
    for step in range(steps):
        model(torch.ones(2, 4) * (step + 1)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    whole = (getattr(value, "full_tensor", lambda value=value: value)() for value in model.state_dict().values())
    return dict(zip(model.state_dict(), (value.detach().clone() for value in whole), strict=True))


def process(folder: Path) -> None:
    accelerator = Accelerator(cpu=True)
    model, optimizer, state = build(accelerator, sharded=True)
    train(model, optimizer, 3)
    tensors, counts = state.gather()
    if accelerator.is_main_process:
        (folder / "state").mkdir()
        write_state(folder / "state", tensors, counts)
    accelerator.wait_for_everyone()
    expected = train(model, optimizer, 2)
    model, optimizer, state = build(accelerator, sharded=True)
    state.load(folder / "state")
    torch.save((expected, train(model, optimizer, 2)), folder / f"{os.environ['RANK']}.pt")


def test_a_sharded_model_resumes_and_equals_one_that_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(2, process, tmp_path)
    model, optimizer, state = build(Accelerator(cpu=True), sharded=False)
    alone = train(model, optimizer, 3)
    state.load(tmp_path / "state")  # on one process, without shards
    assert "saved by 2 processes" in capsys.readouterr().err
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, alone[name])
    last = train(model, optimizer, 2)
    for rank in range(2):
        expected, resumed = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in expected.items():
            assert torch.equal(resumed[name], value)
            torch.testing.assert_close(value, last[name])
