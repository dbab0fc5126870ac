"""`wvq evaluate` in two processes, killed and started again: byte for byte the scores of one undisturbed process."""

import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_evaluations import Tiny, save, tiny_pipeline_folder
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from wvq.eval import evaluate as command
from wvq.eval.evaluate import Evaluation, evaluate
from wvq.eval.features import chunks
from wvq.pipelines.generation import SamplingOptions
from wvq.tokenizer.data.config import DataConfig

SCORES = ["fid", "kid", "is", "precision", "mind", "class-accuracy"]


class Counting(Tiny):
    """Counts the images it sees, and gets stuck when a folder has three chunks of reconstructions."""

    def __init__(self, kept: Path | None):
        super().__init__()
        self.kept, self.seen = kept, 0

    def features(self, images: Tensor) -> Tensor:
        if self.kept and len(chunks_of_reconstructions(self.kept)) >= 3:
            time.sleep(3600)
        self.seen += len(images)
        return super().features(images)


def chunks_of_reconstructions(kept: Path) -> list[Path]:
    return list(kept.glob("reconstructions-*/*.safetensors"))


def scored(configs: list[Evaluation], kept: Path | None = None) -> int:
    """Evaluate in chunks of 15 images; returns how many images this process has put through the extractor."""
    extractor = Counting(kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_SIZE", 15)
        patch.setattr(command, "build_extractor", lambda *_: extractor)
        for config in configs:
            evaluate(config)
    return extractor.seen


def process(rank: int, configs: list[Evaluation], kept: Path | None, port: int, counts: Path) -> None:
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in world.items()})
    torch.set_num_threads(1)
    (counts / f"{rank}").write_text(str(scored(configs, kept)))
    torch.distributed.destroy_process_group()


def alone(configs: list[Evaluation], counts: Path) -> int:
    """What `scored` returns in one fresh process: this one may have libraries with more threads."""
    spawn(one_process, (configs, counts), nprocs=1)
    return int((counts / "alone").read_text())


def one_process(_: int, configs: list[Evaluation], counts: Path) -> None:
    torch.set_num_threads(1)
    (counts / "alone").write_text(str(scored(configs)))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_two_processes_and_a_killed_one_score_as_one(
    fashion_folder: Path, fashion_images: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of every library of the processes, as `accelerate launch` sets it

    def configs(name: str) -> list[Evaluation]:
        """Of a pipeline, and of a folder of images."""
        about = {"data": data, "scores": SCORES, "resume_dir": str(tmp_path / f"{name}-parts")}
        pipeline = Evaluation(
            pipeline=str(model), num_images=40, sampling=SamplingOptions(batch_size=7),
            reference_split="evaluation", **about,
            output=str(tmp_path / f"{name}-pipeline.json"),
        )  # fmt: skip
        images = Evaluation(images=samples, output=str(tmp_path / f"{name}-images.json"), **about)
        return [pipeline, replace(images, scores=SCORES[:-1])]

    def results(name: str) -> list[bytes]:
        assert not (tmp_path / f"{name}-parts").exists(), "what is complete is cleared"
        return [(tmp_path / f"{name}-{kind}.json").read_bytes() for kind in ("pipeline", "images")]

    data = DataConfig(source=str(fashion_folder))
    model = tiny_pipeline_folder(tmp_path)
    samples = save(fashion_images[0][::12], tmp_path / "samples")
    everything = alone(configs("one"), tmp_path)
    assert everything == 100 + 100 + 40 + 500 + 50  # originals, reconstructions, samples; training images, folder

    spawn(process, (configs("two"), None, free_port(), tmp_path), nprocs=2)
    shares = [int((tmp_path / f"{rank}").read_text()) for rank in range(2)]
    assert results("two") == results("one")
    assert sum(shares) == everything
    assert min(shares) > 0

    kept = tmp_path / "killed-parts"
    running = spawn(process, (configs("killed"), kept, free_port(), tmp_path), nprocs=2, join=False)
    assert running is not None
    processes: list[Any] = running.processes
    try:
        while len(chunks_of_reconstructions(kept)) < 3:
            assert all(each.is_alive() for each in processes)
            time.sleep(0.05)
    finally:
        for each in processes:
            os.kill(each.pid, signal.SIGKILL)
            each.join()
    made = [load_file(path)["vectors"] for path in chunks_of_reconstructions(kept)]
    assert alone(configs("killed"), tmp_path) == everything - 100 - sum(map(len, made))
    assert results("killed") == results("one")


def test_two_evaluations_in_one_directory_do_not_disturb_each_other(
    fashion_folder: Path, fashion_images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    """As in a sweep: the same reference, other samples, temporary features in the same folder."""

    def config(name: str) -> Evaluation:
        return Evaluation(
            images=folders[name], data=DataConfig(source=str(fashion_folder)), resume_dir=str(tmp_path / "shared"),
            output=str(tmp_path / f"{name}.json"), scores=["fid", "kid"],
        )  # fmt: skip

    folders = {name: save(fashion_images[0][k::12], tmp_path / name) for k, name in enumerate("ab")}
    results = []
    for together in (False, True):
        running = [spawn(one_process, ([config(name)], tmp_path), nprocs=1, join=not together) for name in "ab"]
        assert all(each is None or each.join() for each in running)
        results.append([(tmp_path / f"{name}.json").read_bytes() for name in "ab"])
    assert results[0] == results[1]
    assert not (tmp_path / "shared").exists(), "the last one clears"
