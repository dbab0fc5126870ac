"""Kills workers that encode one data set at random moments, and compares what they leave with what one worker makes.

`python tests/kill_workers.py` does so with 20,000 images and 8 workers that are killed 10 times each, one image in a
thousand of them bad; `test_killed_workers.py` has a short form of it. The moments are drawn by the seed: each is a
number of images that all workers have begun to encode, and some milliseconds after it.
"""

import argparse
import dataclasses
import os
import random
import shutil
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import torch
from fixtures import read_fashion_images
from processes import run, start
from shard_folders import png, sample, write_tar
from toy_runs import untrained_tokenizer

from wvq.pipelines.tokenize import Tokenization, tokenize
from wvq.tokenizer import VQTokenizer
from wvq.tokenizer.data.config import DataConfig

TARS = 20
SECONDS = 0.04  # a batch, for a network that is so small that all is done before the last kill


class Outcome(NamedTuple):
    """What happened.

    Attributes:
        images: that are encoded.
        kills: of workers, each in the midst of its life.
        begun: images that workers began to encode, whether they came to the end or not.
        encoded: images that workers encoded.
        seconds: that it took.
    """

    images: int
    kills: int
    begun: int
    encoded: int
    seconds: float

    def __str__(self) -> str:
        again = [f"{100 * (count / self.images - 1):.2f} %" for count in (self.begun, self.encoded)]
        return (
            f"{self.images} images, {self.kills} kills, {self.seconds:.0f} s: "
            f"{again[0]} of the images begun again, {again[1]} encoded again; all files equal, no lease left"
        )


def write_images(folder: Path, count: int) -> None:
    """So many different images of clothes in `TARS` archives, a thousandth of them bad."""
    originals, labels = read_fashion_images()
    for shard, numbers in enumerate(torch.arange(count).chunk(TARS)):
        members = []
        for number in numbers.tolist():
            picture = b"?" if number % 1000 == 500 else png(originals[number % 600] + number // 600)
            members += sample(f"{number:06d}", picture, cls=int(labels[number % 600]))
        write_tar(folder / f"{shard:03d}.tar", members)


def worker(config: Tokenization, counts: Path, seconds: float) -> None:
    """`wvq tokenize`, with a byte in counts/begun and in counts/encoded for each image, and seconds more a batch."""
    encode = VQTokenizer.encode
    begun, encoded = (os.open(counts / name, os.O_CREAT | os.O_APPEND | os.O_WRONLY) for name in ("begun", "encoded"))

    def counted(self: VQTokenizer, images: torch.Tensor) -> torch.Tensor:
        os.write(begun, b"." * len(images))
        indices = encode(self, images)
        time.sleep(seconds)
        os.write(encoded, b"." * len(images))
        return indices

    VQTokenizer.encode = counted
    tokenize(config)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, those of leases included, by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def compare_workers(images: int, workers: int, kills: int, shard_size: int, seed: int, work: Path) -> Outcome:
    """Encode with one worker, then with so many, each of which is killed so often and replaced by a new one.

    Raises:
        AssertionError: if a worker fails, the two have other files, or any lease is left.
    """
    write_images(work / "images", images)
    data = DataConfig(str(work / "images"), channels=1, streaming=True, skip_bad_images=True)
    config = Tokenization(
        untrained_tokenizer(work / "tokenizer"), data, str(work / "one"), batch_size=4, shard_size=shard_size
    )
    run(1, worker, config, _folder(work / "counts of one"), 0.0)
    expected = contents(work / "one")
    config, counts = dataclasses.replace(config, output_dir=str(work / "many")), _folder(work / "counts")
    began = time.monotonic()

    def tend(place: int) -> int:
        """Kill a worker whenever its moment has come, and start another; how many were killed."""
        moments, killed = random.Random(f"{seed} {place}"), 0
        running = start(1, worker, config, counts, SECONDS)[0]
        # A kill takes its time, and all are to come before the end.
        for moment in sorted(moments.uniform(0, 0.7 * images) for _ in range(kills)):
            while _size(counts / "begun") < moment and running.is_alive():
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.02))
            killed += _kill(running)
            running = start(1, worker, config, counts, SECONDS)[0]
        running.join()
        assert running.exitcode == 0
        return killed

    with ThreadPoolExecutor(workers) as tending:
        killed = sum(tending.map(tend, range(workers)))
    seconds = time.monotonic() - began
    found = contents(work / "many")
    assert sorted(found) == sorted(expected)
    assert found == expected
    shutil.rmtree(work / "images")
    return Outcome(images, killed, _size(counts / "begun"), _size(counts / "encoded"), seconds)


def _kill(process: BaseProcess) -> bool:
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def from_command_line() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--kills", type=int, default=10, help="of each worker")
    parser.add_argument("--shard-size", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(compare_workers(**vars(options), work=Path(folder)))


if __name__ == "__main__":
    from_command_line()
