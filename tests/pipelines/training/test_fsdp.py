"""Training with sharded weights (FSDP2) on two processes is training on one; both survive a signal to one of them."""

import dataclasses
import itertools
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from launch_files import environment
from processes import run, start
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from toy_runs import assert_close_runs, assert_equal_runs, changed, rows, toy_stage

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.train_prior import train_pipeline
from wvq.pipelines.train_tokenizer import train_tokenizer
from wvq.pipelines.training.accelerator import build_accelerator
from wvq.pipelines.training.muon import Muon
from wvq.pipelines.training.run import Run
from wvq.prior.loading import load_prior
from wvq.prior.loss import TokenLoss
from wvq.tokenizer import InputError


def train(config: Any, launch: dict[str, str], stop_at: int = 0, break_at: int = 0) -> None:
    """Train as `accelerate launch` would; the last process is sent SIGTERM in the step `stop_at`, its loss is NaN in
    the part `break_at`."""
    os.environ.update(launch)
    forward, parts = TokenLoss.forward, itertools.count(1)

    def forward_and_break(self: TokenLoss, *inputs: Any, **named: Any) -> Tensor:
        loss = forward(self, *inputs, **named)
        last = int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1
        return loss * torch.nan if self.training and next(parts) == break_at and last else loss

    TokenLoss.forward = forward_and_break
    log = Run.log

    def log_and_stop(self: Run, step: int, split: str, values: dict[str, float]) -> None:
        log(self, step, split, values)
        if step == stop_at and self.accelerator.is_last_process:
            os.kill(os.getpid(), signal.SIGTERM)

    Run.log = log_and_stop
    (train_tokenizer if "codebook_learning_rate" in vars(config) else train_pipeline)(config)
    if "ACCELERATE_USE_FSDP" in launch:
        assert build_accelerator(config, may_shard=True).is_fsdp2


def toy_prior(images: Path, folder: Path, **changes: Any) -> Any:
    """A prior of two layers, with accumulation and a moving average."""
    _, config = toy_stage("prior", images, folder)
    size = dataclasses.replace(config.model, num_layers=2, **changes.pop("model", {}))
    return changed(config, model=size, gradient_accumulation_steps=2, ema_decay=0.8, **changes)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"optimizer": "adamw", "code_geometry": 8}, 1e-6),
        (  # Muon rounds to bfloat16
            {"optimizer": "muon", "code_geometry": 8, "model": {"architecture": "gpt2", "tie_embeddings": True}},
            2e-3,
        ),
        ({"optimizer": "adamw", "order": "annealed", "model": {"architecture": "gpt2"}}, 1e-6),
    ],
)
def test_two_sharded_processes_train_what_one_whole_one_does(
    changes: dict[str, Any], tolerance: float, fashion_folder: Path, tmp_path: Path
):
    whole = toy_prior(fashion_folder, tmp_path, **changes)
    sharded = changed(whole, "sharded")
    run(1, train, whole, {}, 0, 5)
    run(2, train, sharded, environment("fsdp"), 0, 5)
    assert [row["skipped_steps"] for row in rows(sharded, "train")] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert_close_runs(whole, sharded, metrics=1e-5, rtol=0, atol=tolerance)

    folder = Path(sharded.output_dir)
    assert [path.name for path in (folder / "images").iterdir()] == ["step-00000008.png"]
    pipeline = ClassConditionalPipeline.from_pretrained(folder / "pipeline")
    assert pipeline.prior.state_dict().keys() == load_prior(Path(whole.output_dir) / "model").state_dict().keys()
    images = pipeline(["Bag"], num_images_per_label=2, generator=torch.Generator().manual_seed(0)).images
    assert [image.size for image in images] == [(28, 28)] * 2


@pytest.mark.parametrize(("launch", "stage"), [("fsdp", "prior"), ("ddp", "tokenizer")])
def test_one_process_is_told_to_stop_and_the_resumed_run_is_the_uninterrupted_one(
    launch: str, stage: str, fashion_folder: Path, tmp_path: Path
):
    config = toy_prior(fashion_folder, tmp_path, model={"attention_dropout": 0.2}) if stage == "prior" else None
    config = config or changed(toy_stage(stage, fashion_folder, tmp_path)[1], ema_decay=0.8)
    straight = changed(config, "straight")
    run(2, train, straight, environment(launch))
    processes = start(2, train, config, environment(launch), 5)
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [128 + signal.SIGTERM] * 2
    assert [row["step"] for row in rows(config, "train")] == [1, 2, 3, 4, 5]
    newest = max(path.name for path in (Path(config.output_dir) / "checkpoints").iterdir())
    assert newest == "step-00000005"
    alone = changed(config, "alone")
    shutil.copytree(config.output_dir, alone.output_dir)
    run(2, train, config, environment(launch))
    assert_equal_runs(config, straight)

    if launch == "fsdp":  # what is saved is whole: one process goes on as well, with other random numbers
        run(1, train, alone, {})
        last, other = (rows(each, "evaluation")[-1]["loss"] for each in (straight, alone))
        assert other == pytest.approx(last, rel=0.01)


def step_shards(folder: Path) -> None:
    """Three steps of Muon on shards and on the whole, of every shape."""
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    for rows_, columns in ((16, 48), (48, 16), (5, 7), (1, 8)):
        torch.manual_seed(0)
        start_ = torch.randn(rows_, columns)
        whole, shard = nn.Parameter(start_), nn.Parameter(distribute_tensor(start_, mesh, [Shard(0)]))
        rate: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.05}
        optimizers = [torch.optim.Muon([whole], adjust_lr_fn="match_rms_adamw", **rate), Muon([shard], **rate)]
        for _ in range(3):
            whole.grad = torch.randn(rows_, columns)
            shard.grad = distribute_tensor(whole.grad, mesh, [Shard(0)])
            for optimizer in optimizers:
                optimizer.step()
        assert isinstance(shard, DTensor)
        torch.testing.assert_close(shard.full_tensor(), whole, rtol=1e-6, atol=1e-7)
        momentum = optimizers[1].state[shard]["momentum_buffer"]
        assert torch.equal(momentum.full_tensor(), optimizers[0].state[whole]["momentum_buffer"])
        assert momentum.to_local().shape == shard.to_local().shape


def test_muon_of_shards_is_muon_of_the_whole(tmp_path: Path):
    run(2, step_shards, tmp_path)


@pytest.mark.parametrize(
    ("engine", "may_shard", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, True, r"asks for DeepSpeed, .* valid are FSDP2 \(launch/fsdp.yaml\)"),
        ({"ACCELERATE_USE_FSDP": "true"}, True, r"asks for fsdp_version 1; it must be 2, as in launch/fsdp.yaml"),
        ({"ACCELERATE_USE_FSDP": "true"}, False, r"asks for FSDP; a tokenizer .* trains with DDP \(launch/ddp.yaml\)"),
    ],
)
def test_engines_that_cannot_train_say_which_can(
    engine: dict[str, str], may_shard: bool, message: str, monkeypatch: pytest.MonkeyPatch, fashion_folder, tmp_path
):
    for name, value in engine.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        build_accelerator(toy_stage("prior", fashion_folder, tmp_path)[1], may_shard)
