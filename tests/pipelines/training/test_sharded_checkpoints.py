"""Checkpoints in shards are written beside the loop, whole or not at all, and have the guarantees of whole ones."""

import os
import pickle
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run, start
from torch import Tensor
from toy_run_folders import Process, Training, names

from wvq.pipelines.training.checkpoints.shards import ShardWriter
from wvq.tokenizer import InputError
from wvq.tokenizer.storage.manifest import write_manifest

write = ShardWriter.write


@contextmanager
def writing(function: Any) -> Iterator[None]:
    """With another function in place of the one that writes shards."""
    ShardWriter.write = function
    try:
        yield
    finally:
        ShardWriter.write = write


def save_beside_the_loop(config: Training) -> None:
    """Two checkpoints: the second is written while the steps after it are made."""
    process, go_on = Process(config, sharded=True), threading.Event()
    assert process.resume() == 0
    process.train(3)
    process.save(3)
    process.train(3)
    process.run.log(6, "train", {"loss": 1.0})
    saved, random = process.weights(), torch.get_rng_state()

    def write_when_told(self: ShardWriter, folder: Path, copies: dict[str, Tensor]) -> list[Path]:
        assert go_on.wait(60)
        return write(self, folder, copies)

    with writing(write_when_told):
        process.save(6)
        process.train(2)
        assert "step-00000006" not in names(process.folder)
        go_on.set()
        process.run.wait()
    assert names(process.folder) == ["step-00000003", "step-00000006"]
    expected = process.weights()

    again = Process(config, sharded=True)
    assert again.resume() == 6
    assert all(torch.equal(one, other) for one, other in zip(again.weights(), saved, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    again.train(2)
    assert all(torch.equal(one, other) for one, other in zip(again.weights(), expected, strict=True))

    def fail_on_the_last(self: ShardWriter, folder: Path, copies: dict[str, Tensor]) -> list[Path]:
        files = write(self, folder, copies)
        if again.accelerator.is_last_process:
            raise OSError(28, "No space left on device")
        return files

    with writing(fail_on_the_last):
        again.save(9)
        with pytest.raises(OSError, match="No space left on device"):
            again.run.wait()
    again.accelerator.wait_for_everyone()  # the first one removes what was written
    assert names(again.folder) == ["step-00000003", "step-00000006"]
    if again.accelerator.is_main_process:
        torch.save(saved, Path(config.output_dir) / "saved.pt")


def save_and_die(config: Training) -> None:
    """Killed when its shards are written and the checkpoint is not yet in its place."""
    process = Process(config, sharded=True)
    assert process.resume() == 6
    process.train(3)

    def write_and_die(self: ShardWriter, folder: Path, copies: dict[str, Tensor]) -> list[Path]:
        assert write(self, folder, copies)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    with writing(write_and_die):
        process.save(9)
        process.run.wait()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Training:
    config = Training(output_dir=str(tmp_path_factory.mktemp("sharded") / "run"))
    run(2, save_beside_the_loop, config)
    return config


@pytest.fixture
def config(saved: Training, tmp_path: Path) -> Training:
    shutil.copytree(saved.output_dir, tmp_path / "run")
    return Training(output_dir=str(tmp_path / "run"))


def test_training_goes_on_while_a_checkpoint_is_written_and_one_process_resumes_from_it(config: Training):
    process = Process(config)
    assert process.resume() == 6
    expected = torch.load(Path(config.output_dir) / "saved.pt", weights_only=True)
    assert all(torch.equal(one, other) for one, other in zip(process.weights(), expected, strict=True))
    assert [row["step"] for row in process.run.metrics()] == [6]
    process.save(9)  # whole
    assert names(process.folder) == ["step-00000006", "step-00000009"]
    files = ["manifest.json", "processes.safetensors"]
    shards = [f"shard-0000{number}-model-00001-of-00001.safetensors" for number in (1, 2)]
    assert names(process.folder / "step-00000006") == [*files, *shards, "state.json"]


def test_a_run_killed_while_it_saves_resumes_from_the_checkpoint_before(config: Training):
    processes = start(2, save_and_die, config)
    for process in processes:
        process.join(timeout=300)
    assert -signal.SIGKILL in [process.exitcode for process in processes]
    folder = Path(config.output_dir) / "checkpoints"
    assert [name for name in names(folder) if name.startswith("step")] == ["step-00000003", "step-00000006"]
    assert Process(config).resume() == 6
    assert names(folder) == ["step-00000003", "step-00000006"]


@pytest.mark.parametrize("name", ["shard-00001", "shard-00002", "processes", "state", "manifest"])
def test_a_damaged_file_of_any_process_is_named_and_the_checkpoint_before_is_used(
    name: str, config: Training, capsys: pytest.CaptureFixture[str]
):
    (file,) = (Path(config.output_dir) / "checkpoints" / "step-00000006").glob(f"{name}*")
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    process = Process(config)
    assert process.resume() == 3
    assert f"step-00000006 is damaged: {name}" in capsys.readouterr().err
    assert names(process.folder) == ["damaged-step-00000006", "step-00000003"]


class Malicious:
    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return Path.write_text, (Path("executed"), "")


def test_no_pickle_is_ever_loaded(config: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither in place of a file, with a manifest that fits, nor where torch keeps its own."""
    monkeypatch.chdir(tmp_path)
    checkpoint = Path(config.output_dir) / "checkpoints" / "step-00000006"
    for name in (".metadata", "__0_0.distcp", "model.safetensors.index.json"):
        (checkpoint / name).write_bytes(pickle.dumps(Malicious()))
    write_manifest(checkpoint)
    assert Process(config).resume() == 6
    for path in checkpoint.glob("*.safetensors"):
        good = path.read_bytes()
        path.write_bytes(pickle.dumps(Malicious()))
        write_manifest(checkpoint)
        with pytest.raises(InputError, match="does not hold what this run would resume from"):
            Process(config).resume()
        path.write_bytes(good)
    assert not Path("executed").exists()
