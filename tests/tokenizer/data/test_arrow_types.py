"""Parquet columns of every Arrow type that holds images, names or numbers, in memory and streamed."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_folders import small
from shard_splits import config_of

from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.data.sources import find_source
from wvq.tokenizer.errors import InputError

pytestmark = pytest.mark.usefixtures("own_cache")

IMAGES = [small(k) for k in range(30)]
CELLS = [{"bytes": image, "path": "a.png"} for image in IMAGES]
WORDS = ["b" if k % 2 else "a" for k in range(30)]
NUMBERS = [k % 2 for k in range(30)]


def struct_of(content: pa.DataType, path: pa.DataType) -> pa.Array:
    return pa.array(CELLS, pa.struct([("bytes", content), ("path", path)]))


PICTURES = {
    "binary": pa.array(IMAGES, pa.binary()),
    "large": pa.array(IMAGES, pa.large_binary()),
    "view": pa.array(IMAGES, pa.binary_view()),
    "struct": struct_of(pa.binary(), pa.string()),
    "struct of large": struct_of(pa.large_binary(), pa.large_string()),
    "struct of views": struct_of(pa.binary_view(), pa.string_view()),
    "dictionary": pa.array(IMAGES, pa.binary()).dictionary_encode(),
}
LABELS = {
    "string": pa.array(WORDS, pa.string()),
    "large": pa.array(WORDS, pa.large_string()),
    "view": pa.array(WORDS, pa.string_view()),
    "categories": pa.array(WORDS).dictionary_encode(),
    "int8": pa.array(NUMBERS, pa.int8()),
    "uint64": pa.array(NUMBERS, pa.uint64()),
    "categories of numbers": pa.array(NUMBERS).dictionary_encode(),
    "bool": pa.array([bool(k) for k in NUMBERS]),
}


def read(path: Path, columns: dict[str, Any], streaming: bool) -> tuple[str, ...]:
    """The class names, after every image was found with its label."""
    pq.write_table(pa.table(columns), path)
    found = find_source(str(path), None, "image", "label", streaming)
    labels = {found.train.content(index): found.train.label(index) for index in range(len(found.train))}
    assert labels == dict(zip(IMAGES, NUMBERS, strict=True))
    return found.class_names


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", PICTURES)
def test_images(tmp_path: Path, kind: str, streaming: bool):
    assert read(tmp_path / "0.parquet", {"image": PICTURES[kind], "label": NUMBERS}, streaming) == ("0", "1")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", LABELS)
def test_labels(tmp_path: Path, kind: str, streaming: bool):
    names = read(tmp_path / "0.parquet", {"image": IMAGES, "label": LABELS[kind]}, streaming)
    assert names == {"int8": ("0", "1"), "bool": ("False", "True")}.get(kind, names)
    assert names in (("a", "b"), ("0", "1"), ("False", "True"))


@pytest.mark.parametrize("streaming", [False, True])
def test_other_columns_may_be_of_any_type(tmp_path: Path, streaming: bool):
    others = {
        "map": pa.array([[("a", 1)]] * 30, pa.map_(pa.string(), pa.int64())),
        "month": pa.array([None] * 30, pa.date32()),
        "none": pa.nulls(30),
    }
    assert read(tmp_path / "0.parquet", {"image": IMAGES, "label": NUMBERS, **others}, streaming) == ("0", "1")


UNFIT = {
    "float": pa.array([0.5] * 30),
    "list": pa.array([[1]] * 30),
    "map": pa.array([[("a", 1)]] * 30, pa.map_(pa.string(), pa.int64())),
    "date": pa.array([1] * 30, pa.date32()),
    "decimal": pa.array([1] * 30, pa.decimal128(9, 2)),
    "null": pa.nulls(30),
    "bytes": pa.array([b"a"] * 30),
    "time of day": pa.array([1] * 30, pa.time64("us")),
    "no UTF-8": pa.array([b"caf\xe9"] * 30).view(pa.string()),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", UNFIT)
def test_labels_of_other_types_are_refused(tmp_path: Path, kind: str, streaming: bool):
    with pytest.raises(InputError) as refused:
        read(tmp_path / "0.parquet", {"image": IMAGES, "label": UNFIT[kind]}, streaming)
    assert "0.parquet" in str(refused.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_two_columns_of_one_name(tmp_path: Path, streaming: bool):
    table = pa.Table.from_arrays([pa.array(IMAGES), pa.array(IMAGES)], ["image", "image"])
    pq.write_table(table, tmp_path / "0.parquet")
    with pytest.raises(InputError, match=r"0.parquet has two columns called image; rename one"):
        load_splits(config_of(tmp_path, streaming=streaming))
