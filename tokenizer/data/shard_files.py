"""Sources in shards, `.tar` or `.parquet`: which files a name stands for, and their images, listed or as a stream."""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..distributed import num_processes, process_index
from ..errors import InputError
from ..progress import progress_bar
from ..storage.untrusted import read_text, user_path
from .decoding import SUFFIXES, BadImage
from .folders import folder_contents, images_under, tell_passed_over
from .names import SPLIT_NAMES, Label, class_positions, in_nfc, split_of, train_and_evaluation
from .parquet import list_parquet
from .records import Records, Source
from .shards import Shard, ShardedImages, ShardRecords
from .tables import column_classes, listed_classes, table_features
from .webdataset import list_tar, tar_index

CLASS_NAMES_FILE = "classnames.txt"
SHARD_SUFFIXES = (".tar", ".parquet")
_MOST_FILES = 10**6
_MOST_DEPTH = 3  # of folders of a snapshot of the hub: a configuration in a folder that was given, splits in it


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
    `train/` and an evaluation folder; or, as a data set that was downloaded from the hub, it has nothing but one
    folder of that kind ("data/", "default/", "plain_text/"). None if it has no shards.

    Raises:
        InputError: for a pattern with missing files, a folder that has images as well, several folders of shards, and
            names of which only some say what split they are of.
    """
    path = user_path(source)
    if os.path.isdir(path):
        return _in_folder(path)
    files = [path] if os.path.isfile(path) else []
    if not os.path.exists(path) and re.search(r"[*?\[]|\{.*(\.\.|,).*\}", source):
        names = (name for pattern in _expanded(str(path)) for name in _matching(pattern))
        files = [Path(name) for name in dict.fromkeys(names)]
    suffixes = sorted({file.suffix for file in files})
    if len(suffixes) > 1:
        raise InputError(f"data source {source!r} names files in {' and '.join(suffixes)}; they must be of one kind")
    if suffixes not in ([".tar"], [".parquet"]):
        return None
    return ShardFiles(suffixes[0], {"train": files}, files[0].parent)


def _in_folder(folder: Path, depth: int = 1) -> ShardFiles | None:
    files, below = folder_contents(folder)
    for suffix in SHARD_SUFFIXES:
        if shards := [path for path in files if path.suffix == suffix]:
            near = (path for place in (folder, *below) for path in folder_contents(place)[0])
            if suffix == ".tar" and (image := next((path for path in near if path.suffix.lower() in SUFFIXES), None)):
                odd = image.relative_to(folder)
                raise InputError(f"{folder} has both shards ({shards[0].name}) and images ({odd}); separate them")
            known = {*shards, folder / CLASS_NAMES_FILE}
            tell_passed_over(folder, [Path(path.name) for path in files if path not in known])
            return ShardFiles(suffix, _by_name(folder, shards), folder)
    for suffix in SHARD_SUFFIXES:
        inside = {path.name: [file for file in folder_contents(path)[0] if file.suffix == suffix] for path in below}
        splits = {name: shards for name, shards in inside.items() if shards}
        if any(split_of(name) == "train" for name in splits):
            chosen = train_and_evaluation(splits, str(folder))
            if unknown := [name for name in splits if split_of(name) is None]:
                raise InputError(
                    f"{folder} has {chosen[0]}/ and beside it {unknown[0]}/, which is no split; "
                    f"valid are {', '.join(SPLIT_NAMES)}"
                )
            return ShardFiles(suffix, {split_of(name) or name: splits[name] for name in chosen}, folder)
    filled = [path for path in below if _has_shards(path, depth)]
    if not filled or images_under(folder):
        return None
    if len(filled) > 1:
        raise InputError(
            f"{folder} has shards in {', '.join(f'{path.name}/' for path in filled)}, of which none is called train; "
            "give one of them as the source"
        )
    return _in_folder(filled[0], depth + 1)


def _has_shards(folder: Path, depth: int) -> bool:
    files, below = folder_contents(folder)
    if any(path.suffix in SHARD_SUFFIXES for path in files):
        return True
    return depth < _MOST_DEPTH and any(_has_shards(path, depth + 1) for path in below)


def _by_name(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Files by the split that is a word of their name, or all as "train"."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        words = {split_of(word) for word in re.split(r"[-_.]", file.stem)}
        splits.setdefault(next((name for name in SPLIT_NAMES if name in words), ""), []).append(file)
    if list(splits) == [""]:
        return {"train": files}
    if "" in splits:
        named = next(path for path in files if path not in splits[""])
        raise InputError(
            f"{folder}: {named.name} is named after a split but {splits[''][0].name} is not; name all or none so"
        )
    return splits


def _expanded(pattern: str) -> Iterator[str]:
    """`{000..099}` and `{a,b}` written out."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if not match:
        yield pattern
        return
    choices: Iterable[str]
    if match[3] is not None:
        choices = match[3].split(",")
    else:
        first, last = int(match[1]), int(match[2])
        if not 0 <= last - first < _MOST_FILES:
            raise InputError(f"data source {pattern!r} has the range {match[0]}; it must rise, by less than a million")
        choices = (str(number).zfill(len(match[1])) for number in range(first, last + 1))
    for choice in choices:
        yield from _expanded(pattern[: match.start()] + choice + pattern[match.end() :])


