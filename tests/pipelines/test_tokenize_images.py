"""`TokenizeImages`: the tokens of `wvq tokenize` in engines that call it, and in `datasets.map`."""

import io
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st
from other_device import DEVICES, device_called
from PIL import Image
from tiny_pipelines import tiny_tokenizer

from wvq.pipelines import TokenizeImages
from wvq.pipelines.tokenize import Tokenization, tokenize
from wvq.pipelines.tokenize_images import encode_images
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.sources import find_source
from wvq.tokenizer.token_shards import shard_content


def tied_tokenizer() -> tuple[VQTokenizer, torch.Tensor]:
    """A tokenizer and 40 images, uint8, that have features halfway between two codes: the last bit decides."""
    tokenizer = tiny_tokenizer(codebook_size=128).eval()
    images = torch.randint(256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        vectors = tokenizer.features(images.float() / 127.5 - 1).movedim(1, -1).flatten(0, 2)[::10]
        tokenizer.quantizer.weight.copy_(torch.cat([vectors + 0.01, vectors - 0.01]))  # pyright: ignore
    return tokenizer, images


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(40)), st.integers(1, 40))
def test_tokens_are_those_of_the_image_whatever_its_batch(order: list[int], size: int):
    tokenizer, images = tied_tokenizer()
    batches = images[order].split(size)
    tokens = torch.cat([encode_images(tokenizer, batch) for batch in batches])
    assert tokens.dtype == torch.int32
    assert torch.equal(tokens, encode_images(tokenizer, images)[order])


@pytest.mark.parametrize("num_proc", [None, 2])
def test_datasets_map_gives_the_shard_of_the_command(num_proc, fashion_folder, tmp_path):
    tokenizer = tiny_tokenizer(image_size=28, channels=1)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    data = DataConfig(source=str(fashion_folder), channels=1)
    (shard,) = tokenize(Tokenization(str(tmp_path / "tokenizer"), data, str(tmp_path))).glob("train-*.parquet")
    files = find_source(data.source, data.root, data.image_column, data.label_column, data.streaming).train
    columns = {"image": [{"bytes": files.content(n), "path": None} for n in range(len(files))], "n": range(len(files))}
    images = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    step = TokenizeImages(tmp_path / "tokenizer" if num_proc is None else tokenizer)
    made = images.map(step, batched=True, batch_size=33, num_proc=num_proc, remove_columns=["image"])
    assert made.column_names == ["n", "tokens"]
    assert made.features["tokens"] == datasets.List(datasets.Value("int32"))
    labels = np.array([files.label(n) for n in made["n"]])
    assert shard_content(np.array(made["tokens"][:], np.int32), labels) == shard.read_bytes()


def test_every_form_of_an_image_has_the_same_tokens():
    step = TokenizeImages(tiny_tokenizer())
    array = np.random.default_rng(0).integers(256, size=(2, 20, 31, 3), dtype=np.uint8)
    pictures = [Image.fromarray(image) for image in array]
    encoded = []
    for picture in pictures:
        picture.save(buffer := io.BytesIO(), "PNG")
        encoded.append(buffer.getvalue())
    tokens = step({"image": array, "more": [0, 1]})["tokens"]
    assert tokens.shape == (2, 16)
    assert tokens.dtype == np.int32
    for column in (pictures, encoded, [{"bytes": content, "path": "/"} for content in encoded], [*array]):
        np.testing.assert_array_equal(step({"image": column})["tokens"], tokens)
    grey = array[..., :1]
    np.testing.assert_array_equal(step({"image": grey})["tokens"], step({"image": grey[..., 0]})["tokens"])
    assert step({"image": array[:0]})["tokens"].shape == (0, 16)


def test_the_batch_given_stays_as_it_is_and_columns_have_the_names_given():
    batch = {"photo": np.zeros((1, 16, 16, 3), np.uint8), "label": np.array([3])}
    made = TokenizeImages(tiny_tokenizer(), "photo", "codes")(batch)
    assert [*batch] == ["photo", "label"]
    assert [*made] == ["photo", "label", "codes"]


def test_it_is_pickled_with_a_tokenizer_and_leaves_that_alone(tmp_path):
    tokenizer = tiny_tokenizer().train()
    before = tokenizer.fingerprint
    batch = {"image": np.random.default_rng(0).integers(256, size=(9, 16, 16, 3), dtype=np.uint8)}
    step = TokenizeImages(tokenizer)
    expected = encode_images(tiny_tokenizer().eval(), torch.from_numpy(batch["image"]).permute(0, 3, 1, 2))
    for same in (step, pickle.loads(pickle.dumps(step))):
        np.testing.assert_array_equal(same(batch)["tokens"], expected)
    assert tokenizer.training
    assert tokenizer.fingerprint == step.fingerprint == before


def test_a_process_reads_a_tokenizer_once_and_no_other_in_its_place(tmp_path, monkeypatch):
    reads: list[Path] = []
    read = VQTokenizer.from_pretrained

    def counting(folder: Any) -> VQTokenizer:
        reads.append(folder)
        return read(folder)

    tiny_tokenizer(seed=5).save_pretrained(tmp_path / "tokenizer")
    batch = {"image": np.zeros((1, 16, 16, 3), np.uint8)}
    step = TokenizeImages(tmp_path / "tokenizer")
    monkeypatch.setattr(VQTokenizer, "from_pretrained", counting)
    for _ in range(3):
        pickle.loads(pickle.dumps(step))(batch)
    assert len(reads) == 1
    tiny_tokenizer(seed=6).save_pretrained(tmp_path / "tokenizer")
    other = TokenizeImages(tmp_path / "tokenizer")
    assert Hasher.hash(step) != Hasher.hash(other)  # else `datasets` would take the tokens that it has of the other
    tiny_tokenizer(seed=7).save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(InputError, match=r"holds the tokenizer \w{12}, and held \w{12} when this began"):
        other(batch)


@pytest.mark.parametrize("name", DEVICES)
def test_tokens_are_made_where_the_worker_computes(name: str):
    batch = {"image": np.random.default_rng(0).integers(256, size=(3, 16, 16, 3), dtype=np.uint8)}
    expected = TokenizeImages(tiny_tokenizer(seed=8))(batch)["tokens"]
    with device_called(name):
        changed = tiny_tokenizer(seed=8, quantizer_options={"init_std": 1.0, "commitment_weight": 0.5})
        np.testing.assert_array_equal(TokenizeImages(changed)(batch)["tokens"], expected)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"images": []}, "image_column is 'image'; valid are the columns images"),
        ({"image": [b"?"]}, "image of row 0 of a batch is no image: not an image in"),
        ({"image": [np.zeros((16, 16, 3), np.uint8), None]}, "row 1 of a batch is no image: it is of type NoneType"),
        ({"image": np.zeros((1, 3, 16, 16), np.uint8)}, r"array of uint8 and shape \(3, 16, 16\); valid are"),
        ({"image": np.zeros((1, 16, 16))}, "array of float64"),
        ({"image": [{"bytes": None, "path": "/etc/passwd"}]}, "type NoneType"),
    ],
)
def test_what_is_no_image_is_named(batch: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        TokenizeImages(tiny_tokenizer())(batch)
