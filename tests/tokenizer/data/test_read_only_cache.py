"""A cache that cannot be written to, as of a home that is read-only: what would be kept there is read all the same."""

import subprocess
import sys
from pathlib import Path

import datasets.config
import pytest
from shard_folders import sample, small, write_fashion_shards, write_tar
from shard_splits import KINDS, config_of, everything

from wvq.tokenizer.data import webdataset
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.data.webdataset import tar_index
from wvq.tokenizer.storage.cache import writable_cache


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache where nothing can be written, by root either: a file is in its place."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "datasets")
    return tmp_path / "file" / "datasets"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_read_without_a_cache(no_cache: Path, folders: dict[str, Path], kind: str, streaming: bool, capsys):
    config = config_of(folders[kind], streaming=streaming)
    found = [everything(split) for split in load_splits(config)]
    assert [sum(split.values()) for split in found] == [500, 100]
    told = f"{no_cache} cannot be written to (Not a directory)" in capsys.readouterr().err
    assert told == ((kind, streaming) != ("parquet", True))  # which keeps nothing
    assert [everything(split) for split in load_splits(config)] == found
    assert "cannot be written" not in capsys.readouterr().err  # once is enough


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_worker_processes_read_without_a_cache(no_cache: Path, folders: dict[str, Path]):
    train, _ = load_splits(config_of(folders["tar"], num_workers=2))
    assert sum(len(batch["labels"]) for batch in train.batches(100)) == 500


def test_the_index_is_read_once_where_it_cannot_be_kept(no_cache: Path, tmp_path: Path, monkeypatch):
    path = write_tar(tmp_path / "0.tar", sample("a", small(1), cls=4))
    first = tar_index(path, "label")
    monkeypatch.setattr(webdataset, "_read_headers", None)
    assert tar_index(path, "label").equals(first, check_metadata=True)


@pytest.mark.usefixtures("own_cache")
def test_a_full_disk_keeps_no_index_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = write_tar(tmp_path / "0.tar", sample("a", small(1), cls=4))
    monkeypatch.setattr(webdataset, "_write_index", full)
    assert tar_index(path, "label")["label"].to_pylist() == ["4"]


def test_what_was_kept_before_a_cache_became_read_only_is_used(own_cache: Path, tmp_path: Path, monkeypatch):
    path = write_tar(tmp_path / "0.tar", sample("a", small(1), cls=4))
    first = tar_index(path, "label")
    monkeypatch.setattr(webdataset, "writable_cache", None)
    assert tar_index(path, "label").equals(first, check_metadata=True)


def test_the_folder_in_its_place_goes_with_the_process(tmp_path: Path):
    (tmp_path / "file").touch()
    code = f"""
from pathlib import Path
from {writable_cache.__module__} import writable_cache
print(writable_cache(Path({str(tmp_path / "file" / "cache")!r})))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert Path(result.stdout.strip()).name.startswith("wvq-cache-")
    assert not Path(result.stdout.strip()).exists()


def test_a_cache_that_is_not_there_yet_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "new" / "cache")
    load_splits(config_of(write_fashion_shards(tmp_path / "shards")))
    assert list((tmp_path / "new" / "cache" / "wvq-shards").glob("*.arrow"))
