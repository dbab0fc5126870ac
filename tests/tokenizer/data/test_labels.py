"""Labels mean the same in folders, tables and archives, in memory and streamed: none is lost, renamed or swapped."""

import json
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shard_folders import sample, small, write_tar
from shard_splits import config_of

from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.data.names import in_nfc, in_order, split_of
from wvq.tokenizer.data.sources import find_source
from wvq.tokenizer.errors import InputError

pytestmark = pytest.mark.usefixtures("own_cache")

BOM = b"\xef\xbb\xbf"
CLASSES = [0, 1, 2] * 4


def write_folder(place: Path, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        (place / name).mkdir(parents=True, exist_ok=True)
        (place / name / f"{number}.png").write_bytes(small(number))


def write_table(place: Path, names: Sequence[str]) -> None:
    place.mkdir()
    columns = {"image": [small(number) for number in range(len(names))], "label": list(names)}
    pq.write_table(pa.table(columns), place / "0.parquet", row_group_size=3)


def write_texts(place: Path, names: Sequence[str]) -> None:
    write_tar(place / "0.tar", [m for k, name in enumerate(names) for m in sample(str(k), small(k), cls=name)])


def write_json(place: Path, names: Sequence[str]) -> None:
    members = [m for k, name in enumerate(names) for m in sample(str(k), small(k), json={"label": name})]
    write_tar(place / "0.tar", members)


WRITERS = (write_folder, write_table, write_texts, write_json)


def classes_of(place: Path, streaming: bool) -> tuple[tuple[str, ...], dict[str, set[bytes]]]:
    """(class names, the encoded images of each by name)."""
    found = find_source(str(place), None, "image", "label", streaming)
    images = defaultdict(set)
    for index in range(len(found.train)):
        images[found.class_names[found.train.label(index)]].add(found.train.content(index))
    return found.class_names, dict(images)


def is_a_folders_name(name: str) -> bool:
    return name == name.strip() and name[:1] not in ("", ".") and "/" not in name and not split_of(name)


TEXTS = st.text(st.characters(categories=("L", "M", "N", "P", "S", "Zs")), min_size=1, max_size=9)
NUMBERS = st.integers(-5, 120).map(str) | st.from_regex(r"0{0,2}[0-9]{1,3}", fullmatch=True)
NAMES = st.lists((TEXTS | NUMBERS).filter(is_a_folders_name), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(names=NAMES)
@example(names=[str(number) for number in range(12)])
@example(names=["cafe\u0301", "caf\u00e9", "tea"])
@example(names=["10", "9", "009"])
def test_the_same_images_have_the_same_classes_whatever_holds_them(tmp_path_factory, names: list[str]):
    expected = defaultdict(set)
    for number, name in enumerate(names):
        expected[in_nfc(name)].add(small(number))
    folder = tmp_path_factory.mktemp("labels")
    for write in WRITERS:
        write(folder / write.__name__, names)
        for streaming in (False, True)[: 1 if write is write_folder else 2]:
            class_names, images = classes_of(folder / write.__name__, streaming)
            assert images == expected
            assert class_names == tuple(in_order(expected))


def test_names_are_in_order_by_value_where_all_are_whole_numbers():
    assert in_order(["10", "9", "-1", "009"]) == ["-1", "009", "9", "10"]
    assert in_order(["10", "9", "a"]) == ["10", "9", "a"]
    assert in_order(["000", "001", "010"]) == ["000", "001", "010"]
    assert in_order(["\u00b2", "10", "9"]) == ["10", "9", "\u00b2"]  # a superscript two is a digit, and no number


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", [float, int, str])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_whole_numbers_in_json_are_labels(tmp_path: Path, streaming: bool, kind: type, encoding: str):
    for shard in range(2):
        fields = [(k, json.dumps({"label": kind(k)}).encode(encoding)) for k in CLASSES]
        members = [[(f"{n}.png", small(n)), (f"{n}.json", content)] for n, (_, content) in enumerate(fields)]
        write_tar(tmp_path / f"{shard}.tar", [member for pair in members for member in pair])
    splits = load_splits(config_of(tmp_path, image_size=8, streaming=streaming, evaluation_fraction=0.4))
    for split in splits:
        assert split.class_names == ("0", "1", "2")
        batch = split.take(range(len(split)))
        assert [int(image[0, 0, 0]) % 3 for image in batch["images"]] == batch["labels"].tolist()


UNFIT = {
    "list": ("json", b'{"label": [1]}', "label is [1], neither a whole number nor text"),
    "half": ("json", b'{"label": 1.5}', "label is 1.5, neither"),
    "not a number": ("json", b'{"label": NaN}', "label is nan, neither"),
    "object": ("json", b'{"label": {"name": "cat"}}', "label is {'name': 'cat'}, neither"),
    "no JSON": ("json", b"{", "Expecting property name"),
    "half a letter": ("json", b'{"label": "\\ud83d"}', "surrogates not allowed"),
    "latin-1": ("cls", "caf\u00e9".encode("latin-1"), "can't decode byte 0xe9"),
    "too long": ("cls", b"1" * (2**20 + 1), "at most 1,048,576 are read"),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", UNFIT)
def test_a_label_of_another_type_never_counts_as_absent(tmp_path: Path, kind: str, streaming: bool):
    field, content, reason = UNFIT[kind]
    good = [member for k in range(1, 9) for member in sample(str(k), small(k), cls=k)]
    write_tar(tmp_path / "0.tar", [("0.png", small(0)), (f"0.{field}", content), *good])
    write_tar(tmp_path / "1.tar", sample("9", small(9), cls=9))
    with pytest.raises(InputError, match=rf"0 in .*0.tar is a bad image: its .{field} cannot be read: ") as refused:
        load_splits(config_of(tmp_path, image_size=8, streaming=streaming, evaluation_fraction=0.4))
    assert reason in str(refused.value)
    assert str(refused.value).isprintable()
    splits = load_splits(
        config_of(tmp_path, image_size=8, streaming=streaming, evaluation_fraction=0.4, skip_bad_images=True)
    )
    assert sum(map(len, splits)) == 9


@pytest.mark.parametrize("streaming", [False, True])
def test_a_table_and_an_archive_without_one_label_leave_out_that_image(tmp_path: Path, streaming: bool):
    labels = [None if k == 5 else k % 2 for k in range(20)]
    (tmp_path / "table").mkdir()
    columns = {"image": [small(k) for k in range(20)], "label": labels}
    pq.write_table(pa.table(columns), tmp_path / "table" / "0.parquet", row_group_size=10)
    for shard in range(2):
        own = range(10 * shard, 10 * shard + 10)
        fields = [{} if labels[k] is None else {"cls": labels[k]} for k in own]
        members = [m for k, field in zip(own, fields, strict=True) for m in sample(str(k), small(k), **field)]
        write_tar(tmp_path / "tar" / f"{shard}.tar", members)
    options = {"image_size": 8, "streaming": streaming, "evaluation_fraction": 0.5}
    for place in (tmp_path / "table", tmp_path / "tar"):
        with pytest.raises(InputError, match="is a bad image: has no label; remove it, or leave"):
            [split.take(range(len(split))) for split in load_splits(config_of(place, **options))]
        splits = load_splits(config_of(place, skip_bad_images=True, **options))
        batches = [split.take(range(len(split))) for split in splits]
        found = {int(i[0, 0, 0]): int(k) for b in batches for i, k in zip(b["images"], b["labels"], strict=True)}
        assert found == {k: k % 2 for k in range(20) if k != 5}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_without_any_label_is_refused_and_not_taken_for_none(tmp_path: Path, streaming: bool):
    labels = pa.array([None] * 4, pa.int64())
    pq.write_table(pa.table({"image": [small(k) for k in range(4)], "label": labels}), tmp_path / "0.parquet")
    with pytest.raises(InputError, match="has no value in any row of its train split; to train without classes"):
        load_splits(config_of(tmp_path, image_size=8, streaming=streaming))


def write_named(path: Path, names: list[str] | None, labels: Sequence[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": small(k), "path": None} for k in range(len(labels))]
    types = {"image": datasets.Image()} | ({} if names is None else {"label": datasets.ClassLabel(names=names)})
    columns = {"image": cells} | ({} if names is None else {"label": labels})
    datasets.Dataset.from_dict(columns, features=datasets.Features(types)).to_parquet(str(path))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["shards", "splits"])
def test_files_that_name_other_classes_are_refused(tmp_path: Path, kind: str, streaming: bool):
    second = tmp_path / ("train/1.parquet" if kind == "shards" else "val/0.parquet")
    write_named(tmp_path / "train" / "0.parquet", ["cat", "dog"], [0, 1, 0])
    options = {"image_size": 8, "streaming": streaming}
    write_named(second, ["dog", "cat"], [0, 1])
    with pytest.raises(InputError, match=r"names other classes, or in another order, than .*: dog, cat, not cat, dog"):
        load_splits(config_of(tmp_path, **options))
    write_named(second, ["cafe\u0301", "caf\u00e9"], [0, 1])
    with pytest.raises(InputError, match="names a class twice: caf\u00e9, caf\u00e9"):
        load_splits(config_of(tmp_path, **options))
    write_named(second, None, [0, 1])
    with pytest.raises(InputError, match=r"has the label column 'label', .* does not; to train without"):
        load_splits(config_of(tmp_path, **options))
    write_named(second, ["cat", "dog"], [0, -1])
    with pytest.raises(InputError, match=r"no class of its train split: -1"):
        load_splits(config_of(tmp_path, **options))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("content", [BOM + b"cat\r\ndog\r\n", b"cat\ndog\n\n", "cat\ndog".encode("utf-8-sig")])
def test_names_in_a_text_file_of_another_editor(tmp_path: Path, content: bytes, streaming: bool):
    for shard, label in enumerate(["cat", 0, "dog", 1]):
        write_tar(tmp_path / f"{shard}.tar", sample(str(shard), small(shard), cls=label))
    (tmp_path / "classnames.txt").write_bytes(content)
    class_names, images = classes_of(tmp_path, streaming)
    assert class_names == ("cat", "dog")
    assert images == {"cat": {small(0), small(1)}, "dog": {small(2), small(3)}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("caf\u00e9\ndog\n".encode("latin-1"), r"classnames.txt is not UTF-8 \(at byte 3"),
        ("cat\ndog\n".encode("utf-16"), "classnames.txt is not UTF-8"),
        (b"cat\n\ndog\n", "has nothing in line 2; it must have one name a line"),  # dog is class 2, or is it 1?
        ("cafe\u0301\ncaf\u00e9\n".encode(), "names a class twice"),
    ],
)
def test_names_in_a_text_file_that_cannot_be_meant(tmp_path: Path, content: bytes, reason: str):
    write_tar(tmp_path / "0.tar", sample("0", small(0), cls=0))
    (tmp_path / "classnames.txt").write_bytes(content)
    with pytest.raises(InputError, match=reason) as refused:
        load_splits(config_of(tmp_path, image_size=8))
    assert "\n" not in str(refused.value)


def test_an_evaluation_split_with_labels_where_training_has_none(tmp_path: Path):
    write_tar(tmp_path / "train" / "0.tar", sample("0", small(0)))
    write_tar(tmp_path / "val" / "0.tar", sample("0", small(0), cls=3))
    with pytest.raises(InputError, match="values that are no class of its train split: 3"):
        load_splits(config_of(tmp_path, image_size=8))


def test_the_code_points_of_a_name_do_not_make_a_class(tmp_path: Path):
    mac, linux = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFD", "NFC"))
    for split, name in (("train", mac), ("val", linux)):
        write_folder(tmp_path / "folder" / split, [name, "tea"])
        write_texts(tmp_path / "tar" / split, [name, "tea"])
    for place in (tmp_path / "folder", tmp_path / "tar"):
        for split in load_splits(config_of(place, image_size=8, streaming=False)):
            assert split.class_names == (linux, "tea")
            assert split.take([0, 1])["labels"].tolist() == [0, 1]
