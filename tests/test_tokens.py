"""Data sets as tokens: `wvq.tokenizer.tokens`."""

import dataclasses
from pathlib import Path

import pytest
import torch
from einops import rearrange
from toy_runs import untrained_tokenizer

from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data import DataConfig, load_splits, to_model
from wvq.tokenizer.tokens import TokenDataset, Tokenization, tokenize


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return Path(untrained_tokenizer(tmp_path_factory.mktemp("models") / "tokenizer"))


def test_tokens_are_the_encoded_images_in_raster_order_and_flips_follow(fashion_folder, tokenizer_folder, tmp_path):
    data = DataConfig(source=str(fashion_folder), channels=1, horizontal_flip=True)
    folder = tokenize(Tokenization(str(tokenizer_folder), data, str(tmp_path)))
    tokenizer = VQTokenizer.from_pretrained(tokenizer_folder)
    for split, images in zip(("train", "evaluation"), load_splits(data), strict=True):
        pixels = to_model(images.__getitems__(range(len(images)))["images"])
        views = [pixels, pixels.flip(-1)] if split == "train" else [pixels]
        dataset = TokenDataset(folder, split)
        grids = torch.cat([tokenizer.encode(view) for view in views])
        assert torch.equal(dataset.tokens, rearrange(grids, "n h w -> n (h w)"))
        assert torch.equal(dataset.labels, images.labels.repeat(len(views)))
        assert dataset.class_names == images.class_names
        assert (dataset.num_codes, dataset.tokenizer_fingerprint) == (32, tokenizer.fingerprint)


def test_tokens_are_encoded_once_for_what_they_depend_on(fashion_folder, tokenizer_folder, tmp_path, monkeypatch):
    config = Tokenization(
        str(tokenizer_folder), DataConfig(source=str(fashion_folder), channels=1), str(tmp_path / "t")
    )
    encoded: list[int] = []
    encode = VQTokenizer.encode
    monkeypatch.setattr(VQTokenizer, "encode", lambda self, images: encoded.append(len(images)) or encode(self, images))
    folder = tokenize(config)
    assert sum(encoded) == 600
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert tokenize(dataclasses.replace(config, batch_size=7)) == folder
    assert sum(encoded) == 600
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written

    other = VQTokenizer.from_pretrained(tokenizer_folder)
    other.to_codebook.bias.data[0] += 1e-3  # pyright: ignore
    other.save_pretrained(tmp_path / "other")
    flipped = dataclasses.replace(config.data, horizontal_flip=True)
    fewer = tmp_path / "fewer"
    for path in sorted(fashion_folder.rglob("*.png"))[1:]:
        target = fewer / path.relative_to(fashion_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    folders = {folder}
    for changes in (
        {"tokenizer": str(tmp_path / "other")},
        {"data": flipped},
        {"data": dataclasses.replace(config.data, source=str(fewer))},
    ):
        folders.add(tokenize(dataclasses.replace(config, **changes)))
    assert len(folders) == 4
    assert sum(encoded) == 600 + 600 + 1100 + 599
    with pytest.raises(InputError, match="batch_size is 0; it must be at least 1"):
        dataclasses.replace(config, batch_size=0)
