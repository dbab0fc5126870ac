"""Webdataset and Parquet shards, listed and as a stream: `wvq.tokenizer.data.shards` and what it reads with."""

import os
import pickle
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import datasets.config
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from fixtures import CLASS_FOLDERS
from hypothesis import given
from hypothesis import strategies as st
from shard_folders import png, sample, write_fashion_shards, write_tar

from wvq.tokenizer.data import parquet as parquet_shards
from wvq.tokenizer.data.bad_images import read_bad_images
from wvq.tokenizer.data.batches import POOL_SHARDS, ShuffledBatches, training_loader
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import ImageDataset, load_splits, report_bad_images
from wvq.tokenizer.data.shard_files import find_shards
from wvq.tokenizer.data.shards import ShardedImages
from wvq.tokenizer.data.webdataset import TarShard, tar_index
from wvq.tokenizer.errors import InputError

KINDS = ("tar", "parquet")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    return Path(datasets.config.HF_DATASETS_CACHE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Fashion-MNIST in shards of each kind. Read only."""
    return {kind: write_fashion_shards(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def config_of(source: Path | str, **changes: Any) -> DataConfig:
    return DataConfig(**{"source": str(source), "channels": 1, "streaming": True, **changes})


def everything(split: ImageDataset) -> Counter[tuple[bytes, int]]:
    """Each image with its label, and how often it came."""
    batch = split.__getitems__(range(len(split)))
    return Counter((i.numpy().tobytes(), int(k)) for i, k in zip(batch["images"], batch["labels"], strict=True))


def small(number: int) -> bytes:
    return png(torch.full((1, 8, 8), number, dtype=torch.uint8))


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


# What is broken


def broken_samples() -> list[tuple[str, bytes]]:
    good = [m for number in range(30) for m in sample(f"{number:02d}", small(number), cls=number % 3)]
    two_of_a_name = [("f.png", small(0)), ("f.png", small(1))]
    return [
        *good[:20], ("a.cls", b"1"), *sample("b", small(200)), *sample("c", b"not an image", cls=2), *good[20:],
        ("d.png", small(0)), ("d.jpg", small(0)), *two_of_a_name, *sample("e", b"", cls=0),
        ("g.png", small(201)), ("g.cls", b"1" * 2**20 + b"1"),
    ]  # fmt: skip


INDEXED = {"a": "no images (cls)", "d": "2 images (png, jpg)", "f": "two members of one name"}
DECODED = {
    "b.png": "has no label",
    "c.png": "not an image",
    "e.png": "empty",
    "g.png": "has no label",
}


@pytest.mark.parametrize("streaming", [False, True])
def test_broken_samples_stop_or_are_left_out_and_named(tmp_path: Path, streaming: bool):
    write_tar(tmp_path / "train" / "0.tar", broken_samples())
    write_tar(tmp_path / "test" / "0.tar", sample("good", small(99), cls=0))
    with pytest.raises(InputError, match=r"a in .*0.tar is a bad image: no images \(cls\); .*--data.skip-bad-images"):
        load_splits(config_of(tmp_path, image_size=8, streaming=streaming))
    splits = load_splits(config_of(tmp_path, image_size=8, streaming=streaming, skip_bad_images=True))
    report_bad_images(tmp_path / "run", *splits)
    seen = everything(splits[0])
    assert {(int(image[0]), label) for image, label in seen} == {(number, number % 3) for number in range(30)}
    assert len(splits[0]) == sum(seen.values()) == 30 + 4 * streaming
    report_bad_images(tmp_path / "run", *splits)
    found = {row["name"].split(" in ")[0]: row["reason"] for row in read_bad_images(tmp_path / "run")}
    assert found.keys() == (INDEXED | DECODED).keys()
    assert all(found[name].startswith(reason) for name, reason in (INDEXED | DECODED).items())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_worker_processes_name_what_is_bad_in_both_splits(tmp_path: Path):
    for split in ("train", "test"):
        members = [m for n in range(6) for m in sample(str(n), small(n) if n != 3 else b"?", cls=n)]
        write_tar(tmp_path / split / "0.tar", members)
    splits = load_splits(config_of(tmp_path, image_size=8, skip_bad_images=True, num_workers=1))
    report_bad_images(tmp_path / "run", *splits)
    for split in splits:
        (batch,) = split.batches(6)
        assert batch["images"][:, 0, 0, 0].tolist() == batch["labels"].tolist() == [0, 1, 2, 4, 4, 5]
    assert [(row["name"].split("/")[-2:], row["split"]) for row in read_bad_images(tmp_path / "run")] == [
        (["train", "0.tar"], "train"), (["test", "0.tar"], "evaluation"),
    ]  # fmt: skip


def damaged_header(content: bytes) -> bytes:
    return content[:5120] + b"\xff" * 512 + content[5632:]


def huge_header(content: bytes) -> bytes:
    member = tarfile.TarInfo("x" * 200)
    member.size = 2**40
    member.type = tarfile.GNUTYPE_LONGNAME
    return content[:5120] + member.tobuf(tarfile.GNU_FORMAT)[-512:] + content[5632:]


DAMAGES = {
    "cut off": (lambda content: content[:5100], "damaged after 4 images: unexpected end of data"),
    "cut at a member": (lambda content: content[:5120], "damaged after 4 images: no end mark at byte 5,120"),
    "damaged header": (damaged_header, "damaged after 4 images: a damaged header at byte 5,120"),
    "huge header": (huge_header, "damaged after 4 images: a header of "),
    "no archive": (lambda content: b"<html>404</html>" * 100, "damaged after 0 images: "),
    "empty": (lambda content: b"", "damaged after 0 images: empty file"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_archives_stop_or_are_named_and_read_as_far_as_they_go(tmp_path: Path, name: str):
    damage, reason = DAMAGES[name]
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", [m for n in range(10) for m in sample(f"{number}{n}", small(n))])
    path = tmp_path / "1.tar"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"1.tar is a bad image: damaged after"):
        load_splits(config_of(tmp_path, image_size=8))
    splits = load_splits(config_of(tmp_path, image_size=8, skip_bad_images=True))
    (bad,) = splits[0].bad_images.items()
    assert bad[0] == str(path)
    assert bad[1].startswith(reason)
    assert sum(map(len, splits)) == 20 + 4 * ("after 4" in reason)  # the sample at the break may lack its label


@given(draw=st.data())
def test_no_archive_crashes_or_hangs(tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject):
    path = write_tar(
        tmp_path_factory.mktemp("x") / "x.tar", [m for n in range(3) for m in sample(str(n), b"12", cls=n)]
    )
    content = bytearray(path.read_bytes())
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, 6 * 1024))
        change = draw.draw(st.binary(min_size=1, max_size=12))
        content[place : place + len(change)] = change
    path.write_bytes(content)
    for row in tar_index(path, "label").to_pylist():
        assert 0 <= row["offset"] <= row["offset"] + row["size"] <= len(content)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_that_vanishes_or_changes_is_named(kind: str, tmp_path: Path):
    write_fashion_shards(tmp_path / "s", kind)
    train, evaluation = load_splits(config_of(tmp_path / "s", skip_bad_images=True))
    report_bad_images(tmp_path / "run", train, evaluation)
    gone, changed = (tmp_path / "s" / "train" / f"00{number}.{kind}" for number in (0, 1))
    gone.unlink()
    os.utime(changed, (1, 1))
    with pytest.raises(InputError, match=f"000.{kind} cannot be read: .*No such file"):
        train.__getitems__([0])
    with pytest.raises(InputError, match=f"001.{kind} has changed since it was listed"):
        train.__getitems__([45])


def test_an_index_is_made_once_and_anew_when_it_is_damaged_or_the_shard_changes(own_cache: Path, tmp_path: Path):
    path = write_tar(tmp_path / "0.tar", sample("a", small(1), cls=4))
    first = tar_index(path, "label")
    (cached,) = own_cache.rglob("*.arrow")
    written = cached.stat().st_mtime_ns
    assert tar_index(path, "label").equals(first, check_metadata=True)
    assert cached.stat().st_mtime_ns == written
    cached.write_bytes(cached.read_bytes()[:50])
    assert tar_index(path, "label").equals(first, check_metadata=True)
    write_tar(path, sample("b", small(1), cls=4))
    assert tar_index(path, "label")["name"].to_pylist() == ["b.png"]
    assert tar_index(path, "other")["label"].to_pylist() == [None]
    assert not [other for other in own_cache.rglob("*") if other.is_dir() and other.name.startswith(".")]


def test_row_groups_that_do_not_fit_are_refused(folders, monkeypatch):
    monkeypatch.setattr(parquet_shards, "MAX_ROW_GROUP_BYTES", 1000)
    with pytest.raises(
        InputError, match=r"row group 0 of .*000.parquet has .* bytes, more than the 1,000 that a stream"
    ):
        load_splits(config_of(folders["parquet"]))
