"""`load_splits` on every kind of source: `wvq.tokenizer.data.dataset` and what it reads with."""

import itertools
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import CLASS_FOLDERS
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from wvq.tokenizer.data import dataset as data
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.data.decoding import to_model, to_uint8
from wvq.tokenizer.errors import InputError


def grey(folder: Path, **changes) -> DataConfig:
    return DataConfig(source=str(folder), channels=1, **changes)


def all_images(split: data.ImageDataset) -> torch.Tensor:
    return torch.cat([batch["images"] for batch in split.batches(64)])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty different images and twenty copies of them under other names, without classes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(20):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{number:02d}.png")
        shutil.copy(folder / f"{number:02d}.png", folder / f"copy-{number:02d}.PNG")
    return folder


# Folders


def test_a_folder_with_train_and_evaluation(fashion_folder, fashion_images):
    train, evaluation = load_splits(grey(fashion_folder))
    images, labels = fashion_images
    assert (len(train), len(evaluation)) == (500, 100)
    assert train.class_names == evaluation.class_names == tuple(sorted(CLASS_FOLDERS))
    for split, first, last in ((train, 0, 50), (evaluation, 50, 60)):
        start = 0
        for label, name in enumerate(split.class_names):
            batch = split.__getitems__(range(start, start + last - first))
            own = images[labels == CLASS_FOLDERS.index(name)]
            assert (batch["images"] == own[first:last]).all()
            assert (batch["labels"] == label).all()
            start += last - first
    assert evaluation.description["also_in_train"] == 0


@pytest.mark.parametrize("name", ["validation", "valid", "val", "test"])
def test_other_names_of_the_evaluation_folder(photos, name):
    for split in ("train", name):
        (photos / split).mkdir()
    for number, file in enumerate(sorted(photos.glob("*.*"))):
        file.rename(photos / ("train" if number < 30 else name) / file.name)
    train, evaluation = load_splits(grey(photos, image_size=8))
    assert (len(train), len(evaluation)) == (30, 10)
    assert evaluation.description["origin"] == f"folder {name}"
    assert evaluation.description["also_in_train"] == 10  # the split is the user's own, so copies are told, not moved


def test_without_an_evaluation_split_copies_are_on_the_same_side(photos):
    train, evaluation = load_splits(grey(photos, image_size=8, evaluation_fraction=0.3))
    sides = [{image.numpy().tobytes() for image in all_images(split)} for split in (train, evaluation)]
    assert len(train) + len(evaluation) == 40
    assert (2 * len(sides[0]), 2 * len(sides[1])) == (len(train), len(evaluation))
    assert not sides[0] & sides[1]
    assert train.class_names == ()
    assert (train.labels == 0).all()


def test_validation_images_are_training_images_alone(photos):
    def sides(**changes) -> list[set[bytes]]:
        splits = load_splits(grey(photos, image_size=8, evaluation_fraction=0.4, **changes))
        return [{image.numpy().tobytes() for image in all_images(split)} for split in splits]

    (train, _), (rest, validation) = sides(), sides(validation_fraction=0.4)
    assert rest | validation == train
    assert not rest & validation
    assert validation


def test_class_folders_may_have_split_like_names_and_sub_folders(photos):
    (photos / "test-tubes" / "deep").mkdir(parents=True)
    (photos / "cats").mkdir()
    for number, file in enumerate(sorted(photos.glob("*.*"))):
        file.rename(photos / ("cats" if number % 2 else "test-tubes/deep") / file.name)
    shutil.copytree(photos / "cats", photos / ".hidden")
    train, evaluation = load_splits(grey(photos, image_size=8, evaluation_fraction=0.3))
    assert train.class_names == ("cats", "test-tubes")
    assert len(train) + len(evaluation) == 40
    assert torch.cat([train.labels, evaluation.labels]).bincount().tolist() == [20, 20]


