"""A run's folder: one configuration, whole checkpoints, metrics that fit them, and stopping politely."""

import errno
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from wvq.tokenizer import InputError, TokenizerConfig
from wvq.tokenizer.checkpoints import Run, first_difference, stop_request


@dataclass(frozen=True)
class Training:
    output_dir: str
    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    steps: int = 10
    rates: tuple[float, ...] = (0.1, 0.2)


@pytest.fixture
def config(tmp_path: Path) -> Training:
    return Training(output_dir=str(tmp_path / "run"))


def open_run(config: Training) -> tuple[Run, nn.Linear, torch.optim.AdamW]:
    """A run with a prepared model and optimizer, as a new process would make it."""
    accelerator = Accelerator(cpu=True)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    return Run(config.output_dir, config, accelerator), model, optimizer


def train(model: nn.Linear, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The configuration


def test_same_configuration_goes_on(config: Training):
    open_run(config)
    run, _, _ = open_run(config)
    assert not run.finished
    assert "output_dir" not in json.loads((run.folder / "run.json").read_text())


def test_folder_may_be_moved(config: Training, tmp_path: Path):
    open_run(config)
    (tmp_path / "run").rename(tmp_path / "moved")
    open_run(replace(config, output_dir=str(tmp_path / "moved")))


def test_other_configuration_is_refused_by_the_name_of_its_field(config: Training):
    open_run(config)
    before = (Path(config.output_dir) / "run.json").read_text()
    with pytest.raises(InputError, match=r"holds a run with steps = 10, this one has 20; give it another --output-dir"):
        open_run(replace(config, steps=20))
    with pytest.raises(InputError, match=r"model\.codebook_size = 16384, this one has 8192"):
        open_run(replace(config, model=TokenizerConfig(codebook_size=8192)))
    with pytest.raises(InputError, match=r"model\.quantizer_options\.commitment_weight = None, this one has 1\.0"):
        open_run(replace(config, model=TokenizerConfig(quantizer_options={"commitment_weight": 1.0})))
    with pytest.raises(InputError, match=r"rates = \[0\.1, 0\.2\], this one has \[0\.1\]"):
        open_run(replace(config, rates=(0.1,)))
    assert (Path(config.output_dir) / "run.json").read_text() == before


def test_first_difference():
    assert first_difference({}, {}) is None
    assert first_difference({"a": {"b": 1}, "c": [1]}, {"c": [1], "a": {"b": 1}}) is None
    assert first_difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == ("a.c", 2, 3)
    assert first_difference({"a": 1}, {}) == ("a", 1, None)
    assert first_difference({"a": {"x": 1}}, {"a": 5}) == ("a", {"x": 1}, 5)
    assert first_difference({"b": 1, "a": 1}, {"b": 2, "a": 2}) == ("a", 1, 2)


# Checkpoints


def test_resuming_equals_going_on(config: Training):
    run, model, optimizer = open_run(config)
    assert run.resume() == 0
    train(model, optimizer, 3)
    run.save_checkpoint(3, keep=2)
    train(model, optimizer, 4)
    expected = [p.detach().clone() for p in model.parameters()]

    torch.manual_seed(123)  # the generator comes back with the checkpoint
    resumed, model, optimizer = open_run(config)
    assert resumed.resume() == 3
    train(model, optimizer, 4)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), expected, strict=True))


def test_newest_checkpoints_are_kept(config: Training):
    run, _, _ = open_run(config)
    for step in (5, 10, 100, 99_999_999):
        run.save_checkpoint(step, keep=2)
    assert names(run.folder / "checkpoints") == ["step-00000100", "step-99999999"]
    assert run.resume() == 99_999_999


def test_failed_checkpoint_leaves_the_older_one(config: Training, monkeypatch: pytest.MonkeyPatch):
    run, _, _ = open_run(config)
    run.save_checkpoint(1, keep=1)

    def full(folder: str) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run.accelerator, "save_state", full)
    with pytest.raises(OSError, match="No space left"):
        run.save_checkpoint(2, keep=1)
    assert names(run.folder / "checkpoints") == ["step-00000001"]


def test_finished_once_the_model_is_there(config: Training):
    run, _, _ = open_run(config)
    (run.folder / "model").mkdir()
    assert run.finished


# Metrics


def test_metrics_after_the_resumed_step_are_forgotten(config: Training):
    run, _, _ = open_run(config)
    for step in (1, 2, 3):
        run.log(step, "train", {"loss": step / 10})
        if step == 2:
            run.log(step, "evaluation", {"psnr": 20.0})
            run.save_checkpoint(step, keep=1)
    resumed, _, _ = open_run(config)
    assert resumed.resume() == 2
    resumed.log(3, "train", {"loss": 9.0})
    assert resumed.metrics() == [
        {"step": 1, "split": "train", "loss": 0.1},
        {"step": 2, "split": "train", "loss": 0.2},
        {"step": 2, "split": "evaluation", "psnr": 20.0},
        {"step": 3, "split": "train", "loss": 9.0},
    ]


def test_metrics_are_forgotten_without_a_checkpoint(config: Training):
    run, _, _ = open_run(config)
    run.log(1, "train", {"loss": 1.0})
    resumed, _, _ = open_run(config)
    resumed.resume()
    assert resumed.metrics() == []


# Stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_asks_to_stop_and_leaves_with_its_code(number: signal.Signals, capsys: pytest.CaptureFixture[str]):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as leaving, stop_request(Accelerator()) as stop:  # noqa: PT012 (the signal must come inside)
        assert not stop.asked()
        os.kill(os.getpid(), number)
        assert stop.asked()
        stop.leave(2)
    assert leaving.value.code == 128 + number
    assert "stopped after step 2" in capsys.readouterr().err
    assert signal.getsignal(number) == before


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as in a terminal; a job in the background of a script starts with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_second_interrupt_stops_at_once():
    with pytest.raises(KeyboardInterrupt), stop_request(Accelerator()):  # noqa: PT012 (the signal must come inside)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
