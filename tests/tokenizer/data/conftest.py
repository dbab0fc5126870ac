from pathlib import Path

import datasets.config
import pytest
from image_files import write_photos
from shard_folders import write_fashion_shards
from shard_splits import KINDS


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of `datasets` for one test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    return Path(datasets.config.HF_DATASETS_CACHE)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Fashion-MNIST in shards of each kind. Read only."""
    return {kind: write_fashion_shards(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of pictures of two classes, to be damaged."""
    return write_photos(tmp_path / "photos")
