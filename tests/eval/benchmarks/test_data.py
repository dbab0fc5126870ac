"""The data benchmark: both loaders give the same pictures, and figures are written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from wvq.eval.benchmarks.data import (
    PEER,
    SOURCES,
    DataBenchmark,
    benchmark_data,
    check_same_pixels,
    lazy_dataset,
    peer_dataset,
    write_pictures,
)
from wvq.tokenizer import InputError

TINY: dict[str, Any] = {"num_images": 8, "width": 40, "image_size": 16, "batch_size": 4}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_table_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = benchmark_data(DataBenchmark(str(tmp_path), num_workers=(0, 1), **TINY))
    rows = json.loads(path.read_text())["rows"]
    assert [(row["source"], row["loader"], row["num_workers"]) for row in rows] == [
        (source, loader, workers)
        for source in SOURCES
        for workers in (0, 1)
        for loader in (("wvq", PEER) if "folder" in source else ("wvq",))
    ]
    assert all(row["images_per_second"] == row["images_per_second_per_process"] > 0 for row in rows)
    assert capsys.readouterr().out.count("parquet") == 4


def test_all_sources_hold_the_same_pictures_and_are_decoded_when_read(tmp_path: Path):
    config = DataBenchmark(**TINY)
    datasets = {
        source: lazy_dataset(config, write_pictures(config, source, tmp_path / source), "stream" in source)
        for source in config.sources
    }
    assert [dataset.streamed for dataset in datasets.values()] == ["stream" in source for source in SOURCES]
    assert all(dataset._pixels is None for dataset in datasets.values())
    batches = {source: dataset.__getitems__(range(8))["images"] for source, dataset in datasets.items()}
    for source in ("parquet", "tar stream", "parquet stream"):
        assert torch.equal(batches["jpeg folder"], batches[source])
    peer = peer_dataset(config, tmp_path / "png folder" / "png-folder")
    check_same_pixels(datasets["png folder"], peer)
    peer.transform = lambda image: torch.zeros(3, 16, 16, dtype=torch.uint8)
    with pytest.raises(AssertionError, match="the transforms differ"):
        check_same_pixels(datasets["png folder"], peer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ("tar",)}, "sources holds 'tar'; valid are png folder, jpeg folder, parquet, tar stream, parquet"),
        ({"batch_size": 3}, "batch_size is 3; it must divide num_images, 8"),
        ({"num_workers": (-1,)}, "num_workers is"),
        ({"num_images": 0}, "num_images is 0; it must be at least 1"),
    ],
)
def test_options_that_cannot_be_used(changes: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        DataBenchmark(**{**TINY, **changes})
