"""The size and the channels of images are those of the tokenizer, where there is one, unless they are given."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_pipelines import tiny_tokenizer
from toy_runs import MODEL, toy_stage

from wvq.pipelines.command_line import parse
from wvq.pipelines.reconstruct import Reconstruction, reconstruct
from wvq.pipelines.tokenize import Tokenization, tokenize
from wvq.pipelines.train_prior import train_pipeline
from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.tokenizer import InputError, TokenizerConfig
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits


@pytest.fixture
def open_data(fashion_folder: Path) -> DataConfig:
    return DataConfig(source=str(fashion_folder))


@pytest.fixture(params=[{"image_size": 16, "channels": 3}, {"image_size": 8, "channels": 1}])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    tiny_tokenizer(**request.param).save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def test_tokens_and_reconstructions(tmp_path: Path, open_data: DataConfig, tokenizer: str):
    about = json.loads((Path(tokenizer) / "config.json").read_text())
    given = dataclasses.replace(open_data, image_size=about["image_size"], channels=about["channels"])
    folder = str(tmp_path / "tokens")
    assert tokenize(Tokenization(tokenizer, open_data, folder)) == tokenize(Tokenization(tokenizer, given, folder))
    out = reconstruct(Reconstruction(tokenizer, open_data, str(tmp_path / "out"), num_images=3))
    with Image.open(out / "originals" / "000000.png") as picture:
        assert (picture.size[0], picture.mode) == (about["image_size"], "L" if about["channels"] == 1 else "RGB")


def test_a_prior(tmp_path: Path, fashion_folder: Path, open_data: DataConfig):
    _, config = toy_stage("prior", fashion_folder, tmp_path)
    given = dataclasses.replace(config, data=dataclasses.replace(open_data, image_size=28, channels=1), steps=4)
    left_open = dataclasses.replace(given, data=open_data)
    assert train_pipeline(left_open) == train_pipeline(given)  # one and the same run
    recorded = json.loads((Path(given.output_dir) / "run.json").read_text())["data"]
    assert (recorded["image_size"], recorded["channels"]) == (28, 1)
    with pytest.raises(InputError, match=r"\(1, 28, 28\)|takes \(B, 1, 28, 28\)"):
        train_pipeline(dataclasses.replace(left_open, data=dataclasses.replace(open_data, image_size=32)))


def test_a_tokenizer_in_training_has_the_sizes_of_whichever_is_given():
    config = TokenizerTraining(model=TokenizerConfig(image_size=64, channels=1))
    assert config.data.shape == (1, 64, 64)
    assert TokenizerTraining(model=MODEL).data.shape == (1, 28, 28)
    with pytest.raises(InputError, match="they must be the same"):
        TokenizerTraining(model=TokenizerConfig(image_size=64), data=DataConfig(image_size=32))
    config = parse("train-tokenizer", ["--data.image-size=32"])
    assert (config.data.shape, config.model.image_size, config.model.channels) == ((3, 32, 32), 32, 3)
    config = parse("compare", ["--data.channels=1"])
    shapes = {training.data.shape for training in (config.tokenizer, config.prior)} | {config.data.shape}
    assert shapes == {(1, 28, 28)}


def test_without_a_tokenizer_there_are_defaults(fashion_folder: Path):
    train, _ = load_splits(DataConfig(source=str(fashion_folder)))
    given: Any = DataConfig(source=str(fashion_folder), image_size=28, channels=3)
    assert train[0]["images"].shape == (3, 28, 28)
    assert train.fingerprint == load_splits(given)[0].fingerprint