def _matching(pattern: str) -> list[str]:
    found = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern))
    if not found:
        raise InputError(f"no file is called {pattern!r}")
    return found


def read_webdataset(files: ShardFiles, label_column: str, streaming: bool) -> Source:
    """Archives as a source; classes by name from `classnames.txt` in their folder, one a line, if it is there.

    Raises:
        InputError: for files that cannot be read, and evaluation labels that are no class of the train split.
    """
    place = str(files.folder)
    splits = train_and_evaluation(files.splits, place)
    listed = [_list_tars(files.splits[name], label_column) for name in splits]
    names = read_class_names(files.folder / CLASS_NAMES_FILE)
    labels = [found for _, found, _ in listed]
    class_names, positions = class_positions(labels, names, label_column, place)
    parts = [
        ShardRecords(ShardedImages(shards), positions, f"split {name}", bad)
        for name, (shards, _, bad) in zip(splits, listed, strict=True)
    ]
    records = parts if streaming else [_listed(part) for part in parts]
    return Source(records[0], records[1] if len(records) > 1 else None, class_names)


def stream_parquet(files: ShardFiles, image_column: str, label_column: str) -> Source:
    """Parquet files as a stream of row groups.

    Raises:
        InputError: as `table_features` and `list_parquet` do, and for evaluation labels that are no class of the train
            split.
    """
    place = str(files.folder)
    splits = train_and_evaluation(files.splits, place)
    features = table_features([file for name in splits for file in files.splits[name]], image_column, label_column)
    columns = tuple(name for name in (image_column, label_column) if name in features)
    listed = [list_parquet(files.splits[name], columns) for name in splits]
    names = listed_classes(features[label_column], label_column, place) if label_column in features else ()
    labels = [found for _, found in listed]
    class_names, positions = column_classes(labels, names, label_column, place)
    records = [
        ShardRecords(ShardedImages(groups), positions, f"split {name}")
        for name, (groups, _) in zip(splits, listed, strict=True)
    ]
    return Source(records[0], records[1] if len(records) > 1 else None, class_names)


def _list_tars(paths: Sequence[Path], label_column: str) -> tuple[list[Shard], set[Label], dict[str, str]]:
    """(archives, all labels, what is bad by name with the reason)."""
    own = paths[process_index() :: num_processes()]
    for path in progress_bar(own, desc="reading headers", unit="shard", delay=1, leave=False, disable=None):
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


def read_class_names(path: Path) -> list[str]:
    """The classes that a file names, one a line: the first line is class 0.

    Raises:
        InputError: for a file that is no UTF-8, an empty line between others, and a class that is named twice.
    """
    if not path.is_file():
        return []
    names = [in_nfc(line.strip()) for line in read_text(path).rstrip().splitlines()]
    if "" in names:
        raise InputError(f"{path} has nothing in line {names.index('') + 1}; it must have one name a line")
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