def test_a_train_folder_alone_is_split(photos, tmp_path):
    photos.rename(tmp_path / "train")
    train, evaluation = load_splits(grey(tmp_path, image_size=8, evaluation_fraction=0.3))
    assert train.class_names == ()
    assert len(train) + len(evaluation) == 40


def test_the_fingerprint_follows_content_and_transform_and_not_the_place(photos, tmp_path):
    def fingerprints(folder: Path, **changes) -> tuple[str, str]:
        train, evaluation = load_splits(grey(folder, **{"image_size": 8, "evaluation_fraction": 0.3, **changes}))
        return train.fingerprint, evaluation.fingerprint

    first = fingerprints(photos)
    assert first[0] != first[1]
    moved = Path(shutil.copytree(photos, tmp_path / "elsewhere"))
    assert fingerprints(moved) == first == fingerprints(moved, horizontal_flip=True)
    assert fingerprints(moved, image_size=16)[0] != first[0]
    assert fingerprints(moved, evaluation_fraction=0.5)[0] != first[0]
    Image.new("L", (8, 8), 3).save(moved / "one-more.png")
    assert fingerprints(moved) != first
    (moved / "one-more.png").unlink()
    (moved / "class").mkdir()
    for file in moved.glob("*.*"):
        file.rename(moved / "class" / file.name)
    assert fingerprints(moved)[0] != first[0]


# What a data set gives


def test_items_batches_and_description(fashion_folder):
    _, evaluation = load_splits(grey(fashion_folder))
    state = torch.get_rng_state()
    batches = list(evaluation.batches(32))
    assert (torch.get_rng_state() == state).all()
    assert [len(batch["labels"]) for batch in batches] == [32, 32, 32, 4]
    assert batches[0]["images"].dtype == torch.uint8
    item = evaluation[33]
    assert (item["images"] == batches[1]["images"][1]).all()
    assert item["labels"] == batches[1]["labels"][1]
    assert {"source", "split", "count", "crop", "resize", "fingerprint"} <= json.loads(
        json.dumps(evaluation.description)
    ).keys()


def test_what_does_not_fit_in_memory_is_decoded_on_the_way_to_the_same_images(fashion_folder, monkeypatch):
    config = DataConfig(source=str(fashion_folder), image_size=16)
    _, held = load_splits(config)
    monkeypatch.setattr(data, "IN_MEMORY_BYTES", 1000)
    _, lazy = load_splits(config)
    assert lazy._pixels is None
    assert lazy.fingerprint == held.fingerprint
    for split in (lazy, pickle.loads(pickle.dumps(lazy)), pickle.loads(pickle.dumps(held))):
        assert (all_images(split) == all_images(held)).all()
        assert (split[7]["images"] == held[7]["images"]).all()
        assert (split.labels == held.labels).all()
    for split in (lazy, held):
        assert (split[-1]["images"] == held[len(held) - 1]["images"]).all()
        sequence: Any = split  # by __getitem__ alone
        assert len(list(itertools.islice(sequence, 2 * len(held)))) == len(held)
        nothing = split.take([])
        assert nothing["images"].shape == (0, 3, 16, 16)
        assert nothing["images"].dtype == torch.uint8
        assert (nothing["labels"].shape, nothing["labels"].dtype) == ((0,), torch.int64)
        for index in (len(held), -len(held) - 1):
            with pytest.raises(IndexError, match=f"index {index} is out of"):
                split.take([0, index])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_change_nothing(fashion_folder, monkeypatch):
    train, evaluation = load_splits(grey(fashion_folder, image_size=16))
    monkeypatch.setattr(
        data, "IN_MEMORY_BYTES", 100 * 16 * 16
    )  # the evaluation split fits, the training split does not
    others = load_splits(grey(fashion_folder, image_size=16, num_workers=1))
    assert [split._pixels is None for split in others] == [True, False]
    assert (all_images(others[0]) == all_images(train)).all()
    assert (all_images(others[1]) == all_images(evaluation)).all()


