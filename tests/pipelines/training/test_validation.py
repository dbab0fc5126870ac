"""The evaluation in the middle of a training."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import changed, rows, toy_stage, weights

from wvq.pipelines import train_tokenizer as training_module
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


def test_pictures_change_nothing_in_a_training(fashion_folder: Path, tmp_path: Path):
    """Not even where it draws at random, and a model is loaded for the pictures."""
    train, config = toy_stage("prior", fashion_folder, tmp_path)
    config = changed(config, model=dataclasses.replace(config.model, attention_dropout=0.5), sample_every=0)
    train(config)
    drawing = changed(config, "drawing", sample_every=1)
    train(drawing)
    assert len(list(Path(drawing.output_dir, "images").glob("*.png"))) == 8
    for name, expected in weights(config).items():
        assert torch.equal(weights(drawing)[name], expected), name


@pytest.mark.parametrize(("wanted", "counted"), [(0, 100), (30, 30), (500, 100)])
def test_a_collapse_is_told_by_the_images_that_there_are(
    fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: int, counted: int
):
    found: list[int] = []
    monkeypatch.setattr(training_module, "collapse_warning", lambda metrics, model, images: found.append(images))
    train, config = toy_stage("tokenizer", fashion_folder, tmp_path)
    train(changed(config, steps=3, evaluate_every=3, evaluation_images=wanted))
    assert found == [counted]
