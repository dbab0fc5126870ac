"""`TokenizeImages` in Ray Data: the shards of `wvq tokenize`, also when a worker is killed at its work."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from local_ray import local_ray
from tiny_pipelines import tiny_tokenizer

from wvq.pipelines import TokenizeImages
from wvq.pipelines.tokenize import Tokenization, tokenize
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.sources import find_source
from wvq.tokenizer.token_shards import shard_content

pytestmark = pytest.mark.slow  # Ray takes ten seconds to start, and every worker as long again


@pytest.fixture(scope="module", autouse=True)
def running_ray() -> Iterator[None]:
    with local_ray():
        yield


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tokenizer"
    tiny_tokenizer(image_size=28, channels=1).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(fashion_folder: Path) -> DataConfig:
    return DataConfig(source=str(fashion_folder), channels=1)


@pytest.fixture(scope="module")
def expected(data: DataConfig, tokenizer: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The shard of the training images that the command writes."""
    folder = tokenize(Tokenization(tokenizer, data, str(tmp_path_factory.mktemp("tokens"))))
    (shard,) = folder.glob("train-*.parquet")
    return shard.read_bytes()


@pytest.fixture(scope="module")
def images(data: DataConfig) -> ray.data.Dataset:
    """The training images as they are encoded in their files, in 20 blocks, with their numbers."""
    files = find_source(data.source, data.root, data.image_column, data.label_column, data.streaming).train
    rows = [{"image": files.content(n), "label": files.label(n), "n": n} for n in range(len(files))]
    return ray.data.from_items(rows, override_num_blocks=20)


def shard_of(made: ray.data.Dataset) -> bytes:
    """In the order of the images; blocks come as they are ready."""
    rows = sorted(made.select_columns(["n", "tokens", "label"]).take_all(), key=lambda row: row["n"])
    return shard_content(np.stack([row["tokens"] for row in rows]), np.array([row["label"] for row in rows]))


def test_tasks_give_the_shard_of_the_command(images: ray.data.Dataset, tokenizer: str, expected: bytes):
    made = images.map_batches(TokenizeImages(tokenizer), batch_size=7)
    assert shard_of(made) == expected


def test_actors_give_the_shard_of_the_command_when_one_is_killed(
    images: ray.data.Dataset, tokenizer: str, expected: bytes, tmp_path: Path
):
    class Watched(TokenizeImages):
        """Says who begins with which batch, and takes long enough to be killed at it."""

        def __call__(self, batch):
            (tmp_path / f"{os.getpid()}-{batch['n'][0]}").touch()
            time.sleep(0.5)
            result = super().__call__(batch)
            (tmp_path / f"{os.getpid()}-{batch['n'][0]}").rename(tmp_path / f"{os.getpid()}-{batch['n'][0]}.done")
            return result

    def by_worker() -> dict[int, list[str]]:
        names = sorted(path.name for path in tmp_path.iterdir())
        return {
            int(pid): [n for n in names if n.split("-")[0] == pid] for pid in {name.split("-")[0] for name in names}
        }

    killed: list[int] = []

    def kill() -> None:
        for _ in range(1200):  # of a minute
            workers = by_worker()
            working = [pid for pid, batches in workers.items() if any(not name.endswith(".done") for name in batches)]
            if len(workers) == 2 and working and sum(map(len, workers.values())) > 4:
                os.kill(working[0], signal.SIGKILL)
                killed.append(working[0])
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    compute = ray.data.ActorPoolStrategy(size=2)
    made = images.map_batches(Watched, fn_constructor_args=[tokenizer], batch_size=25, compute=compute)
    assert shard_of(made) == expected
    killer.join()
    workers = by_worker()
    (interrupted,) = [name for name in workers[killed[0]] if not name.endswith(".done")]
    again = interrupted.partition("-")[2] + ".done"
    assert [pid for pid, batches in workers.items() if f"{pid}-{again}" in batches] not in ([], killed)
