"""Data sets as tokens: `wvq.tokenizer.tokens`."""

import dataclasses
import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from einops import rearrange
from processes import run
from shard_folders import png, sample, write_tar
from toy_runs import untrained_tokenizer

from wvq.pipelines.tokenize import Tokenization, tokenize
from wvq.pipelines.tokenize_images import encode_images
from wvq.tokenizer import InputError, VQTokenizer
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
    again = tokenize(dataclasses.replace(config, output_dir=str(tmp_path / "two"), batch_size=33, shard_size=70))
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


class Interruption(Exception):
    """Power failure, say."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_tokenization_that_was_stopped_goes_on(fashion_shards, tokenizer_folder, tmp_path, monkeypatch):
    data = DataConfig(source=str(fashion_shards), channels=1, streaming=True, horizontal_flip=True)
    config = Tokenization(str(tokenizer_folder), data, str(tmp_path / "stopped"), batch_size=32, shard_size=70)
    straight = tokenize(dataclasses.replace(config, output_dir=str(tmp_path / "straight")))
    encoded = list[int]()

    def encode_or_stop(tokenizer: VQTokenizer, images: torch.Tensor) -> torch.Tensor:
        if sum(encoded) > 600:
            raise Interruption
        encoded.append(len(images))
        return encode_images(tokenizer, images)

    monkeypatch.setattr("wvq.pipelines.tokenize.encode_images", encode_or_stop)
    with pytest.raises(Interruption):
        tokenize(config)
    assert encoded[-1] == 32, "in the middle of a shard"
    assert not list((tmp_path / "stopped").rglob("leases")), "the part is free"
    with pytest.raises(InputError, match=r"shard_size is 71, but .* is being encoded in shards of 70; give that, or"):
        tokenize(dataclasses.replace(config, shard_size=71))
    before = sum(encoded)
    encoded[:] = [-2000]
    tokenize(config)
    assert sum(encoded) == -2000 + 1100 - before
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == [straight.name]


def test_a_shard_is_a_table_of_its_images(fashion_folder, tokenizer_folder, tmp_path):
    data = DataConfig(source=str(fashion_folder), channels=1)
    folder = tokenize(Tokenization(str(tokenizer_folder), data, str(tmp_path), shard_size=170))
    dataset, index = TokenDataset(folder, "train"), json.loads((folder / "tokens.json").read_text())
    assert [shard["rows"] for shard in index["shards"]["train"]] == [170, 170, 160]
    for shard in index["shards"]["train"]:
        assert hashlib.sha256((folder / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]
    found = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: len(table) for split, table in found.items()} == {"train": 500, "test": 100}
    assert torch.equal(torch.tensor(found["train"]["tokens"]), dataset.tokens)
    assert torch.equal(torch.tensor(found["train"]["label"]), dataset.labels)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again.take([499, 0])["tokens"], dataset.tokens[[499, 0]])
    (folder / index["shards"]["train"][1]["file"]).write_bytes(b"PAR1")
    with pytest.raises(InputError, match="has no shard"):
        TokenDataset(folder, "train").take([200])
    with pytest.raises(InputError, match="shard_size is 20001; it must be 1 to 20000"):
        Tokenization(shard_size=20001)


def test_processes_share_the_tokenization(fashion_shards, tokenizer_folder, tmp_path):
    data = DataConfig(source=str(fashion_shards), channels=1, streaming=True)
    config = Tokenization(str(tokenizer_folder), data, str(tmp_path / "two"), shard_size=70)
    run(2, tokenize, config)
    tokenize(dataclasses.replace(config, output_dir=str(tmp_path / "one")))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


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
