"""A run's folder: one writer, whole checkpoints that are checked, metrics that fit them."""

import contextlib
import os
import pickle
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from toy_run_folders import Process, Training, names

from wvq.pipelines.training.checkpoints.state import TrainingState
from wvq.pipelines.training.run import Run
from wvq.tokenizer import InputError
from wvq.tokenizer.storage import atomic as saving
from wvq.tokenizer.storage.lock import Lock
from wvq.tokenizer.storage.manifest import write_manifest


@pytest.fixture
def config(tmp_path: Path) -> Training:
    return Training(output_dir=str(tmp_path / "run"))


def test_resuming_equals_going_on(config: Training):
    """Weights, optimizer, random numbers, and the sums of the metrics."""
    first = Process(config)
    assert first.resume() == 0
    first.train(3)
    first.save(3)
    first.train(4)

    torch.manual_seed(123)  # the generator comes back with the checkpoint
    second = Process(config)
    assert second.resume() == 3
    second.train(4)
    assert all(torch.equal(p, q) for p, q in zip(first.weights(), second.weights(), strict=True))
    assert first.record.micro_batches == second.record.micro_batches == 7
    assert first.record.means() == second.record.means()


def test_newest_checkpoints_are_kept(config: Training):
    process = Process(config)
    for step in (5, 10, 100, 99_999_999):
        process.save(step)
    assert names(process.folder) == ["step-00000100", "step-99999999"]
    assert process.resume() == 99_999_999


