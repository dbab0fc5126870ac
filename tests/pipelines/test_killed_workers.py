"""Workers that encode one data set: killed at random moments, or stopped in their sleep past their lease."""

import dataclasses
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from kill_workers import compare_workers, contents
from processes import run, start
from toy_runs import untrained_tokenizer

from wvq.pipelines import tokenize as module
from wvq.pipelines.tokenize import Tokenization, tokenize
from wvq.tokenizer import VQTokenizer
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.storage import leases


@pytest.mark.parametrize(
    ("images", "workers", "kills", "shard_size"),
    [(600, 3, 1, 100), pytest.param(20_000, 8, 10, 500, marks=pytest.mark.slow)],
)
def test_killed_workers_leave_the_files_of_one(images: int, workers: int, kills: int, shard_size: int, tmp_path: Path):
    outcome = compare_workers(images, workers, kills, shard_size, seed=0, work=tmp_path)
    print(outcome)
    assert outcome.kills >= 0.9 * workers * kills  # a loaded machine may be too late for the others
    assert images <= outcome.encoded <= outcome.begun <= 1.02 * images


def sleepy_worker(config: Tokenization, name: str, call: int, log: Path) -> None:
    """`wvq tokenize` of a process that stops itself right before a call of "encode" or "write_once", by number."""
    leases.LEASE_SECONDS = 0.5
    place: Any = VQTokenizer if name == "encode" else module
    function, calls = getattr(place, name), 0

    def stopping(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            with log.open("a") as file:
                file.write(f"{os.getpid()}\n")
            os.kill(os.getpid(), signal.SIGSTOP)
        return function(*arguments)

    setattr(place, name, stopping)
    tokenize(config)


def wait_until_asleep(process: BaseProcess) -> None:
    while "T" not in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[:1]:
        assert process.is_alive()
        time.sleep(0.01)


def wake(process: BaseProcess) -> None:
    assert process.pid
    os.kill(process.pid, signal.SIGCONT)
    process.join(60)
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def undisturbed(fashion_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenization:
    """What one worker has encoded."""
    folder = tmp_path_factory.mktemp("undisturbed")
    data = DataConfig(source=str(fashion_shards), channels=1, streaming=True)
    tokenizer = untrained_tokenizer(folder / "tokenizer")
    config = Tokenization(tokenizer, data, str(folder / "tokens"), batch_size=32, shard_size=100)
    run(1, tokenize, config)
    return config


@pytest.fixture
def config(undisturbed: Tokenization, tmp_path: Path) -> Tokenization:
    return dataclasses.replace(undisturbed, output_dir=str(tmp_path / "shared"))


# Calls of write_once: the plan, then two for each of the six shards, then the index.
@pytest.mark.parametrize(("name", "call"), [("encode", 6), ("write_once", 2), ("write_once", 5), ("write_once", 14)])
def test_who_wakes_when_others_have_finished_changes_nothing(config, undisturbed, name, call, tmp_path):
    sleeper = start(1, sleepy_worker, config, name, call, tmp_path / "log")[0]
    wait_until_asleep(sleeper)
    run(1, sleepy_worker, config, "encode", 0, tmp_path / "log")
    written = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (tmp_path / "shared").rglob("*")}
    assert contents(tmp_path / "shared") == contents(Path(undisturbed.output_dir))
    wake(sleeper)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (tmp_path / "shared").rglob("*")} == written


def test_who_wakes_while_another_is_at_its_part_harms_nothing(config, undisturbed, tmp_path):
    first, second = (start(1, sleepy_worker, config, "encode", call, tmp_path / "log")[0] for call in (3, 20))
    for sleeper in (first, second):
        wait_until_asleep(sleeper)
    wake(first)  # and takes over in turn
    wake(second)
    assert contents(tmp_path / "shared") == contents(Path(undisturbed.output_dir))
