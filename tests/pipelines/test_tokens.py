"""Data sets as tokens: `wvq.tokenizer.tokens`."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from processes import run
from shard_folders import png, sample, write_tar
from toy_runs import untrained_tokenizer

from wvq.pipelines.tokenize import Tokenization, tokenize
from wvq.pipelines.tokenize_images import encode_images
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer import tokens as tokens_module
from wvq.tokenizer.data.bad_images import read_bad_images
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.data.decoding import to_model
from wvq.tokenizer.tokens import TokenDataset


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
        batch = dataset.__getitems__([7, 0, len(dataset) - 1])
        assert torch.equal(batch["tokens"], dataset.tokens[[7, 0, -1]])
        assert torch.equal(batch["labels"], dataset.labels[[7, 0, -1]])
        assert dataset.class_names == images.class_names
        assert (dataset.num_codes, dataset.tokenizer_fingerprint) == (32, tokenizer.fingerprint)


def test_drawn_crops_follow_the_whole_images(fashion_folder, tokenizer_folder, tmp_path):
    data = DataConfig(source=str(fashion_folder), channels=1, horizontal_flip=True)
    config = Tokenization(str(tokenizer_folder), data, str(tmp_path / "one"), crops=2)
    dataset = TokenDataset(tokenize(config), "train")
    whole = TokenDataset(tokenize(dataclasses.replace(config, crops=0)), "train")
    assert len(dataset) == 3 * len(whole)
    tokens, labels = dataset.tokens.unflatten(0, (6, 500)), dataset.labels.unflatten(0, (6, 500))
    assert torch.equal(tokens[:2].flatten(0, 1), whole.tokens)
    assert torch.equal(labels, labels[:1].expand(6, 500))

    tokenizer = VQTokenizer.from_pretrained(tokenizer_folder)
    larger = load_splits(dataclasses.replace(data, image_size=31))[0].__getitems__(range(500))["images"]
    corners = [(top, left) for top in range(4) for left in range(4)]
    windows = torch.stack([larger[..., top : top + 28, left : left + 28] for top, left in corners])
    for view, flip in ((2, False), (3, True), (4, False), (5, True)):
        grids = [tokenizer.encode(to_model(window.flip(-1) if flip else window)) for window in windows]
        matches = (torch.stack(grids).flatten(2) == tokens[view]).all(dim=-1)
        assert matches.any(dim=0).all()  # each is a window of the larger image
        assert (matches.sum(dim=1) > 5).all()  # and every place is drawn
    again = tokenize(dataclasses.replace(config, output_dir=str(tmp_path / "two"), batch_size=33))
    assert torch.equal(TokenDataset(again, "train").tokens, dataset.tokens)
    with pytest.raises(InputError, match="crops is -1; it must be at least 0"):
        dataclasses.replace(config, crops=-1)


def test_tokens_are_encoded_once_for_what_they_depend_on(fashion_folder, tokenizer_folder, tmp_path, monkeypatch):
    config = Tokenization(
        str(tokenizer_folder), DataConfig(source=str(fashion_folder), channels=1), str(tmp_path / "t")
    )
    encoded: list[int] = []

    def counting(tokenizer: VQTokenizer, images: torch.Tensor) -> torch.Tensor:
        encoded.append(len(images))
        return encode_images(tokenizer, images)

    monkeypatch.setattr("wvq.pipelines.tokenize.encode_images", counting)
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


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "CHUNK_IMAGES", 70)


class Interruption(Exception):
    """Power failure, say."""


@pytest.mark.usefixtures("small_chunks")
def test_a_tokenization_that_was_stopped_goes_on(fashion_shards, tokenizer_folder, tmp_path, monkeypatch):
    data = DataConfig(source=str(fashion_shards), channels=1, streaming=True, horizontal_flip=True)
    config = Tokenization(str(tokenizer_folder), data, str(tmp_path / "stopped"), batch_size=32)
    straight = tokenize(dataclasses.replace(config, output_dir=str(tmp_path / "straight")))
    encoded = list[int]()

    def encode_or_stop(tokenizer: VQTokenizer, images: torch.Tensor) -> torch.Tensor:
        encoded.append(len(images))
        if sum(encoded) > 600:
            raise Interruption
        return encode_images(tokenizer, images)

    monkeypatch.setattr("wvq.pipelines.tokenize.encode_images", encode_or_stop)
    with pytest.raises(Interruption):
        tokenize(config)
    encoded[:] = [-2000]
    folder = tokenize(config)
    # Seven parts of 70 images, one of 10, and a mirrored one of 70 were there.
    assert sum(encoded) == -2000 + 1100 - 570
    assert TokenDataset(folder, "train").shard_sizes == [70] * 14 + [20]
    for split in ("train", "evaluation"):
        one, other = TokenDataset(straight, split), TokenDataset(folder, split)
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.labels, other.labels)
    assert [path.name for path in folder.parent.iterdir() if not path.name.startswith(".")] == [folder.name]


def tokenize_in_chunks(config: Tokenization) -> None:
    tokens_module.CHUNK_IMAGES = 70
    tokenize(config)


def test_processes_share_the_tokenization(fashion_shards, tokenizer_folder, tmp_path):
    data = DataConfig(source=str(fashion_shards), channels=1, streaming=True)
    config = Tokenization(str(tokenizer_folder), data, str(tmp_path / "two"))
    run(2, tokenize_in_chunks, config)
    one = tokenize(dataclasses.replace(config, output_dir=str(tmp_path / "one")))
    for split in ("train", "evaluation"):
        expected, found = TokenDataset(one, split), TokenDataset(tmp_path / "two" / one.name, split)
        assert torch.equal(found.tokens, expected.tokens)
        assert torch.equal(found.labels, expected.labels)


def test_bad_images_of_a_stream_are_named_beside_its_tokens(fashion_images, tokenizer_folder, tmp_path):
    pictures: Any = [png(image) for image in fashion_images[0][:6]]
    pictures[3] = b"?"
    for shard in range(2):
        members = [m for n, picture in enumerate(pictures) for m in sample(f"{shard}-{n}", picture, cls=n)]
        write_tar(tmp_path / "shards" / f"{shard}.tar", [*members, ("last.cls", b"1")])
    data = DataConfig(source=str(tmp_path / "shards"), channels=1, streaming=True, skip_bad_images=True)
    config = Tokenization(str(tokenizer_folder), data, str(tmp_path / "tokens"))
    folder = tokenize(config)
    for _ in range(2):
        assert tokenize(config) == folder
        names = [row["name"].split(" in ")[0] for row in read_bad_images(folder)]
        assert sorted(names) == ["0-3.png", "1-3.png", "last", "last"]
    assert TokenDataset(folder, "train").labels.tolist() == [0, 1, 2, 4, 4, 5]
