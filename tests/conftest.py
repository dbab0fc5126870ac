import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from device_watch import unused_exceptions, watching
from fixtures import read_fashion_images, write_fashion_folder
from shard_folders import write_fashion_shards
from torch import Tensor

if TYPE_CHECKING:
    from app_client import Served

_CACHE = tempfile.TemporaryDirectory(prefix="wvq-tests-", ignore_cleanup_errors=True)
# Read when `datasets` is imported, here and in processes started by tests.
os.environ["HF_DATASETS_CACHE"] = _CACHE.name

# Of all processes: those that pytest-xdist starts inherit the name of the first one's.
_USED_EXCEPTIONS = Path(os.environ.setdefault("WVQ_TESTS_USED_EXCEPTIONS", f"{_CACHE.name}/used-exceptions"))

# Two processes of tests compute side by side: each takes one core, as `accelerate launch` has its processes do.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def watched_devices() -> Iterator[None]:
    """Every tensor that the package makes names its device, or is on the CPU by intent."""
    with watching(_USED_EXCEPTIONS):
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """After all that `make test` runs: exceptions from naming a device that nothing needs any more."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and config.option.markexpr in ("", "not slow")
    if whole and not config.option.keyword and exitstatus == pytest.ExitCode.OK:
        for name in unused_exceptions(_USED_EXCEPTIONS):
            terminalreporter.write_line(f"tests/device_exceptions.py lists {name}, which no test needs", yellow=True)


@pytest.fixture(scope="session")
def fashion_images() -> tuple[Tensor, Tensor]:
    """600 real images (600, 1, 28, 28) uint8, 60 a class, and their labels (600,)."""
    return read_fashion_images()


@pytest.fixture(scope="session")
def fashion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as files: train/CLASS (50 each) and evaluation/CLASS (10 each). Read only."""
    folder = tmp_path_factory.mktemp("fashion")
    write_fashion_folder(folder)
    return folder


@pytest.fixture(scope="session")
def fashion_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as webdataset shards, 10 of train and 4 of evaluation. Read only."""
    return write_fashion_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def served_app(tmp_path_factory: pytest.TempPathFactory, fashion_folder: Path) -> Iterator["Served"]:
    """`wvq app` on two tiny pipelines, with the same images as test images, in a process of its own."""
    from app_client import served  # brings the models, for which other tests do not wait

    with served(tmp_path_factory.mktemp("app"), "--limits.max-megabytes=1", data=fashion_folder) as running:
        yield running
