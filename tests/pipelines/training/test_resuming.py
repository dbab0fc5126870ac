"""Runs that are stopped and go on, and runs over several processes: both are the same run."""

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import STAGES, assert_equal_runs, changed, rows, toy_stage, weights

from wvq.pipelines.train_prior import train_prior
from wvq.pipelines.train_tokenizer import train_tokenizer
from wvq.pipelines.training.checkpoints.state import TrainingState
from wvq.pipelines.training.run import Run
from wvq.tokenizer import InputError


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, fashion_folder: Path, tmp_path: Path) -> tuple[Callable[[Any], Path], Any]:
    """(train function, configuration) of each stage."""
    return toy_stage(request.param, fashion_folder, tmp_path)


class Interruption(Exception):
    """Power failure, say."""


@pytest.mark.parametrize("how", ["failure", "signal", "failure of a stream"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(stage, how, fashion_shards, monkeypatch):
    train, config = stage
    config = changed(config, ema_decay=0.8, gradient_accumulation_steps=2)
    if how == "failure of a stream":
        config = changed(config, data=dataclasses.replace(config.data, source=str(fashion_shards), streaming=True))
    if train is train_prior:
        size = dataclasses.replace(config.model, attention_dropout=0.2, tie_embeddings=True)
        config = changed(config, model=size, label_smoothing=0.1)
    else:
        config = changed(config, optimizer="muon", data=dataclasses.replace(config.data, horizontal_flip=True))
    straight = changed(config, "straight")
    train(straight)

    log = Run.log

    def log_and_break(run: Run, step: int, split: str, values: dict[str, float]) -> None:
        log(run, step, split, values)
        if step == 5:
            if how != "signal":
                raise Interruption
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "log", log_and_break)
    with pytest.raises(SystemExit if how == "signal" else Interruption):
        train(config)
    monkeypatch.undo()
    assert not (Path(config.output_dir) / "model").exists()
    last = max(path.name for path in (Path(config.output_dir) / "checkpoints").iterdir())
    assert last == ("step-00000005" if how == "signal" else "step-00000003")
    torch.manual_seed(12345)  # a new process has other random numbers
    train(config)
    assert_equal_runs(config, straight)


def test_what_changes_no_result_may_change_between_stop_and_resume(stage, fashion_shards, monkeypatch):
    """No step is lost of the means: with those of every line, over the steps between lines, they are the same."""
    train, config = stage
    config = changed(config, data=dataclasses.replace(config.data, source=str(fashion_shards), streaming=True))
    straight = changed(config, "straight")
    train(straight)

    log = Run.log

    def log_and_break(run: Run, step: int, split: str, values: dict[str, float]) -> None:
        log(run, step, split, values)
        if step == 6:  # the checkpoint of step 3 has the sums of that step
            raise Interruption

    before = changed(config, log_every=2, keep_checkpoints=1)
    monkeypatch.setattr(Run, "log", log_and_break)
    with pytest.raises(Interruption):
        train(before)
    monkeypatch.undo()
    data = dataclasses.replace(before.data, num_workers=2)
    after = changed(before, data=data, log_every=3, checkpoint_every=4, keep_checkpoints=3, log_with=("tensorboard",))
    train(after)
    expected, found = weights(straight), weights(after)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert rows(after, "evaluation") == rows(straight, "evaluation")
    losses = {int(row["step"]): row["loss"] for row in rows(straight, "train")}
    lines = [int(row["step"]) for row in rows(after, "train")]
    assert lines == [2, 6, 8]
    for first, last, row in zip([0, *lines], lines, rows(after, "train"), strict=False):
        mean = sum(losses[step] for step in range(first + 1, last + 1)) / (last - first)
        assert row["loss"] == pytest.approx(mean, rel=1e-6)
    assert json.loads((Path(after.output_dir) / "run.json").read_text())["data"]["num_workers"] == 2


def test_a_run_that_stopped_between_its_last_step_and_its_model_only_writes_the_model(stage, monkeypatch):
    train, config = stage
    train(changed(config, "straight"))
    save_checkpoint = Run.save_checkpoint

    def save_and_break(run: Run, step: int, state: TrainingState) -> None:
        save_checkpoint(run, step, state)
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
