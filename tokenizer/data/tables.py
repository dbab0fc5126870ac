"""Images in tables: parquet files and data sets of the Hugging Face hub."""

import itertools
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import datasets.config
import numpy as np
import numpy.typing as npt
from datasets.exceptions import DatasetsError
from huggingface_hub import constants

from ..errors import InputError
from ..storage.untrusted import first_line
from .decoding import BadImage
from .folders import read_regular_file
from .records import EVALUATION_NAMES, Records, Source

_NO_CLASSES = "; to train without classes name a label_column that is absent"


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
        InputError: for what is no parquet file, and as `read_tables` does.
    """
    try:
        tables = datasets.load_dataset(
            "parquet", data_files={name: [str(file) for file in files] for name, files in splits.items()}
        )
    except (OSError, ValueError, DatasetsError) as error:
        raise InputError(f"{place}: cannot be read as parquet: {first_line(error.__cause__ or error)}") from error
    assert isinstance(tables, datasets.DatasetDict)
    return read_tables(tables, place, image_column, label_column)


def load_from_hub(name: str) -> datasets.DatasetDict:
    """Download a data set, or read it from the hub's cache.

    Raises:
        InputError: if the hub does not have it or cannot be reached.
    """
    try:
        tables = datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise InputError(f"the hub gave no data set {name!r}: {first_line(error)}") from error
    assert isinstance(tables, datasets.DatasetDict)
    return tables


def read_tables(tables: datasets.DatasetDict, place: str, image_column: str, label_column: str) -> Source:
    """The split "train", or the only one, and the first of `EVALUATION_NAMES` that there is.

    Class names are those of a ClassLabel column, otherwise the sorted values of the train split.

    Raises:
        InputError: for splits or columns that are missing or of another type, and for rows without a label.
    """
    splits = train_and_evaluation([str(name) for name in tables], place)
    chosen = [tables[name] for name in splits]
    check_images(chosen[0].features, image_column, place)
    images = [
        ImageTable(image_table(table, image_column), f"split {name}")
        for name, table in zip(splits, chosen, strict=True)
    ]
    class_names: tuple[str, ...] = ()
    labels: list[Any] = [np.zeros(len(table)) for table in chosen]
    if label_column in chosen[0].features:
        class_names, labels = _classes(chosen, label_column, place)
    parts = [Records.of(pictures, values, pictures.origin) for pictures, values in zip(images, labels, strict=True)]
    return Source(parts[0], parts[1] if len(parts) > 1 else None, class_names)


def train_and_evaluation(names: Sequence[str], place: str) -> list[str]:
    """ "train", or the only one of these splits, and the first of `EVALUATION_NAMES` that there is.

    Raises:
        InputError: for several splits of which none is called train.
    """
    train = "train" if "train" in names else names[0]
    if train != "train" and len(names) > 1:
        raise InputError(f"{place} has the splits {', '.join(names)}; one of them must be called train")
    return [train, *[name for name in EVALUATION_NAMES if name in names and name != train][:1]]


def check_images(features: Mapping[str, Any], column: str, place: str) -> None:
    """Raises: InputError: unless there is such a column, of encoded images."""
    if column not in features:
        raise InputError(f"{place} has no image column {column!r}; its columns: {', '.join(features)}")
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
        InputError: for a column of another type.
    """
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names)
    kinds = ("int", "bool", "string", "large_string")
    if not isinstance(feature, datasets.Value) or not feature.dtype.removeprefix("u").startswith(kinds):
        raise InputError(
            f"label column {column!r} of {place} holds {feature}; valid are classes, integers and strings{_NO_CLASSES}"
        )
    return ()


def check_known(labels: Iterable[Any], positions: Container[Any], column: str, place: str) -> None:
    """Raises: InputError: for a label that has no position among the classes."""
    if unknown := {label for label in labels if label not in positions}:
        listed = ", ".join(sorted(map(repr, unknown))[:5])
        raise InputError(
            f"label column {column!r} of {place} has values that are no class of its train split: {listed}{_NO_CLASSES}"
        )


def _classes(
    tables: list[datasets.Dataset], column: str, place: str
) -> tuple[tuple[str, ...], list[npt.NDArray[np.int64]]]:
    names = listed_classes(tables[0].features[column], column, place)
    columns = [table.select_columns(column)[:][column] for table in tables]
    classes = range(len(names)) if names else sorted(set(columns[0]) - {None})
    positions = {value: position for position, value in enumerate(classes)}
    check_known(itertools.chain(*columns), positions, column, place)
    labels = [np.array([positions[value] for value in values], np.int64) for values in columns]
    return names or tuple(map(str, classes)), labels
