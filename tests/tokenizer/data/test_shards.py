"""Webdataset and Parquet shards, listed and as a stream: `wvq.tokenizer.data.shards` and what it reads with."""

import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from fixtures import CLASS_FOLDERS
from hypothesis import given
from hypothesis import strategies as st
from shard_folders import sample, small, write_fashion_shards, write_tar
from shard_splits import KINDS, config_of, everything

from wvq.tokenizer.data.batches import POOL_SHARDS, ShuffledBatches, training_loader
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.data.shard_files import find_shards
from wvq.tokenizer.data.shards import ShardedImages
from wvq.tokenizer.data.webdataset import TarShard
from wvq.tokenizer.errors import InputError

pytestmark = pytest.mark.usefixtures("own_cache")


# The same images, whichever way they are read


@pytest.mark.parametrize(("kind", "streaming"), [("tar", False), ("tar", True), ("parquet", True)])
def test_shards_hold_what_the_folder_of_images_holds(folders, fashion_folder, kind: str, streaming: bool):
    found = load_splits(config_of(folders[kind], streaming=streaming))
    expected = load_splits(config_of(fashion_folder, streaming=False))
    names = CLASS_FOLDERS if kind == "tar" else tuple(map(str, range(10)))
    positions = [expected[0].class_names.index(name) for name in CLASS_FOLDERS]
    for split, other in zip(found, expected, strict=True):
        assert split.streamed == streaming
        assert split.class_names == names
        assert Counter({(i, positions[k]): n for (i, k), n in everything(split).items()}) == everything(other)
        again = pickle.loads(pickle.dumps(split))
        assert torch.equal(again[7]["images"], split[7]["images"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_an_epoch_of_two_processes_is_every_image_once(folders, kind: str, workers: int):
    train, _ = load_splits(config_of(folders[kind], num_workers=workers))
    assert len(train.shard_sizes) > 1
    batches = ShuffledBatches(train.shard_sizes, 20, 25, 50, seed=4)  # the second epoch
    seen: Counter[tuple[bytes, int]] = Counter()
    for rank in range(2):
        own = BatchSamplerShard(batches, 2, rank, split_batches=True)  # pyright: ignore[reportArgumentType]
        own.seed = batches.seed  # pyright: ignore[reportAttributeAccessIssue]
        for batch in training_loader(train, own, train.num_workers):  # pyright: ignore[reportArgumentType]
            pairs = zip(batch["images"], batch["labels"], strict=True)
            seen.update((image.numpy().tobytes(), int(label)) for image, label in pairs)
    assert seen == everything(train)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_every_image_has_one_place(sizes: list[int]):
    images = ShardedImages([range(size) for size in sizes])  # pyright: ignore[reportArgumentType]
    places = [images.place(index) for index in range(len(images))]
    assert places == [(shard, row) for shard, size in enumerate(sizes) for row in range(size)]


def test_few_shards_are_open_at_a_time_and_each_is_opened_once_an_epoch(tmp_path: Path, monkeypatch):
    for shard in range(40):
        write_tar(tmp_path / f"{shard:02d}.tar", sample(str(shard), small(shard)) + sample("x", small(100 + shard)))
    train, _ = load_splits(config_of(tmp_path, image_size=8))
    opened: list[Any] = []
    open_shard = TarShard.open
    monkeypatch.setattr(TarShard, "open", lambda shard: opened.append(shard) or open_shard(shard))
    descriptors = len(os.listdir("/proc/self/fd"))
    for batch in ShuffledBatches(train.shard_sizes, 8, 0, len(train) // 8, seed=0):
        train.__getitems__(batch)
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 2 * POOL_SHARDS
    assert len(opened) == len(set(opened)) == len(train.shard_sizes) == 36


def test_memory_does_not_grow_with_the_images_of_a_shard(tmp_path: Path):
    def pickled(count: int) -> int:
        for shard in range(4):
            members = (m for number in range(count) for m in sample(f"{number:05d}", small(number % 256), cls=1))
            write_tar(tmp_path / str(count) / f"{shard}.tar", members)
        return len(pickle.dumps(load_splits(config_of(tmp_path / str(count), image_size=8))))

    assert pickled(800) <= pickled(20) + 100


# Which shards a source is


def test_files_and_patterns(tmp_path: Path):
    for number in (8, 9, 10):
        write_tar(tmp_path / f"{number:03d}.tar", sample("a", small(number)))
    for source in (tmp_path, tmp_path / "{008..010}.tar", tmp_path / "*.tar", tmp_path / "{008,0*}.tar"):
        found = find_shards(str(source))
        assert found is not None
        assert [path.name for path in found.splits["train"]] == ["008.tar", "009.tar", "010.tar"]
        assert sum(map(len, load_splits(config_of(source, image_size=8)))) == 3
    with pytest.raises(InputError, match=r"no file is called '.*/011.tar'"):
        load_splits(config_of(tmp_path / "{008..011}.tar"))
    with pytest.raises(InputError, match=r"the range {010..008}; it must rise"):
        load_splits(config_of(tmp_path / "{010..008}.tar"))
    (tmp_path / "x.parquet").touch()
    with pytest.raises(InputError, match=r"names files in .parquet and .tar; they must be of one kind"):
        load_splits(config_of(tmp_path / "*"))
    for photo in (tmp_path / "photo.png", tmp_path / "cats" / "photo.png"):
        photo.parent.mkdir(exist_ok=True)
        photo.touch()
        odd = photo.relative_to(tmp_path)
        with pytest.raises(InputError, match=rf"has both shards \(008.tar\) and images \({odd}\); separate them"):
            load_splits(config_of(tmp_path))
        photo.unlink()


def test_names_of_splits(tmp_path: Path):
    for number, name in enumerate(("imagenet1k-train-0.tar", "imagenet1k-train-1.tar", "imagenet1k-validation-0.tar")):
        write_tar(tmp_path / name, sample("a", small(number)))
    train, evaluation = load_splits(config_of(tmp_path, image_size=8))
    assert (len(train), len(evaluation)) == (2, 1)
    assert evaluation.description["origin"] == "split validation"
    write_tar(tmp_path / "other.tar", sample("a", small(0)))
    with pytest.raises(InputError, match=r"imagenet1k-train-0.tar is named after a split but other.tar is not"):
        load_splits(config_of(tmp_path, image_size=8))


@pytest.mark.parametrize("fraction", [0.001, 0.3, 0.999])
def test_whole_shards_are_held_out_and_no_image_is_on_both_sides(folders, fraction: float):
    source = folders["tar"] / "train"
    sides = [everything(split) for split in load_splits(config_of(source, evaluation_fraction=fraction))]
    assert all(sides)
    assert sides[0] + sides[1] == everything(load_splits(config_of(folders["tar"]))[0])
    with pytest.raises(InputError, match="a stream of 1 shard cannot be split; give an evaluation split"):
        load_splits(config_of(source / "000.tar"))
    assert sum(map(len, load_splits(config_of(source / "000.tar", streaming=False)))) == 41


def test_what_cannot_be_streamed(fashion_folder, tmp_path: Path, monkeypatch):
    for source in ("fashion-mnist", fashion_folder):
        with pytest.raises(InputError, match=r"streaming is true, but .* has no .tar or .parquet shards"):
            load_splits(config_of(source))
    with pytest.raises(InputError, match=r"'owner/name' is not here: .*`hf download owner/name --repo-type dataset"):
        load_splits(config_of("owner/name"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_follows_the_shards(folders, kind: str, tmp_path: Path):
    def fingerprints(source: Path, **changes: Any) -> tuple[str, ...]:
        return tuple(split.fingerprint for split in load_splits(config_of(source, **changes)))

    first = fingerprints(folders[kind])
    write_fashion_shards(tmp_path / "copy", kind)
    assert fingerprints(tmp_path / "copy") == first
    assert fingerprints(tmp_path / "copy", image_size=16) != first
    (tmp_path / "copy" / "train" / f"003.{kind}").unlink()
    assert fingerprints(tmp_path / "copy")[0] != first[0]
    assert fingerprints(tmp_path / "copy")[1] == first[1]


# Labels


def test_labels_of_json_and_cls(tmp_path: Path):
    rows = [("cat", 3), ("dog", 1), ("cat", 1), ("ant", 12)]
    for number, (kind, count) in enumerate(rows):
        members = sample(f"deep/{number}", small(number), cls=number % 2, json={"kind": kind, "count": count})
        write_tar(
            tmp_path / f"{number}.tar",
            [(f"deep/{number}.txt", b"a caption"), ("__MACOSX/._0.png", b"x"), ("README", b"x"), *members],
        )
    config = {"image_size": 8, "evaluation_fraction": 0.01}
    for column, names in {
        "kind": ("ant", "cat", "dog"),
        "count": ("1", "3", "12"),
        "label": ("0", "1"),
        "none": (),
    }.items():
        splits = load_splits(config_of(tmp_path, label_column=column, **config))
        assert splits[0].class_names == names
        found = {int(i[0]): k for split in splits for i, k in everything(split)}
        values = {"kind": [r[0] for r in rows], "count": [str(r[1]) for r in rows], "label": ["0", "1"] * 2}
        expected = [names.index(value) for value in values[column]] if names else [0] * 4
        assert found == dict(enumerate(expected))
    (tmp_path / "classnames.txt").write_text("zero\none\n")
    assert load_splits(config_of(tmp_path, **config))[0].class_names == ("zero", "one")
    with pytest.raises(InputError, match="has values that are no class of its train split: 12, 3"):
        load_splits(config_of(tmp_path, label_column="count", **config))
    (tmp_path / "classnames.txt").write_text("zero\nzero\n")
    with pytest.raises(InputError, match="names a class twice"):
        load_splits(config_of(tmp_path, **config))


def test_an_evaluation_label_that_training_never_saw(tmp_path: Path):
    for split, label in (("train", "a"), ("val", "b")):
        write_tar(tmp_path / split / "0.tar", sample("0", small(0), cls=label))
        columns = {"image": [small(0)], "label": [label]}
        (tmp_path / "p" / split).mkdir(parents=True)
        pq.write_table(pa.table(columns), tmp_path / "p" / split / "0.parquet")
    for source in (tmp_path, tmp_path / "p"):
        with pytest.raises(InputError, match="no class of its train split: 'b'"):
            load_splits(config_of(source, image_size=8))


def test_validation_shards_are_training_shards_alone(folders):
    (train, _), (rest, validation) = (
        [
            everything(split)
            for split in load_splits(config_of(folders["tar"], streaming=True, validation_fraction=share))
        ]
        for share in (0.0, 0.3)
    )
    assert rest + validation == train
    assert rest
    assert validation
