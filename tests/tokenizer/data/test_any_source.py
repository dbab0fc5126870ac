"""Whatever lies in a folder, an archive or a table, it is read or refused: no other error, no warning."""

import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_folders import small, write_tar
from shard_splits import config_of

from wvq.tokenizer.data.dataset import ImageDataset, load_splits
from wvq.tokenizer.data.names import EVALUATION_NAMES
from wvq.tokenizer.errors import InputError

pytestmark = pytest.mark.usefixtures("own_cache")

OFTEN = st.sampled_from(
    ["train", "Train", "data", "default", "cat", "1", "01", "10", "e\u0301", "\u00e9", ".x", "-1", *EVALUATION_NAMES]
)
NAMES = OFTEN | st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20)
SUFFIXES = st.sampled_from(
    [".png", ".jfif", ".PNG", ".tar", ".parquet", ".tar.gz", ".json", ".cls", ".txt", "", ".heic"]
)
CONTENTS = st.sampled_from([small(0), small(1), small(2), small(3), b"", b"\x1f\x8b", b"PAR1", b"{}"]) | st.binary(
    max_size=99
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**25) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("label"), inner),
    max_leaves=3,
)
FIELDS = JSON.map(lambda value: json.dumps({"label": value}).encode()) | CONTENTS


def read_or_refused(folder: Path) -> None:
    for streaming in (False, True):
        for skip in (False, True):
            try:
                splits = load_splits(
                    config_of(folder, image_size=8, streaming=streaming, skip_bad_images=skip, evaluation_fraction=0.5)
                )
                for split in splits:
                    _look_through(split)
            except InputError:
                continue


def _look_through(split: ImageDataset) -> None:
    labels = [int(k) for batch in split.batches(8) for k in batch["labels"]]
    assert len(labels) == len(split)
    assert all(0 <= label < max(1, len(split.class_names)) for label in labels)
    assert len(set(split.class_names)) == len(split.class_names)
    assert all(unicodedata.is_normalized("NFC", name) for name in split.class_names)


SLOW = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(files=st.dictionaries(st.tuples(st.lists(NAMES, max_size=3).map(tuple), NAMES, SUFFIXES), CONTENTS, max_size=8))
def test_any_folder(tmp_path_factory: pytest.TempPathFactory, files: dict[tuple, bytes]):
    folder = tmp_path_factory.mktemp("any")
    for (above, name, suffix), content in files.items():
        place = folder.joinpath(*(part for part in above if part not in (".", "..")), f"{name}{suffix}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        except OSError:  # a name that is too long, or both a folder's and a file's
            continue
    read_or_refused(folder)


@SLOW
@given(
    members=st.lists(
        st.tuples(st.sampled_from("abc"), SUFFIXES, FIELDS) | st.tuples(NAMES, SUFFIXES, FIELDS), max_size=9
    ),
    names=st.none() | st.binary(max_size=20) | st.lists(NAMES).map(lambda names: "\n".join(names).encode()),
)
def test_any_archive(tmp_path_factory: pytest.TempPathFactory, members: list[tuple], names: bytes | None):
    folder = tmp_path_factory.mktemp("any")
    write_tar(folder / "0.tar", [(key + suffix, content) for key, suffix, content in members])
    write_tar(folder / "1.tar", [("x.png", small(9)), ("x.cls", b"1")])
    if names is not None:
        (folder / "classnames.txt").write_bytes(names)
    read_or_refused(folder)


CELLS = CONTENTS | st.none()
LABELS = st.one_of(
    *(
        st.lists(kind, min_size=6, max_size=6)
        for kind in (st.integers(-3, 3), st.floats(), st.text(max_size=3), st.booleans())
    ),
    st.lists(st.none() | st.integers(0, 2), min_size=6, max_size=6),
    st.lists(st.none() | NAMES, min_size=6, max_size=6),
    st.lists(st.binary(max_size=4), min_size=6, max_size=6).map(
        lambda cells: pa.array(cells, pa.binary()).view(pa.string())
    ),
)


@SLOW
@given(
    cells=st.lists(CELLS | st.fixed_dictionaries({"bytes": CELLS, "path": st.none() | NAMES}), min_size=6, max_size=6),
    labels=LABELS,
    encoded=st.booleans(),
)
def test_any_table(tmp_path_factory: pytest.TempPathFactory, cells: list, labels: list, encoded: bool):
    folder = tmp_path_factory.mktemp("any")
    structs = [cell if isinstance(cell, dict) else {"bytes": cell, "path": None} for cell in cells]
    column = pa.array(labels)
    if encoded and column.null_count < len(column):  # pyarrow writes no categories of nothing
        column = column.dictionary_encode()
    pq.write_table(pa.table({"image": structs, "label": column}), folder / "0.parquet", row_group_size=3)
    read_or_refused(folder)
