"""What the folders of a source are taken for: splits, classes, what the hub downloads; and what is passed over."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from image_files import OTHER, PICTURE, config_of, encoded
from PIL import Image
from shard_folders import sample, small, write_tar

from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.data.decoding import SUFFIXES
from wvq.tokenizer.data.names import EVALUATION_NAMES, split_of
from wvq.tokenizer.data.shard_files import find_shards
from wvq.tokenizer.errors import InputError

pytestmark = pytest.mark.usefixtures("own_cache")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(small(len(list(folder.rglob("*")))))
    return folder


def shards_of(folder: Path) -> dict[str, list[str]]:
    """The shards of a folder, relative to it, by split."""
    found = find_shards(str(folder))
    assert found is not None
    return {name: [file.relative_to(folder).as_posix() for file in files] for name, files in found.splits.items()}


# Splits


@pytest.mark.parametrize("train", ["train", "Train", "TRAIN", "training"])
@pytest.mark.parametrize("held", [*EVALUATION_NAMES, "Val", "TEST", "Testing"])
def test_splits_are_known_in_any_case(tmp_path: Path, train: str, held: str):
    for split in (train, held):
        touch(tmp_path / "photos", f"{split}/cat/a.png", f"{split}/dog/b.png")
        write_tar(
            tmp_path / "tars" / split / "0.tar", sample("a", small(1), cls="cat") + sample("b", small(2), cls="dog")
        )
        write_tar(tmp_path / "names" / f"set-{split}-0.tar", sample("a", small(1), cls="cat"))
    for place in ("photos", "tars"):
        splits = load_splits(config_of(tmp_path / place))
        assert [split.class_names for split in splits] == [("cat", "dog")] * 2
        assert [len(split) for split in splits] == [2, 2]
    assert shards_of(tmp_path / "names") == {
        "train": [f"set-{train}-0.tar"],
        str(split_of(held)): [f"set-{held}-0.tar"],
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/cat/a.png", "holdout/cat/b.png"], "train/ and no evaluation/, but holdout/cat/b.png is in neither"),
        (["Train/a.png", "Car/b.png"], "Train/ and no evaluation/, but Car/b.png is in neither; valid are train, eval"),
        (["train/cat/a.png", "val/cat/b.png", "c.png"], "train/ and val/, but c.png is in neither"),
        (["train/a.png", "Train/b.png"], "has Train and train, which are names of one split"),
        (["train/a.png", "training/b.png"], "has train and training, which are names of one split"),
        (["train/a.png", "val/b.png", "VAL/b.png"], "has VAL and val, which are names of one split"),
        (["val/cat/a.png", "test/cat/b.png"], "has the splits val, test; one of them must be called train"),
        (["cat/train/a.png", "cat/val/b.png", "dog/train/a.png", "dog/val/b.png"], "cat has splits in it"),
        (["train/0.tar", "holdout/0.tar"], "has train/ and beside it holdout/, which is no split"),
        (["val/0.tar", "test/0.tar"], "has shards in test/, val/, of which none is called train"),
        (["cifar10/train/0.parquet", "cifar100/train/0.parquet"], "has shards in cifar10/, cifar100/, of which none"),
        (["train/0.tar", "Train/0.tar"], "has Train and train, which are names of one split"),
    ],
)
def test_folders_that_may_be_splits_or_not_are_refused(tmp_path: Path, files: Sequence[str], message: str):
    touch(tmp_path, *files)
    with pytest.raises(InputError, match=message):
        load_splits(config_of(tmp_path))


def test_names_like_those_of_splits_are_classes_where_no_folder_is_called_train(tmp_path: Path):
    touch(tmp_path, "valid/a.png", "valid/b.png", "invalid/c.png", "invalid/d.png")
    assert load_splits(config_of(tmp_path, evaluation_fraction=0.5))[0].class_names == ("invalid", "valid")


# What the hub downloads


@pytest.mark.parametrize(
    "files",
    [
        {"train": ["data/train-0-of-2.S", "data/train-1-of-2.S"]},
        {"train": ["data/train-0.S"], "validation": ["data/validation-0.S"]},
        {"train": ["default/train/0000.S"], "test": ["default/test/0000.S"]},
        {"train": ["default/partial-train/0000.S"]},
        {"train": ["plain_text/train-0.S"], "test": ["plain_text/test-0.S"]},
        {"train": ["data/full/0.S"]},
        {"train": ["train/0.S"], "dev": ["dev/0.S"]},
    ],
)
@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_shards_lie_where_the_hub_puts_them(tmp_path: Path, files: dict[str, list[str]], suffix: str):
    expected = {split: [name.replace(".S", f".{suffix}") for name in own] for split, own in files.items()}
    touch(tmp_path, *(name for own in expected.values() for name in own))
    touch(tmp_path, "README.md", ".gitattributes", ".cache/huggingface/download/data/other.tar", "docs/card.txt")
    assert shards_of(tmp_path) == expected


def test_images_lie_where_the_hub_puts_them_as_well(tmp_path: Path):
    names = [f"{split}/{name}/{k}.png" for split in ("train", "test") for name in ("cat", "dog") for k in "abc"]
    for number, outer in enumerate(("data", "plain_text", ".")):
        touch(tmp_path / str(number), *(f"{outer}/{name}" for name in names))
        splits = load_splits(config_of(tmp_path / str(number)))
        assert [(len(split), split.class_names) for split in splits] == [(6, ("cat", "dog"))] * 2
    touch(tmp_path / "3", *(f"data/{name}/{k}.png" for name in ("cat", "dog") for k in "abcdef"))
    assert load_splits(config_of(tmp_path / "3"))[0].class_names == ("cat", "dog")


def test_a_table_beside_images_is_no_source(tmp_path: Path):
    touch(tmp_path, *(f"{name}/{k}.png" for name in ("cat", "dog") for k in "abcdef"), "about/list.parquet")
    with pytest.raises(InputError, match=r"class folder .*about holds no images but 1 .parquet \(about/list.parquet\)"):
        load_splits(config_of(tmp_path))
    (tmp_path / "about" / "list.parquet").unlink()
    assert load_splits(config_of(tmp_path))[0].class_names == ("cat", "dog")


# What is passed over


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPE"])
def test_every_suffix_of_jpeg_is_read(photos: Path, suffix: str):
    (photos / "owls").mkdir()
    (photos / "owls" / f"a{suffix}").write_bytes(encoded(Image.fromarray(PICTURE), "JPEG"))
    write_tar(photos.parent / "tar" / "0.tar", [(f"a{suffix}", encoded(OTHER, "JPEG")), ("b.png", small(1))])
    splits = load_splits(config_of(photos))
    assert splits[0].class_names == ("cats", "dogs", "owls")
    assert sum(map(len, splits)) == 41
    assert sum(map(len, load_splits(config_of(photos.parent / "tar", evaluation_fraction=0.5)))) == 2


@pytest.mark.parametrize("place", [".", "train"])
def test_a_class_of_files_that_are_no_images_is_refused(tmp_path: Path, place: str):
    touch(tmp_path / place, "cat/a.png", "dog/b.png", "owl/0.heic", "owl/deep/1.heic", "owl/notes.txt")
    touch(tmp_path / "test", *(["cat/c.png", "dog/d.png"] if place == "train" else []))
    with pytest.raises(
        InputError,
        match=r"owl holds no images but 2 .heic \(owl/0.heic\), 1 .txt \(owl/notes.txt\).*valid suffixes are",
    ):
        load_splits(config_of(tmp_path))


def test_what_is_passed_over_is_counted_and_named(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    load_splits(config_of(photos))
    assert "passed over" not in capsys.readouterr().err
    for name in ("cats/a.heic", "cats/b.heic", "dogs/c.avif", "list.csv", ".hidden", "LICENSE"):
        (photos / name).touch()
    assert sum(map(len, load_splits(config_of(photos)))) == 40
    told = capsys.readouterr().err
    assert f"{photos}: passed over by their suffixes: " in told
    assert "1 without suffix (LICENSE), 2 .heic (cats/a.heic), 1 .avif (dogs/c.avif), 1 .csv (list.csv)" in told
    write_tar(tmp_path / "tar" / "0.tar", sample("a", small(1)) + sample("b", small(2)))
    for name in ("1.tar.gz", "2.TAR", "classnames.txt"):
        (tmp_path / "tar" / name).touch()
    load_splits(config_of(tmp_path / "tar", evaluation_fraction=0.5))
    assert "passed over by their suffixes: 1 .gz (1.tar.gz), 1 .TAR (2.TAR)" in capsys.readouterr().err


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path):
    touch(tmp_path, "a/1.heic", "a/2.heic", "b.tgz")
    with pytest.raises(InputError, match=r"holds no images; valid .*; it holds 2 .heic \(a/1.heic\), 1 .tgz \(b.tgz\)"):
        load_splits(config_of(tmp_path))
    assert ".jfif" in SUFFIXES


# Names of folders


def test_class_folders_that_are_numbers_are_in_order_of_their_values(tmp_path: Path):
    touch(tmp_path, *(f"{name}/{k}.png" for name in range(12) for k in "abc"))
    splits = load_splits(config_of(tmp_path))
    assert splits[0].class_names == tuple(map(str, range(12)))


def test_a_class_folder_whose_name_is_no_text_is_refused(tmp_path: Path):
    for name in (b"cat", b"caf\xe9"):
        folder = os.fsencode(tmp_path) + b"/" + name
        os.mkdir(folder)
        Path(os.fsdecode(folder), "a.png").write_bytes(small(1))
    with pytest.raises(InputError, match=r"the name of class folder '.*caf\\udce9' is no UTF-8; rename it"):
        load_splits(config_of(tmp_path))


def test_a_tilde_is_the_home_folder(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_splits(config_of(Path("~/photos")))[0].class_names == ("cats", "dogs")
    shutil.rmtree(photos)
    write_tar(photos / "0.tar", sample("a", small(1)) + sample("b", small(2)))
    for source in ("~/photos", "~/photos/0.tar", "~/photos/{0..0}.tar"):
        assert sum(map(len, load_splits(config_of(Path(source), evaluation_fraction=0.5)))) == 2
    with pytest.raises(InputError, match="'~nobody-of-this-name/photos': "):
        load_splits(config_of(Path("~nobody-of-this-name/photos")))


@pytest.mark.parametrize("source", ["a\0b", "x" * 5000, "{a,b}" * 900, "{0..99}/" * 20, "~\0", "[", "**/*.tar", "{,}"])
def test_any_text_is_a_source_or_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        load_splits(config_of(Path(source)))
