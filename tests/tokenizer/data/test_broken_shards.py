"""Shards that are damaged, change or vanish: named with a reason, and read as far as they go where that is allowed."""

import importlib
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_folders import sample, small, write_fashion_shards, write_tar
from shard_splits import KINDS, config_of, everything

from wvq.tokenizer.data import parquet as parquet_shards
from wvq.tokenizer.data.bad_images import read_bad_images
from wvq.tokenizer.data.dataset import load_splits, report_bad_images
from wvq.tokenizer.data.webdataset import tar_index
from wvq.tokenizer.errors import InputError

pytestmark = pytest.mark.usefixtures("own_cache")


def broken_samples() -> list[tuple[str, bytes]]:
    good = [m for number in range(30) for m in sample(f"{number:02d}", small(number), cls=number % 3)]
    two_of_a_name = [("f.png", small(0)), ("f.png", small(1))]
    return [
        *good[:20], ("a.cls", b"1"), *sample("b", small(200)), *sample("c", b"not an image", cls=2), *good[20:],
        ("d.png", small(0)), ("d.jpg", small(0)), *two_of_a_name, *sample("e", b"", cls=0),
        ("g.png", small(201)), ("g.cls", b"1" * 2**20 + b"1"),
    ]  # fmt: skip


INDEXED = {
    "a": "no images (cls)",
    "d": "2 images (png, jpg)",
    "f": "two members of one name",
    "g": "its .cls cannot be read: 1,048,577 bytes; at most 1,048,576 are read",
}
DECODED = {
    "b.png": "has no label",
    "c.png": "not an image",
    "e.png": "empty",
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
    assert len(splits[0]) == sum(seen.values()) == 30 + 3 * streaming
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


# Archives of which no image can be read


def without_suffix(folder: Path) -> None:
    write_tar(folder / "0.tar", [("images/0001", small(1)), ("images/0002", small(2)), ("a", b"")])


def compressed(kind: str):
    def write(folder: Path) -> None:
        write_tar(folder / "0.tar", sample("a", small(1)))
        content = (folder / "0.tar").read_bytes()
        (folder / "0.tar").write_bytes(importlib.import_module(kind).compress(content))

    return write


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (compressed("gzip"), "0.tar.*: compressed with gzip"),
        (compressed("bz2"), "0.tar.*: compressed with bzip2"),
        (compressed("lzma"), "0.tar.*: compressed with xz"),
        (lambda folder: write_tar(folder / "0.tar", [("a.input.jpg", small(1))]), r"a in .*no images \(input.jpg\)"),
        (lambda folder: write_tar(folder / "0.tar", [("a.jpg.gz", small(1))]), r"a in .*no images \(jpg.gz\)"),
        (lambda folder: write_tar(folder / "0.tar", [("a.heic", b"x")]), r"a in .*no images \(heic\)"),
        (without_suffix, "0.tar.*: no member is called like an image; the first are images/0001, images/0002, a"),
    ],
)
def test_archives_without_an_image_say_why(tmp_path: Path, write, reason: str, streaming: bool):
    write(tmp_path)
    config = {"image_size": 8, "streaming": streaming}
    with pytest.raises(InputError, match=reason):
        load_splits(config_of(tmp_path, **config))
    with pytest.raises(InputError, match=f"has no images; it needs at least one; 1 left out: .*{reason}"):
        load_splits(config_of(tmp_path, skip_bad_images=True, **config))
