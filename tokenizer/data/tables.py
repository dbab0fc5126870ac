"""Images in tables: parquet files and data sets of the Hugging Face hub."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import datasets.config
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError
from huggingface_hub import constants

from ..errors import InputError
from ..storage.cache import writable_cache
from ..storage.untrusted import first_line
from .decoding import BadImage
from .folders import read_regular_file
from .names import NO_CLASSES, Label, as_label, class_positions, in_nfc, train_and_evaluation
from .records import Records, Source

UNREADABLE = (OSError, ValueError, NotImplementedError, KeyError, pa.ArrowException)  # what damaged Parquet raises


@dataclass(frozen=True)
class ImageTable:
    """Images in the rows of a table, in its column "image" of {"bytes", "path"}.

    A path where there are no bytes is read if `datasets` downloaded that file. Anything else would let a table that
    was made elsewhere name any file of this machine.
    """

    table: datasets.Dataset
    origin: str

    def __len__(self) -> int:
        return len(self.table)

    def content(self, row: int) -> bytes:
        cell = self._cell(row)
        if cell.get("bytes") is not None or cell.get("path") is None:
            return cell.get("bytes") or b""
        if not _is_downloaded(cell["path"]):
            raise BadImage(f"the table has no bytes but the path {cell['path']!r}, which is not read")
        return read_regular_file(cell["path"])

    def name(self, row: int) -> str:
        path = self._cell(row).get("path")
        return f"row {row} of {self.origin}" + (f" ({path})" if path else "")

    def _cell(self, row: int) -> dict[str, Any]:
        return self.table[row]["image"] or {}


def _is_downloaded(path: str) -> bool:
    caches = (datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE)
    try:
        target = Path(os.path.realpath(path))
    except ValueError:  # a null character
        return False
    return any(target.is_relative_to(os.path.realpath(cache)) for cache in caches)


def read_parquet(splits: Mapping[str, Sequence[Path]], place: str, image_column: str, label_column: str) -> Source:
    """Parquet files by split.

    Raises:
        InputError: for what is no parquet file, and as `table_features` and `read_tables` do.
    """
    chosen = {name: splits[name] for name in train_and_evaluation(splits, place)}
    features = table_features([file for files in chosen.values() for file in files], image_column, label_column)
    try:
        tables = _load(
            "parquet",
            data_files={name: [str(file) for file in files] for name, files in chosen.items()},
            columns=list(features),
            features=features,
        )
    except (*UNREADABLE, DatasetsError) as error:
        raise InputError(f"{place}: cannot be read as parquet: {first_line(error.__cause__ or error)}") from error
    return read_tables(tables, place, image_column, label_column)


def load_from_hub(name: str) -> datasets.DatasetDict:
    """Download a data set, or read it from the hub's cache.

    Raises:
        InputError: if the hub does not have it or cannot be reached.
    """
    try:
        return _load(name)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise InputError(f"the hub gave no data set {name!r}: {first_line(error)}") from error


def _load(name: str, **options: Any) -> datasets.DatasetDict:
    """`datasets` keeps tables in its cache; where it cannot, they are kept while this process runs."""
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    if (writable := writable_cache(cache)) != cache:
        options["cache_dir"] = str(writable)
    tables = datasets.load_dataset(name, **options)
    assert isinstance(tables, datasets.DatasetDict)
    return tables


def table_features(files: Sequence[Path], image_column: str, label_column: str) -> datasets.Features:
    """The types of the column of images and, if there is one, of labels: the same in all these Parquet files.

    Raises:
        InputError: for files that cannot be read, columns that are missing or of another type, and files that differ in
            whether they have labels, or in the classes that they name.
    """
    found: dict[Path, datasets.Features] = {}
    for path in files:
        try:
            schema = pq.read_schema(path)
            chosen = [plain_field(field) for field in schema if field.name in (image_column, label_column)]
            features = datasets.Features.from_arrow_schema(pa.schema(chosen, schema.metadata))
        except UNREADABLE as error:
            raise InputError(f"{path}: cannot be read as parquet: {first_line(error)}") from error
        if len(features) < len(chosen):
            raise InputError(f"{path} has two columns called {' or '.join(features)}; rename one of them")
        check_images(features, image_column, str(path), schema.names)
        if label_column in features:
            listed_classes(features[label_column], label_column, str(path))
        _check_same(found, path, features, label_column)
        found[path] = features
    return found[files[0]]


def _check_same(others: Mapping[Any, datasets.Features], place: Any, features: datasets.Features, column: str) -> None:
    """Raises: InputError: for other classes than the first table has: the same number would mean two of them."""
    first, own = next(iter(others.items()), (place, features))
    if (column in own) != (column in features):
        with_labels, without = (first, place) if column in own else (place, first)
        raise InputError(f"{with_labels} has the label column {column!r}, {without} does not{NO_CLASSES}")
    if column in features and (names := listed_classes(features[column], column, str(place))) != (
        expected := listed_classes(own[column], column, str(first))
    ):
        raise InputError(
            f"{place} names other classes, or in another order, than {first}: {_some(names)}, not {_some(expected)}"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "none"


def plain_field(field: pa.Field) -> pa.Field:
    """The field with types that `datasets` knows: without views, and categories as the values that they stand for."""
    return field.with_type(_plain(field.type))


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([plain_field(kind.field(k)) for k in range(kind.num_fields)])
    return {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get(kind, kind)


def read_tables(tables: datasets.DatasetDict, place: str, image_column: str, label_column: str) -> Source:
    """The split "train", or the only one, and the first of `EVALUATION_NAMES` that there is.

    Class names are those of a ClassLabel column, otherwise the sorted values of the train split.

    Raises:
        InputError: for splits or columns that are missing or of another type, and for rows without a label.
    """
    splits = train_and_evaluation(map(str, tables), place)
    chosen = [tables[name] for name in splits]
    check_images(chosen[0].features, image_column, place)
    images = [
        ImageTable(image_table(table, image_column), f"split {name}")
        for name, table in zip(splits, chosen, strict=True)
    ]
    labels: list[list[Label]] = [[] for _ in chosen]
    class_names: tuple[str, ...] = ()
    positions = None
    _check_same({f"split {splits[0]} of {place}": chosen[0].features}, splits[-1], chosen[-1].features, label_column)
    if label_column in chosen[0].features:
        names = listed_classes(chosen[0].features[label_column], label_column, place)
        labels = [_values(table, label_column, place) for table in chosen]
        class_names, positions = column_classes([set(own) for own in labels], names, label_column, place)
    parts = [_records(pictures, own, positions) for pictures, own in zip(images, labels, strict=True)]
    return Source(parts[0], parts[1] if len(parts) > 1 else None, class_names)


def check_images(features: Mapping[str, Any], column: str, place: str, columns: Sequence[str] = ()) -> None:
    """Raises: InputError: unless there is such a column, of encoded images; `columns` are all that there are."""
    if column not in features:
        raise InputError(f"{place} has no image column {column!r}; its columns: {', '.join(columns or features)}")
    feature = features[column]
    encoded = isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature)
    if not encoded and not (isinstance(feature, datasets.Value) and "binary" in feature.dtype):
        raise InputError(
            f"column {column!r} holds {feature}; valid are encoded images (bytes, or a struct of bytes and path)"
        )


def image_table(table: datasets.Dataset, column: str) -> datasets.Dataset:
    """The table with nothing but "image" of {"bytes", "path"}."""
    table = table.select_columns(column)
    if column != "image":
        table = table.rename_column(column, "image")
    return table.cast_column("image", datasets.Image(decode=False))


def listed_classes(feature: Any, column: str, place: str) -> tuple[str, ...]:
    """The classes that a column's type names; () if its values are the classes.

    Raises:
        InputError: for a column of another type, and for a class that is named twice.
    """
    if isinstance(feature, datasets.ClassLabel):
        names = tuple(map(in_nfc, feature.names))
        if len(set(names)) < len(names):
            raise InputError(f"label column {column!r} of {place} names a class twice: {_some(names)}")
        return names
    kinds = ("int", "bool", "string", "large_string")
    if not isinstance(feature, datasets.Value) or not feature.dtype.removeprefix("u").startswith(kinds):
        raise InputError(
            f"label column {column!r} of {place} holds {feature}; valid are classes, integers and strings{NO_CLASSES}"
        )
    return ()


def column_classes(
    labels: Sequence[set[Label]], names: Sequence[str], column: str, place: str
) -> tuple[tuple[str, ...], dict[Label, int] | None]:
    """`class_positions` of a column of labels, in memory or streamed.

    Raises:
        InputError: as it does, and for a column without any value: that is no way to say that there are no classes.
    """
    if labels[0] == {None}:
        raise InputError(f"label column {column!r} of {place} has no value in any row of its train split{NO_CLASSES}")
    return class_positions(labels, names, column, place)


def _values(table: datasets.Dataset, column: str, place: str) -> list[Label]:
    try:
        return [as_label(value) for value in table.select_columns(column)[:][column]]
    except UnicodeDecodeError as error:
        raise InputError(f"label column {column!r} of {place} is not UTF-8: {first_line(error)}") from error


def _records(images: ImageTable, labels: Sequence[Label], positions: Mapping[Label, int] | None) -> Records:
    """Rows without a label, where there are classes, are bad images, as they are in a stream."""
    if positions is None:
        return Records.of(images, np.zeros(len(images)), images.origin)
    bad = {images.name(row): "has no label" for row, label in enumerate(labels) if label is None}
    numbers = np.array([-1 if label is None else positions[label] for label in labels], np.int64)
    return Records.of(images, numbers, images.origin, bad).select(numbers >= 0)
