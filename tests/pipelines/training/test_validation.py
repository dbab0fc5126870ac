"""The evaluation in the middle of a training."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from toy_runs import changed, rows, toy_stage

from wvq.tokenizer.data import ImageDataset


def test_evaluation_images_are_read_by_the_workers(
    fashion_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of a stream, which keeps nothing in memory; the scores are those without workers."""
    train, config = toy_stage("tokenizer", fashion_shards, tmp_path)
    data = dataclasses.replace(config.data, streaming=True)
    config = changed(config, data=data, steps=3, evaluate_every=3, evaluation_images=30)
    train(config)
    take, here = ImageDataset.take, os.getpid()

    def take_elsewhere(dataset: ImageDataset, indices: Any) -> Any:
        assert os.getpid() != here or len(indices) == 32  # of the picture
        return take(dataset, indices)

    monkeypatch.setattr(ImageDataset, "take", take_elsewhere)
    working = changed(config, "working", data=dataclasses.replace(data, num_workers=1))
    train(working)
    assert rows(working, "evaluation") == rows(config, "evaluation")
