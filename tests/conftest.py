import os
import tempfile
from pathlib import Path

import pytest
from fixtures import read_fashion_images, write_fashion_folder
from shard_folders import write_fashion_shards
from torch import Tensor

_CACHE = tempfile.TemporaryDirectory(prefix="wvq-tests-", ignore_cleanup_errors=True)
# Read when `datasets` is imported, here and in processes started by tests.
os.environ["HF_DATASETS_CACHE"] = _CACHE.name


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
