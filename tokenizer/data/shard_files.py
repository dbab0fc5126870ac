"""Sources in shards, `.tar` or `.parquet`: which files a name stands for, and their images, listed or as a stream."""

import glob
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..distributed import num_processes, process_index
from ..errors import InputError
from .decoding import SUFFIXES, BadImage
from .parquet import list_parquet
from .records import EVALUATION_NAMES, Records, Source
from .shards import Label, Shard, ShardedImages, ShardRecords, class_positions
from .tables import check_known, train_and_evaluation
from .webdataset import list_tar, tar_index

CLASS_NAMES_FILE = "classnames.txt"
_SPLIT_NAMES = ("train", *EVALUATION_NAMES)
_MOST_FILES = 10**6


@dataclass(frozen=True)
class ShardFiles:
    """Shards of one kind.

    Attributes:
        suffix: .tar or .parquet.
        splits: files by the name of their split, in order; "train" where there are no names.
        folder: that they are in.
    """

    suffix: str
    splits: Mapping[str, Sequence[Path]]
    folder: Path


def find_shards(source: str) -> ShardFiles | None:
    """The shards that a source names: a file, a folder, or a pattern like `shards/{000..099}.tar` or `shards/*.tar`.

    A folder has shards in itself, of which all or none are named after splits ("train-00000-of-00002.parquet"), or in
    `train/` and an evaluation folder. None if it has no shards.

    Raises:
        InputError: for a pattern with missing files, a folder that has images as well, and names of which only some say
            what split they are of.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _in_folder(path)
    files = [path] if path.is_file() else []
    if not path.exists() and re.search(r"[*?\[]|\{.*(\.\.|,).*\}", source):
        names = (name for pattern in _expanded(str(path)) for name in _matching(pattern))
        files = [Path(name) for name in dict.fromkeys(names)]
    suffixes = sorted({file.suffix for file in files})
    if len(suffixes) > 1:
        raise InputError(f"data source {source!r} names files in {' and '.join(suffixes)}; they must be of one kind")
    if suffixes not in ([".tar"], [".parquet"]):
        return None
    return ShardFiles(suffixes[0], {"train": files}, files[0].parent)


def _in_folder(folder: Path) -> ShardFiles | None:
    for suffix in (".tar", ".parquet"):
        if files := _files(folder, suffix):
            below = itertools.chain(folder.glob("*"), folder.glob("*/*"))
            if suffix == ".tar" and (image := next((path for path in below if path.suffix.lower() in SUFFIXES), None)):
                odd = image.relative_to(folder)
                raise InputError(f"{folder} has both shards ({files[0].name}) and images ({odd}); separate them")
            return ShardFiles(suffix, _by_name(folder, files), folder)
        splits = {name: files for name in _SPLIT_NAMES if (files := _files(folder / name, suffix))}
        if "train" in splits:
            return ShardFiles(suffix, splits, folder)
    return None


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{suffix}") if not path.name.startswith("."))


def _by_name(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Files by the split that is a word of their name, or all as "train"."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        words = re.split(r"[-_.]", file.stem)
        splits.setdefault(next((name for name in _SPLIT_NAMES if name in words), ""), []).append(file)
    if list(splits) == [""]:
        return {"train": files}
    if "" in splits:
        named = next(path for path in files if path not in splits[""])
        raise InputError(
            f"{folder}: {named.name} is named after a split but {splits[''][0].name} is not; name all or none so"
        )
    return splits


def _expanded(pattern: str) -> list[str]:
    """`{000..099}` and `{a,b}` written out."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if not match:
        return [pattern]
    if match[3] is not None:
        choices = match[3].split(",")
    else:
        first, last = int(match[1]), int(match[2])
        if not 0 <= last - first < _MOST_FILES:
            raise InputError(f"data source {pattern!r} has the range {match[0]}; it must rise, by less than a million")
        choices = [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
    return [
        whole for choice in choices for whole in _expanded(pattern[: match.start()] + choice + pattern[match.end() :])
    ]


def _matching(pattern: str) -> list[str]:
    found = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern))
    if not found:
        raise InputError(f"no file is called {pattern!r}")
    return found


def read_webdataset(files: ShardFiles, label_column: str, streaming: bool) -> Source:
    """Archives as a source; classes by name from `classnames.txt` in their folder, one a line, if it is there.

    Raises:
        InputError: for files that cannot be read, and evaluation labels that are no class of the train split.
    """
    place = str(files.folder)
    splits = train_and_evaluation(list(files.splits), place)
    listed = [_list_tars(files.splits[name], label_column) for name in splits]
    names = _class_names(files.folder / CLASS_NAMES_FILE)
    labels = [found for _, found, _ in listed]
    class_names, positions = _classes(labels, names, label_column, place)
    parts = [
        ShardRecords(ShardedImages(shards), positions, f"split {name}", bad)
        for name, (shards, _, bad) in zip(splits, listed, strict=True)
    ]
    records = parts if streaming else [_listed(part) for part in parts]
    return Source(records[0], records[1] if len(records) > 1 else None, class_names)


def stream_parquet(files: ShardFiles, image_column: str, label_column: str) -> Source:
    """Parquet files as a stream of row groups.

    Raises:
        InputError: as `list_parquet` does, and for evaluation labels that are no class of the train split.
    """
    place = str(files.folder)
    splits = train_and_evaluation(list(files.splits), place)
    listed = [list_parquet(files.splits[name], image_column, label_column) for name in splits]
    labels = [found for _, found, _ in listed]
    class_names, positions = _classes(labels, listed[0][2], label_column, place)
    records = [
        ShardRecords(ShardedImages(groups), positions, f"split {name}")
        for name, (groups, _, _) in zip(splits, listed, strict=True)
    ]
    return Source(records[0], records[1] if len(records) > 1 else None, class_names)


def _list_tars(paths: Sequence[Path], label_column: str) -> tuple[list[Shard], set[Label], dict[str, str]]:
    """(archives, all labels, what is bad by name with the reason)."""
    own = paths[process_index() :: num_processes()]
    for path in tqdm(own, desc="reading headers", unit="shard", delay=1, leave=False, disable=None):
        tar_index(path, label_column)  # so that the processes share this work; what is below then finds the index
    shards: list[Shard] = []
    labels: set[Label] = set()
    bad: dict[str, str] = {}
    for path in paths:
        shard, found, damage = list_tar(path, label_column)
        shards.append(shard)
        labels |= found
        bad |= damage
    return shards, labels, bad


def _classes(
    labels: Sequence[set[Label]], names: Sequence[str], label_column: str, place: str
) -> tuple[tuple[str, ...], dict[Label, int] | None]:
    """Class names and positions for the labels of the train split and, if there is one, the evaluation split."""
    class_names, positions = class_positions(labels[0], names)
    if positions is not None:
        check_known(set().union(*labels) - {None}, positions, label_column, place)
    return class_names, positions


def _class_names(path: Path) -> list[str]:
    if not path.is_file():
        return []
    names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if len(set(names)) < len(names):
        raise InputError(f"{path} names a class twice; it must have one name a line")
    return names


def _listed(stream: ShardRecords) -> Records:
    """All images of a stream with their labels and hashes."""
    labels, bad = np.full(len(stream), -1, np.int64), dict(stream.bad)
    for index in range(len(stream)):
        try:
            labels[index] = stream.label(index)
        except BadImage as error:
            bad[stream.name(index)] = str(error)
    return Records.of(stream.images, labels, stream.origin, bad).select(labels >= 0)
