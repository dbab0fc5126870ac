"""A sharded run that is stopped goes on with another number of processes, and has the losses of one that was not."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from launch_files import environment
from processes import run, start
from torch import Tensor
from toy_run_folders import names
from toy_runs import changed, rows, toy_stage

from wvq.pipelines.train_prior import train_prior
from wvq.pipelines.training.checkpoints.shards import ShardWriter
from wvq.pipelines.training.run import Run

LAUNCHES: dict[str, dict[str, str]] = {
    "whole": {},
    "fsdp": environment("fsdp"),
    "hsdp": environment("hsdp", parallelism_config_dp_replicate_size=2, parallelism_config_dp_shard_size=2),
}
ROUNDING = {"adamw": 1e-6, "muon": 2e-4}  # Muon computes in bfloat16


def train(config: Any, launch: dict[str, str], stop_at: int = 0, kill_at: int = 0) -> None:
    """Train as `accelerate launch` would; the last process is sent SIGTERM in the step `stop_at`, all are sent SIGKILL
    while they write the checkpoint of the step `kill_at`."""
    os.environ.update(launch)
    log, write = Run.log, ShardWriter.write

    def log_and_stop(self: Run, step: int, split: str, values: dict[str, float]) -> None:
        log(self, step, split, values)
        if step == stop_at and self.accelerator.is_last_process:
            os.kill(os.getpid(), signal.SIGTERM)

    def write_and_die(self: ShardWriter, folder: Path, copies: dict[str, Tensor]) -> list[Path]:
        files = write(self, folder, copies)
        if f"step-{kill_at:08d}" in str(folder):
            os.kill(os.getpid(), signal.SIGKILL)
        return files

    Run.log, ShardWriter.write = log_and_stop, write_and_die
    train_prior(config)


def train_in_turns(config: Any, *turns: tuple[int, str, int]) -> None:
    """Train with (processes, launch file) up to a step, then with the next, and at last to the end."""
    for world, launch, stop_at in turns:
        processes = start(world, train, config, LAUNCHES[launch], stop_at)
        for process in processes:
            process.join(timeout=600)
        expected = 128 + signal.SIGTERM if stop_at else 0
        assert [process.exitcode for process in processes] == [expected] * world
        if stop_at:
            newest = Path(config.output_dir) / "checkpoints" / f"step-{stop_at:08d}"
            assert sum(name.startswith("shard-") for name in names(newest)) == (world if LAUNCHES[launch] else 0)


def assert_equal_losses(config: Any, other: Any, rounding: float) -> None:
    for split in ("train", "evaluation"):
        one, two = ([(row["step"], row["loss"]) for row in rows(each, split)] for each in (config, other))
        assert [step for step, _ in one] == [step for step, _ in two]
        assert [loss for _, loss in one] == pytest.approx([loss for _, loss in two], rel=rounding)


def test_two_processes_killed_while_they_save_are_followed_by_one(fashion_folder: Path, tmp_path: Path):
    _, config = toy_stage("prior", fashion_folder, tmp_path)
    config = changed(config, optimizer="adamw", ema_decay=0.8, sample_every=0)
    straight = changed(config, "straight")
    run(1, train, straight, {})
    processes = start(2, train, config, LAUNCHES["fsdp"], 0, 6)
    for process in processes:
        process.join(timeout=600)
    assert -signal.SIGKILL in [process.exitcode for process in processes]
    assert [name for name in names(Path(config.output_dir) / "checkpoints") if name[0] != "."] == ["step-00000003"]
    run(1, train, config, {})
    assert_equal_losses(config, straight, ROUNDING["adamw"])


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "launch"), [("adamw", "fsdp"), ("muon", "hsdp")])
def test_four_processes_are_followed_by_two_and_by_one_and_one_by_four(
    optimizer: Any, launch: str, fashion_folder: Path, tmp_path: Path
):
    _, config = toy_stage("prior", fashion_folder, tmp_path)
    config = changed(config, optimizer=optimizer, ema_decay=0.8, code_geometry=8, steps=12)
    fewer, more = changed(config, "fewer"), changed(config, "more")
    run(1, train, config, {})
    train_in_turns(fewer, (4, launch, 4), (2, "fsdp", 8), (1, "whole", 0))
    train_in_turns(more, (1, "whole", 4), (4, launch, 8), (2, "whole", 0))
    for each in (fewer, more):
        assert_equal_losses(each, config, ROUNDING[optimizer])
