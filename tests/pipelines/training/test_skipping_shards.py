"""Sharded weights (FSDP2) skip a step that only the device knows to be bad, as GPUs do: on two processes, on CPUs."""

import dataclasses
import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from launch_files import environment
from processes import run
from torch import Tensor
from toy_runs import assert_close_runs, changed, rows, toy_stage

from wvq.pipelines import train_prior as stage_two
from wvq.pipelines.training import loop
from wvq.prior.loss import TokenLoss


def train(config: Any, launch: dict[str, str], decided_there: bool) -> None:
    """Train with a loss that is NaN on the last process in step 3, asking for it or not."""
    os.environ.update(launch)
    forward, parts = TokenLoss.forward, itertools.count(1)

    def forward_and_break(self: TokenLoss, *inputs: Any, **named: Any) -> Tensor:
        loss = forward(self, *inputs, **named)
        last = int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1
        return loss * torch.nan if self.training and next(parts) == 3 and last else loss

    TokenLoss.forward = forward_and_break
    if decided_there:
        loop.may_ask = lambda device: False
    stage_two.train_prior(config)


@pytest.mark.slow  # beside test_guards_on_devices.py, in one process
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_of_shards_is_skipped_without_asking(optimizer: str, fashion_folder: Path, tmp_path: Path):
    _, config = toy_stage("prior", fashion_folder, tmp_path)
    config = dataclasses.replace(config, optimizer=optimizer, ema_decay=0.8, sample_every=0, steps=5)
    other = changed(config, "decided-there")
    run(1, train, config, {}, False)
    run(2, train, other, environment("fsdp"), True)
    assert [row["skipped_steps"] for row in rows(other, "train")] == [0, 0, 1, 1, 1]
    assert_close_runs(config, other, metrics=1e-4, rtol=0, atol=1e-5 if optimizer == "adamw" else 2e-3)