@given(arrays(np.uint8, (2, 3, 5, 5)))
def test_to_uint8_undoes_to_model(pixels):
    images = torch.from_numpy(pixels)
    model_images = to_model(images)
    assert model_images.dtype == torch.float32
    assert model_images.abs().max() <= 1
    assert (to_uint8(model_images) == images).all()


@given(st.floats(-3, 3))
def test_to_uint8_clamps_and_rounds(value):
    expected = min(max(round((value + 1) * 127.5, 3), 0), 255)
    assert abs(to_uint8(torch.tensor(value)).item() - expected) <= 0.501


# Bad images and bad arguments


@pytest.mark.parametrize("fits", [True, False])
def test_bad_images_stop_or_are_left_out_and_listed(photos, monkeypatch, fits):
    if not fits:
        monkeypatch.setattr(data, "IN_MEMORY_BYTES", 0)
    before = load_splits(grey(photos, image_size=8, evaluation_fraction=0.3))
    bad = {
        "empty.png": (b"", "empty"),
        "text.jpg": (b"hello", "not an image"),
        "cut.png": ((photos / "00.png").read_bytes()[:50], ""),
    }
    for name, (content, reason) in bad.items():
        (photos / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name} is a bad image: {reason}.*--data.skip-bad-images"):
            [all_images(split) for split in load_splits(grey(photos, image_size=8, evaluation_fraction=0.3))]
        (photos / name).rename(photos / f"{name}.away")
    for name in bad:
        (photos / f"{name}.away").rename(photos / name)
    after = load_splits(grey(photos, image_size=8, evaluation_fraction=0.3, skip_bad_images=True))
    assert {Path(name).name for split in after for name in split.bad_images} == set(bad)
    assert sum(split.description["bad_images"] for split in after) == 3
    assert [split.fingerprint for split in after] == [split.fingerprint for split in before]
    assert (all_images(after[0]) == all_images(before[0])).all()


def test_a_folder_of_nothing_but_bad_images(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(str(number).encode())
    with pytest.raises(InputError, match=r"train split .* has no images"):
        load_splits(grey(tmp_path, skip_bad_images=True))


def test_folders_that_make_no_sense(photos, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"holds no images; valid suffixes are .*\.png"):
        load_splits(grey(tmp_path / "none"))
    (photos / "cats").mkdir()
    shutil.copy(photos / "00.png", photos / "cats")
    with pytest.raises(InputError, match=r"both in itself \(00.png\) and in sub-folders \(cats\)"):
        load_splits(grey(photos))
    for folder in ("train/cats", "train/dogs", "val/cats"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        shutil.copy(photos / "00.png", tmp_path / "set" / folder)
    with pytest.raises(InputError, match="same classes; only one has dogs"):
        load_splits(grey(tmp_path / "set"))
    (tmp_path / "set" / "birds").mkdir()
    shutil.copy(photos / "00.png", tmp_path / "set" / "birds")
    with pytest.raises(InputError, match=r"train/ and val/, but birds/00.png is in neither"):
        load_splits(grey(tmp_path / "set"))


def test_a_split_that_leaves_one_side_empty(photos):
    with pytest.raises(InputError, match="into 40 and 0; both sides need"):
        load_splits(grey(photos, evaluation_fraction=1e-9))
    with pytest.raises(InputError, match=r"^validation_fraction 1e-09 splits the \d+ images"):
        load_splits(grey(photos, validation_fraction=1e-9))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 3}, "image_size is 3; it must be at least 4"),
        ({"channels": 4}, "channels is 4; valid are 1 and 3"),
        ({"evaluation_fraction": 0.0}, "evaluation_fraction is 0.0"),
        ({"evaluation_fraction": 1.0}, "evaluation_fraction is 1.0"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"source": "photos", "root": "here"}, "only fashion-mnist and cifar-10 have one"),
    ],
)
def test_values_that_no_configuration_may_have(arguments, message):
    with pytest.raises(InputError, match=message):
        DataConfig(**arguments)
