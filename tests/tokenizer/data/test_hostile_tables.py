"""A table or data set that somebody else made reaches no other files and runs no code."""

from pathlib import Path

import datasets.config
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wvq.tokenizer import InputError
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits


def test_a_table_cannot_name_files_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("private.png", "cache/downloads/own.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 7).save(tmp_path / name)
    paths = [
        str(tmp_path / "private.png"),
        "../private.png",
        "/dev/zero",
        "a\0b",
        str(tmp_path / "cache" / ".." / "private.png"),
    ]
    for path in paths:
        pq.write_table(pa.table({"image": [{"bytes": None, "path": path}] * 9}), tmp_path / "x.parquet")
        with pytest.raises(InputError, match=r"no bytes but the path .* which is not read"):
            load_splits(DataConfig(source=str(tmp_path / "x.parquet"), evaluation_fraction=0.5))


def test_a_data_set_with_a_script_does_not_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "name.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="holds no images"):
        load_splits(DataConfig(source="owner/name"))
    assert not (tmp_path / "ran").exists()
