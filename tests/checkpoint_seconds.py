"""How long a checkpoint in shards holds the loop, how long it is written, and how long a whole one of the same takes.

`python tests/checkpoint_seconds.py` prints it as a row of JSON: medians of the slowest process, in seconds.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from processes import run
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from toy_run_folders import Training

from wvq.pipelines.training.checkpoints.state import TrainingState
from wvq.pipelines.training.run import Run
from wvq.pipelines.training.step_record import StepRecord
from wvq.tokenizer.distributed import from_every_process

WARM_UP = 1  # a first copy also finds its memory


def measure(folder: Path, width: int, layers: int, saves: int) -> None:
    """Save a stack of square matrices with the moments of AdamW, in shards and whole; the first process prints."""
    accelerator = Accelerator(cpu=True)
    mesh = init_device_mesh("cpu", (accelerator.num_processes,))
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
    fully_shard(model, mesh=mesh)
    optimizer = accelerator.prepare_optimizer(torch.optim.AdamW(model.parameters()))
    model(torch.ones(1, width)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    state = TrainingState(accelerator, model, [optimizer], StepRecord(accelerator, model, limit=1))
    config: Any = Training(output_dir=str(folder / "run"), keep_checkpoints=1)
    seconds: dict[str, list[float]] = {"held": [], "shards": [], "whole": []}
    with Run(config.output_dir, config, accelerator) as recorded:
        for step in range(1, 2 * (saves + WARM_UP) + 1, 2):
            accelerator.wait_for_everyone()
            begun = time.perf_counter()
            recorded.save_checkpoint(step, state)
            seconds["held"].append(time.perf_counter() - begun)
            recorded.wait()
            seconds["shards"].append(time.perf_counter() - begun)
            shards, state.shards = state.shards, None  # as if it were none
            accelerator.wait_for_everyone()
            begun = time.perf_counter()
            recorded.save_checkpoint(step + 1, state)
            seconds["whole"].append(time.perf_counter() - begun)
            state.shards = shards
    medians = {name: median(values[WARM_UP:]) for name, values in seconds.items()}
    slowest = {name: max(each[name] for each in from_every_process(lambda: medians)) for name in medians}
    size = 3 * 4 * sum(parameter.numel() for parameter in model.parameters())
    accelerator.print(json.dumps({"processes": accelerator.num_processes, "megabytes": size / 1e6, **slowest}))


def from_command_line() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--saves", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(options.processes, measure, Path(folder), options.width, options.layers, options.saves)


if __name__ == "__main__":
    from_command_line()
