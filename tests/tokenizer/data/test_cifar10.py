"""CIFAR-10 by name: both kinds of files and the hub's copy give the same images in the same order, or are refused."""

import hashlib
import io
import json
from pathlib import Path

import datasets
import datasets.config
import huggingface_hub.constants
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.data.published import cifar10
from wvq.tokenizer.errors import InputError

COLOUR = DataConfig("cifar-10", image_size=32)
Splits = dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]


@pytest.fixture
def splits(monkeypatch, tmp_path) -> Splits:
    """Images (N, 32, 32, 3) and labels, 100 for training and 30 to test, whose sums stand in for the published ones."""
    generator = np.random.default_rng(0)
    made = {
        split: (generator.integers(0, 256, (count, 32, 32, 3), np.uint8), generator.integers(0, 10, count, np.uint8))
        for split, count in (("train", 100), ("test", 30))
    }
    sums = {
        split: hashlib.sha256(
            b"".join(
                sorted(bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(*pair, strict=True))
            )
        ).hexdigest()
        for split, pair in made.items()
    }
    monkeypatch.setattr(cifar10, "SHA256", sums)
    monkeypatch.setattr(cifar10, "FOLDERS", (tmp_path / "absent",))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return made


def write(folder: Path, splits: Splits, kind: str) -> Path:
    """The six files of the binary version ("bin"), or the eight of npm's package ("png")."""
    folder.mkdir()
    for split, (images, labels) in splits.items():
        names = cifar10.FILES[split]
        parts = zip(names, np.array_split(images, len(names)), np.array_split(labels, len(names)), strict=True)
        for name, some, their in parts:
            if kind == "png":
                Image.fromarray(some.reshape(len(some), 1024, 3)).save(folder / f"{name}.png")
            else:
                planes = some.transpose(0, 3, 1, 2).reshape(len(some), -1)
                (folder / f"{name}.bin").write_bytes(np.concatenate([their[:, None], planes], axis=1).tobytes())
        if kind == "png":
            (folder / cifar10.LABELS[split]).write_text(json.dumps(labels.tolist()))
    return folder


def hub(splits: Splits) -> datasets.DatasetDict:
    """As the hub has it: PNG in a column "img", here in another order of the images."""
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    tables = datasets.DatasetDict()
    for split, (images, labels) in splits.items():
        encoded = []
        for image in images[::-1]:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            encoded.append({"bytes": buffer.getvalue(), "path": None})
        tables[split] = datasets.Dataset.from_dict({"img": encoded, "label": labels[::-1].tolist()}, features=features)
    return tables


@pytest.mark.parametrize("kind", ["bin", "png"])
def test_files_give_every_image_with_its_label(splits, tmp_path, kind: str):
    root = write(tmp_path / "files", splits, kind)
    for got, (images, labels) in zip(
        load_splits(DataConfig("cifar-10", root=str(root), image_size=32)), splits.values(), strict=True
    ):
        assert got.class_names[3] == "cat"
        batch = got.__getitems__(range(len(got)))
        pairs = {
            (int(label), image.numpy().tobytes()) for label, image in zip(batch["labels"], batch["images"], strict=True)
        }
        assert pairs == {
            (int(label), image.transpose(2, 0, 1).tobytes()) for label, image in zip(labels, images, strict=True)
        }


def test_all_copies_have_the_same_order(splits, tmp_path, monkeypatch):
    found = []
    for kind in ("bin", "png"):
        monkeypatch.setattr(cifar10, "FOLDERS", (tmp_path / "absent", write(tmp_path / kind, splits, kind)))
        found.append([split.fingerprint for split in load_splits(COLOUR)])
    monkeypatch.setattr(cifar10, "FOLDERS", (tmp_path / "absent",))
    monkeypatch.setattr(datasets, "load_dataset", lambda name: hub(splits))
    found.append([split.fingerprint for split in load_splits(COLOUR)])
    assert found[0] == found[1] == found[2]


def test_others_damaged_or_missing_files(splits, tmp_path):
    root = write(tmp_path / "bin", splits, "bin")
    config = DataConfig("cifar-10", root=str(root))
    whole = (root / "data_batch_2.bin").read_bytes()
    (root / "data_batch_2.bin").write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"data_batch_2.bin has 61,459 bytes, which are no rows of 3,073"):
        load_splits(config)
    (root / "data_batch_2.bin").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=r"the train images from .*bin are not those of CIFAR-10"):
        load_splits(config)
    (root / "data_batch_2.bin").unlink()
    with pytest.raises(InputError, match=r"data_batch_2.bin is missing; needed are the six .bin files"):
        load_splits(config)


def test_strips_and_labels_that_are_others_or_damaged(splits, tmp_path):
    root = write(tmp_path / "png", splits, "png")
    config = DataConfig("cifar-10", root=str(root))
    Image.new("RGB", (10, 10)).save(root / "test_batch.png")
    with pytest.raises(InputError, match=r"test_batch.png has the shape \(10, 10, 3\); valid is \(images, 1024, 3\)"):
        load_splits(config)
    (root / "test_batch.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"test_batch.png: cannot be read"):
        load_splits(config)
    for labels, message in (("[1, 2", "cannot be read as JSON"), ("[1, 2]", "no list of 100 labels"), ("7", "no list")):
        (root / "train_lables.json").write_text(labels)
        with pytest.raises(InputError, match=rf"train_lables.json.*{message}"):
            load_splits(config)


def test_where_it_is_nowhere_the_message_names_three_ways(splits):
    with pytest.raises(InputError, match=r"--data.root FOLDER.*make data-cifar10.*hub"):
        load_splits(COLOUR)


@pytest.mark.skipif(not (cifar10.FOLDERS[0] / "test_batch.png").exists(), reason="`make data-cifar10` gets it")
def test_the_published_images():
    train, test = load_splits(COLOUR)
    assert (len(train), len(test)) == (50_000, 10_000)
    assert np.bincount(train.labels).tolist() == [5_000] * 10
