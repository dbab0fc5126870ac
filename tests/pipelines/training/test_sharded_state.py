"""A model whose parameters are sharded over processes (FSDP2) saves whole tensors or shards, and loads either."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from processes import run
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from wvq.pipelines.training.checkpoints.state import TrainingState, write_state
from wvq.pipelines.training.muon import Muon
from wvq.pipelines.training.step_record import StepRecord
from wvq.tokenizer import InputError


def build(accelerator: Accelerator, sharded: bool) -> tuple[nn.Module, list[Any], TrainingState]:
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 1))  # shards of 4 and 3 rows, of 1 and none
    if sharded:
        fully_shard(model, mesh=init_device_mesh("cpu", (accelerator.num_processes,)))
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    made = torch.optim.AdamW(vectors, lr=0.1), Muon(matrices, lr=0.1)
    optimizers = [accelerator.prepare_optimizer(optimizer) for optimizer in made]
    return model, optimizers, TrainingState(accelerator, model, optimizers, StepRecord(accelerator, model, limit=1))


def train(model: nn.Module, optimizers: list[Any], steps: int) -> dict[str, Tensor]:
    for step in range(steps):
        model(torch.ones(2, 4) * (step + 1)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    whole = (getattr(value, "full_tensor", lambda value=value: value)() for value in model.state_dict().values())
    return dict(zip(model.state_dict(), (value.detach().clone() for value in whole), strict=True))


def process(folder: Path) -> None:
    accelerator = Accelerator(cpu=True)
    model, optimizers, state = build(accelerator, sharded=True)
    train(model, optimizers, 3)
    assert state.shards
    shards, rest, counts = state.copy_shards(state.shards)
    tensors, counts = state.gather()
    expected = train(model, optimizers, 2)
    files = state.shards.write(folder / "shards", shards)  # as they were when they were copied
    assert [file.name[:11] for file in files] == [f"shard-{accelerator.process_index + 1:05d}"]
    if accelerator.is_main_process:
        (folder / "whole").mkdir()
        write_state(folder / "whole", tensors, counts)
        write_state(folder / "shards", rest, counts)
    accelerator.wait_for_everyone()
    for name in ("whole", "shards"):
        model, optimizers, state = build(accelerator, sharded=True)
        state.load(folder / name)
        torch.save((expected, train(model, optimizers, 2)), folder / name / f"{os.environ['RANK']}.pt")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("states")
    run(2, process, folder)
    return folder


@pytest.mark.parametrize("name", ["whole", "shards"])
def test_a_sharded_model_resumes_and_equals_one_that_is_not(name: str, saved: Path, capsys: pytest.CaptureFixture[str]):
    model, optimizers, state = build(Accelerator(cpu=True), sharded=False)
    alone = train(model, optimizers, 3)
    state.load(saved / name)  # on one process, without shards
    assert "saved by 2 processes" in capsys.readouterr().err
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, alone[key])
    last = train(model, optimizers, 2)
    for rank in range(2):
        expected, resumed = torch.load(saved / name / f"{rank}.pt", weights_only=True)
        for key, value in expected.items():
            assert torch.equal(resumed[key], value)
            torch.testing.assert_close(value, last[key], rtol=1e-3, atol=1e-3)  # Muon rounds to bfloat16


def test_each_process_has_written_its_shards_alone(saved: Path):
    shapes = [
        {name: tensor.shape for name, tensor in load_file(file).items() if name.startswith("model.")}
        for file in sorted((saved / "shards").glob("shard-*"))
    ]
    assert shapes == [
        {"model.0.weight": (4, 4), "model.0.bias": (4,), "model.1.weight": (1, 7), "model.1.bias": (1,)},
        {"model.0.weight": (3, 4), "model.0.bias": (3,), "model.1.weight": (0, 7), "model.1.bias": (0,)},
    ]


def test_shards_of_another_model_and_shards_that_are_missing_are_refused(saved: Path, tmp_path: Path):
    accelerator = Accelerator(cpu=True)
    model, optimizers, state = build(accelerator, sharded=False)
    other: Any = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 1))
    unlike = TrainingState(accelerator, other, optimizers, state.record)
    with pytest.raises(InputError, match=r"Size mismatch between saved .* and current"):
        unlike.load(saved / "shards")
    more = TrainingState(accelerator, nn.Sequential(model, nn.Linear(1, 1)), optimizers, state.record)
    with pytest.raises(InputError, match=r"model.0.0.bias is missing"):
        more.load(saved / "shards")
    for number, said in ((1, "does not hold all of"), (2, "Size mismatch between saved .* and current")):
        part = shutil.copytree(saved / "shards", tmp_path / str(number))
        next(part.glob(f"shard-0000{number}-*")).unlink()
        with pytest.raises(InputError, match=said):
            state.load(part)
