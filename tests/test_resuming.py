"""Runs that are stopped and go on, and runs over several processes: both are the same run."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import STAGES, assert_equal_runs, changed, toy_stage, untimed

from wvq.prior.train import train_prior
from wvq.tokenizer import InputError
from wvq.tokenizer.checkpoints import Run
from wvq.tokenizer.train import train_tokenizer


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, fashion_folder: Path, tmp_path: Path) -> tuple[Callable[[Any], Path], Any]:
    """(train function, configuration) of each stage."""
    return toy_stage(request.param, fashion_folder, tmp_path)


class Interruption(Exception):
    """Power failure, say."""


@pytest.mark.parametrize("how", ["failure", "signal"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(stage, how, monkeypatch):
    train, config = stage
    config = changed(config, ema_decay=0.8, gradient_accumulation_steps=2)
    if train is train_prior:
        size = dataclasses.replace(config.model, attention_dropout=0.2, tie_embeddings=True)
        config = changed(config, model=size, label_smoothing=0.1)
    else:
        config = changed(config, data=dataclasses.replace(config.data, horizontal_flip=True))
    straight = changed(config, "straight")
    train(straight)

    log = Run.log

    def log_and_break(run: Run, step: int, split: str, values: dict[str, float]) -> None:
        log(run, step, split, values)
        if step == 5:
            if how == "failure":
                raise Interruption
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "log", log_and_break)
    with pytest.raises(Interruption if how == "failure" else SystemExit):
        train(config)
    monkeypatch.undo()
    assert not (Path(config.output_dir) / "model").exists()
    last = max(path.name for path in (Path(config.output_dir) / "checkpoints").iterdir())
    assert last == ("step-00000003" if how == "failure" else "step-00000005")
    torch.manual_seed(12345)  # a new process has other random numbers
    train(config)
    assert_equal_runs(config, straight)


def test_a_run_that_stopped_between_its_last_step_and_its_model_only_writes_the_model(stage, monkeypatch):
    train, config = stage
    train(changed(config, "straight"))
    save_checkpoint = Run.save_checkpoint

    def save_and_break(run: Run, step: int, keep: int) -> None:
        save_checkpoint(run, step, keep)
        if step == config.steps:
            raise Interruption

    monkeypatch.setattr(Run, "save_checkpoint", save_and_break)
    with pytest.raises(Interruption):
        train(config)
    monkeypatch.undo()
    train(config)
    assert_equal_runs(config, changed(config, "straight"))


def test_a_finished_run_returns_at_once_and_another_configuration_is_refused(stage):
    train, config = stage
    model = train(config)
    written = {path: path.stat().st_mtime_ns for path in Path(config.output_dir).rglob("*")}
    assert train(config) == model
    assert {path: path.stat().st_mtime_ns for path in Path(config.output_dir).rglob("*")} == written
    with pytest.raises(InputError, match=r"holds a run with learning_rate = \S+, this one has 0.5"):
        train(changed(config, learning_rate=0.5))
    deeper = dataclasses.replace(config.model, **{"num_blocks" if train is train_tokenizer else "num_layers": 3})
    with pytest.raises(InputError, match=r"holds a run with model.num_\w+ = 1, this one has 3"):
        train(changed(config, model=deeper))
    assert {path: path.stat().st_mtime_ns for path in Path(config.output_dir).rglob("*")} == written


def test_two_processes_train_what_one_does(fashion_folder, tmp_path):
    """Both stages in one program, flips and dropped classes included, to rounding."""
    stage_one, stage_two = (toy_stage(name, fashion_folder, tmp_path)[1] for name in STAGES)
    flips = dataclasses.replace(stage_one.data, horizontal_flip=True)
    second = changed(stage_two, optimizer="adamw", gradient_accumulation_steps=2)  # Muon rounds to bfloat16
    alone = [changed(config, data=flips, steps=4) for config in (stage_one, second)]
    together = [changed(config, f"{Path(config.output_dir).name}-together") for config in alone]
    program = tmp_path / "program.py"
    program.write_text(f"""
from wvq.prior.train import *
from wvq.tokenizer.train import *
torch.set_num_threads(1)
train_tokenizer({together[0]!r})
train_prior({together[1]!r})
assert Accelerator().num_processes == 2
""")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launched = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert launched.returncode == 0, launched.stderr[-3000:]
    train_tokenizer(alone[0])
    train_prior(alone[1])
    for one, two in zip(alone, together, strict=True):
        for row, other in zip(untimed(one), untimed(two), strict=True):
            assert other.pop("split") == row.pop("split")
            assert other == pytest.approx(row, rel=1e-4)