def test_what_killed_processes_left_is_removed_at_the_start(config: Training):
    folder = Process(config).run.folder
    for name in (".model-abc.partial", "checkpoints/.step-00000003-abc.partial"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_bytes(b"half")
    (folder / ".metrics.jsonl.partial").write_bytes(b"half")
    Process(config)
    assert names(folder) == [".lock", "checkpoints", "run.json"]
    assert names(folder / "checkpoints") == []


def test_a_kill_before_or_while_an_old_checkpoint_is_removed_is_made_up_for(
    config: Training, monkeypatch: pytest.MonkeyPatch
):
    process = Process(config)

    def remove_a_file(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        raise InterruptedError

    monkeypatch.setattr(saving, "shutil", SimpleNamespace(rmtree=remove_a_file))
    process.save(3)
    process.save(6)
    with pytest.raises(InterruptedError):
        process.save(9)
    monkeypatch.setattr(Run, "_remove_old_checkpoints", lambda run: None)
    process.save(12)
    monkeypatch.undo()
    assert len(names(process.folder)) == 4
    assert Process(config).resume() == 12
    assert names(process.folder) == ["step-00000009", "step-00000012"]


def flip(checkpoint: Path, name: str) -> None:
    content = bytearray((checkpoint / name).read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / name).write_bytes(content)


def cut(checkpoint: Path, name: str) -> None:
    os.truncate(checkpoint / name, (checkpoint / name).stat().st_size // 2)


def remove(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()


FILES = ("model.safetensors", "optimizers.safetensors", "processes.safetensors", "state.json", "manifest.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flip, cut, remove])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    config: Training, damage: Callable[[Path, str], None], name: str, capsys: pytest.CaptureFixture[str]
):
    first = Process(config)
    first.train(3)
    first.save(3)
    expected = first.weights()
    first.train(3)
    first.run.log(6, "train", {"loss": 1.0})
    first.save(6)
    damage(first.folder / "step-00000006", name)

    second = Process(config)
    assert second.resume() == 3
    assert all(torch.equal(p, q) for p, q in zip(expected, second.weights(), strict=True))
    said = capsys.readouterr().err
    assert f"step-00000006 is damaged: {name}" in said
    assert "going on from step-00000003 instead" in said
    assert names(first.folder) == ["damaged-step-00000006", "step-00000003"]
    assert second.run.metrics() == []
    second.save(6)
    assert names(first.folder) == ["damaged-step-00000006", "step-00000003", "step-00000006"]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(config: Training):
    process = Process(config)
    for step in (3, 6):
        process.save(step)
        flip(process.folder / f"step-{step:08d}", "model.safetensors")
    everything = sorted(process.run.folder.rglob("*"))
    with pytest.raises(InputError, match=r"every checkpoint of .* is damaged .*model.safetensors has another sha256"):
        Process(config).resume()
    assert sorted(process.run.folder.rglob("*")) == everything


def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(config: Training):
    process = Process(config)
    for step in range(1, 6):
        process.run.log(step, "train", {"loss": 1.0})
    process.save(3)
    shutil.rmtree(process.folder)
    with pytest.raises(InputError, match="was at step 5, and its checkpoints are gone"):
        Process(config).resume()
    assert len(process.run.metrics()) == 5


def log(process: Process, steps: range) -> None:
    for step in steps:
        process.run.log(step, "train", {"loss": 1.0})


def test_a_run_that_had_no_checkpoint_yet_begins_anew_with_more_of_them(config: Training):
    rare, often = replace(config, checkpoint_every=8), replace(config, checkpoint_every=3)
    log(Process(rare), range(1, 6))
    Process(often)  # killed before it resumed
    process = Process(often)
    assert process.resume() == 0
    log(process, range(1, 3))
    assert Process(often).resume() == 0


def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew_with_fewer_of_them(config: Training):
    first = Process(config)
    log(first, range(1, 4))
    first.save(3)
    rare = replace(config, checkpoint_every=8)
    second = Process(rare)
    assert second.resume() == 3
    log(second, range(4, 6))
    shutil.rmtree(second.folder)
    with pytest.raises(InputError, match="was at step 5, and its checkpoints are gone"):
        Process(rare).resume()


def test_a_checkpoint_of_another_model_is_refused(config: Training):
    process = Process(config)
    process.save(3)
    with pytest.raises(InputError, match=r"model.safetensors does not hold what this run would resume from"):
        TrainingState(process.accelerator, nn.Linear(2, 2), [process.optimizer], process.record).load(
            process.folder / "step-00000003"
        )


class Malicious:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.write_text, (Path("executed"), "")


def test_no_pickle_is_ever_loaded(config: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither in place of a checkpoint's file, with a manifest that fits, nor beside them."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Malicious()))
    Path("executed").unlink()  # it does execute
    process = Process(config)
    process.save(3)
    checkpoint = process.folder / "step-00000003"
    for name in ("random_states_0.pkl", "optimizer.bin", "custom_checkpoint_0.pkl", "pytorch_model.bin"):
        (checkpoint / name).write_bytes(pickle.dumps(Malicious()))
    write_manifest(checkpoint)
    assert Process(config).resume() == 3
    for name in FILES[:4]:
        good = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(pickle.dumps(Malicious()))
        write_manifest(checkpoint)
        with pytest.raises(InputError, match=name):
            Process(config).resume()
        (checkpoint / name).write_bytes(good)
    assert not Path("executed").exists()


def test_finished_once_the_model_is_there(config: Training):
    run = Process(config).run
    (run.folder / "model").mkdir()
    assert run.finished


# One process at a time


@pytest.fixture
def holder(config: Training) -> Iterator[int]:
    """A live process that holds the lock of the run."""
    reading, writing = os.pipe()
    if not (process := os.fork()):
        held = Lock(Path(config.output_dir) / ".lock")
        os.write(writing, b"locked")
        signal.pause()
        held.release()
    assert os.read(reading, 6) == b"locked"
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12; the child does nothing but wait
def test_a_folder_that_another_process_works_in_is_refused_until_that_dies(config: Training, holder: int):
    with pytest.raises(InputError, match=rf"is in use by process {holder} of "):
        Process(config)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    Process(config)


def test_a_second_attempt_of_one_process_is_not_in_its_own_way(config: Training):
    processes = [Process(config), Process(config)]  # a notebook keeps the first alive
    assert processes[1].resume() == 0


# Metrics


def test_metrics_after_the_resumed_step_are_forgotten(config: Training):
    process = Process(config)
    for step in (1, 2, 3):
        process.run.log(step, "train", {"loss": step / 10})
        if step == 2:
            process.run.log(step, "evaluation", {"psnr": 20.0})
            process.save(step)
    resumed = Process(config)
    assert resumed.resume() == 2
    resumed.run.log(3, "train", {"loss": 9.0})
    assert resumed.run.metrics() == [
        {"step": 1, "split": "train", "loss": 0.1},
        {"step": 2, "split": "train", "loss": 0.2},
        {"step": 2, "split": "evaluation", "psnr": 20.0},
        {"step": 3, "split": "train", "loss": 9.0},
    ]


def test_metrics_are_forgotten_without_a_checkpoint(config: Training):
    Process(config).run.log(1, "train", {"loss": 1.0})
    resumed = Process(config)
    resumed.resume()
    assert resumed.run.metrics() == []


def test_a_line_of_metrics_that_is_no_json_is_named(config: Training):
    process = Process(config)
    (process.run.folder / "metrics.jsonl").write_text('{"step": 1}\n{"step"\n')
    with pytest.raises(InputError, match=r"metrics.jsonl holds a line that is not valid JSON"):
        process.resume()
