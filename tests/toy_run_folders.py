"""A run folder without a training: what `Run` needs of a configuration and of processes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from wvq.pipelines.training.checkpoints.state import TrainingState
from wvq.pipelines.training.run import Run
from wvq.pipelines.training.step_record import StepRecord
from wvq.tokenizer import TokenizerConfig
from wvq.tokenizer.distributed import whole_tensor


@dataclass(frozen=True)
class Training:
    output_dir: str
    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    steps: int = 10
    checkpoint_every: int = 3
    keep_checkpoints: int = 2
    turning_point = 0
    rates: tuple[float, ...] = (0.1, 0.2)


class Process:
    """A run with a prepared model, optimizer and record, as a new process would make them; sharded if it is told to."""

    def __init__(self, config: Training, sharded: bool = False):
        self.accelerator = Accelerator(cpu=True)
        model: nn.Module = nn.Sequential(nn.Linear(3, 2), nn.Dropout())
        if sharded:
            fully_shard(model, mesh=init_device_mesh("cpu", (self.accelerator.num_processes,)))
            self.model: Any = model
            self.optimizer: Any = self.accelerator.prepare_optimizer(torch.optim.AdamW(model.parameters(), lr=0.1))
        else:
            self.model, self.optimizer = self.accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.1))
        self.record = StepRecord(self.accelerator, self.model, limit=1)
        self.state = TrainingState(self.accelerator, self.model, [self.optimizer], self.record)
        self.run = Run(config.output_dir, config, self.accelerator)
        self.folder = self.run.folder / "checkpoints"

    def train(self, steps: int) -> None:
        for step in range(1, steps + 1):
            with self.record.guard(step, step):
                loss = self.model(torch.randn(4, 3)).square().sum()
                loss.backward()
                self.record.add({"loss": loss})
                self.record.check()
                self.optimizer.step()
                self.optimizer.zero_grad()

    def save(self, step: int) -> None:
        self.run.save_checkpoint(step, self.state)

    def resume(self) -> int:
        return self.run.resume(self.state)

    def weights(self) -> list[torch.Tensor]:
        return [whole_tensor(parameter.detach()).clone() for parameter in self.model.parameters()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
