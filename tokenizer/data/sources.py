"""Where images come from: `find_source`, and folders of image files."""

import difflib
import os
import re
from pathlib import Path

from ..errors import InputError
from ..storage.untrusted import user_path
from .decoding import SUFFIXES
from .folders import ImageFiles, counted, files_under, tell_passed_over
from .names import EVALUATION_NAMES, SPLIT_NAMES, in_nfc, in_order, split_of, train_and_evaluation
from .published import READERS
from .records import Records, Source
from .shard_files import find_shards, read_webdataset, stream_parquet
from .shards import ShardRecords
from .tables import load_from_hub, read_parquet, read_tables

PUBLISHED = " and ".join(READERS)


def find_source(source: str, root: str | None, image_column: str, label_column: str, streaming: bool = False) -> Source:
    """The images that `DataConfig.source` names; the arguments are fields of `DataConfig`.

    Raises:
        InputError: if there is no such source, it cannot be read, or it is to be streamed and has no shards.
    """
    path = user_path(source)
    if source not in READERS and (shards := find_shards(source)):
        if shards.suffix == ".tar":
            return read_webdataset(shards, label_column, streaming)
        if streaming:
            return stream_parquet(shards, image_column, label_column)
        return read_parquet(shards.splits, source, image_column, label_column)
    if streaming and (source in READERS or os.path.exists(path)):
        raise InputError(
            f"streaming is true, but {source!r} has no .tar or .parquet shards, which a stream is read from"
        )
    if source in READERS:
        return READERS[source](root)
    if os.path.isdir(path):
        return read_folder(path)
    if os.path.isfile(path):
        raise InputError(f"data source {source!r} is a file; valid are a folder, .tar and .parquet files, {PUBLISHED}")
    if near := _meant(source, path):
        raise InputError(f"data source {source!r} does not exist; did you mean {' or '.join(map(repr, near))}?")
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source) or path.suffix in (".parquet", ".tar") or _beside_files(path):
        raise InputError(
            f"data source {source!r} does not exist; valid are {PUBLISHED}, a folder of images, .tar or "
            ".parquet shards (a file, a folder, a pattern like {000..099}.tar), a hub data set owner/name"
        )
    if streaming:
        raise InputError(
            f"streaming is true, but {source!r} is not here: only shards on disk can be read from any place on, "
            f"as resuming does; `hf download {source} --repo-type dataset --local-dir FOLDER` gives them"
        )
    try:
        tables = load_from_hub(source)
    except InputError as error:
        raise InputError(f"data source {source!r} is no file or folder here, and {error}") from error
    return read_tables(tables, source, image_column, label_column)


def _beside_files(path: Path) -> bool:
    """Whether the path starts in a folder that is here, so that "data/photos" is no owner/name."""
    return len(path.parts) > 1 and os.path.isdir(path.parent)


def _meant(source: str, path: Path) -> list[str]:
    known = list(READERS)
    if _beside_files(path):
        known += [str(path.parent / name) for name in sorted(os.listdir(path.parent))]
    return difflib.get_close_matches(source.lower(), known, n=2, cutoff=0.8)


def read_folder(folder: Path) -> Source:
    """A folder of images, of one sub-folder of images per class, or of `train` and an evaluation folder of either kind.

    Sub-folders of a class folder belong to the class, and names that start with a dot are passed over; files without
    the suffix of an image are counted and named on standard error. The walk is our own because `datasets`' imagefolder
    takes any sub-folder or file with a word like "test" in its name for a split: a class "test-tubes" would silently
    become the evaluation set.

    Raises:
        InputError: for a folder without images, a class folder without any, images both beside and in class folders,
            a folder beside `train` that is no split, or splits of other classes.
    """
    images, others = files_under(folder)
    if not images:
        held = f"; it holds {counted(others)}" if others else ""
        raise InputError(f"{folder} holds no images; valid suffixes are {' '.join(SUFFIXES)}{held}")
    tops = sorted({file.parts[0] for file in images if len(file.parts) > 1})
    flat = any(len(file.parts) == 1 for file in images)
    trains = any(split_of(top) == "train" for top in tops)
    if not trains and (outer := _around_splits(folder, images, tops)):
        if len(tops) > 1 or flat:
            raise InputError(f"{folder / outer} has splits in it; train/ and an evaluation folder hold the classes")
        return read_folder(folder / outer)
    tell_passed_over(folder, others)
    if not trains and (flat or not all(map(split_of, tops))):
        records, class_names = _labelled(folder, images, others, "folder")
        return Source(records, None, class_names)

    train, *evaluation = train_and_evaluation(tops, str(folder))
    stray = [file for file in images if len(file.parts) == 1 or split_of(file.parts[0]) is None]
    if stray:
        raise InputError(
            f"{folder} has {train}/ and {evaluation[0] if evaluation else 'no evaluation'}/, but {stray[0]} is in "
            f"neither; valid are {', '.join(SPLIT_NAMES)}, and no class can be called so beside others"
        )
    records, class_names = _split_folder(folder, images, others, train)
    if not evaluation:
        return Source(records, None, class_names)
    held_out, other_names = _split_folder(folder, images, others, evaluation[0])
    if other_names != class_names:
        odd = sorted(set(class_names) ^ set(other_names))
        raise InputError(
            f"{folder}: {train}/ and {evaluation[0]}/ must have the same classes; only one has {', '.join(odd)}"
        )
    return Source(records, held_out, class_names)


def _around_splits(folder: Path, images: list[Path], tops: list[str]) -> str | None:
    """A folder in this one that holds train and evaluation folders, or the only one if it is called as the hub does."""
    for top in tops:
        inside = {split_of(file.parts[1]) for file in images if file.parts[0] == top and len(file.parts) > 2}
        if "train" in inside and inside & set(EVALUATION_NAMES):
            return top
    return "data" if tops == ["data"] and all(len(file.parts) > 2 for file in images) else None


def _split_folder(folder: Path, images: list[Path], others: list[Path], split: str) -> tuple[Records, tuple[str, ...]]:
    own, rest = ([file.relative_to(split) for file in files if file.parts[0] == split] for files in (images, others))
    return _labelled(folder / split, own, rest, f"folder {split}")


def _labelled(folder: Path, images: list[Path], others: list[Path], origin: str) -> tuple[Records, tuple[str, ...]]:
    tops = [_class_of(folder, file) for file in images]
    class_names = tuple(in_order(set(tops) - {""}))
    if class_names and "" in tops:
        raise InputError(
            f"{folder} has images both in itself ({images[tops.index('')]}) and in sub-folders ({class_names[0]}); "
            "valid are one sub-folder per class, or images without sub-folders"
        )
    for file in others if class_names else []:
        if (name := _class_of(folder, file)) and name not in class_names:
            own = [other for other in others if _class_of(folder, other) == name]
            raise InputError(
                f"class folder {folder / file.parts[0]} holds no images but {counted(own)}; convert them, or move the "
                f"folder away; valid suffixes are {' '.join(SUFFIXES)}"
            )
    positions = {name: position for position, name in enumerate(class_names)}
    labels = [positions.get(top, 0) for top in tops]
    return Records.of(ImageFiles.of([folder / file for file in images]), labels, origin), class_names


def _class_of(folder: Path, file: Path) -> str:
    """The name of the class folder that a file is in; "" for one that is in none."""
    if len(file.parts) == 1:
        return ""
    if not file.parts[0].isascii():
        try:
            file.parts[0].encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"the name of class folder {str(folder / file.parts[0])!r} is no UTF-8; rename it"
            ) from error
    return in_nfc(file.parts[0])


def split_off(
    records: Records | ShardRecords, source: str, option: str, fraction: float
) -> tuple[Records | ShardRecords, Records | ShardRecords]:
    """(rest, about this fraction): the share that an option of `DataConfig` asks for.

    Raises:
        InputError: if either side would be empty.
    """
    rest, part = records.split(fraction, turn=int(option == "validation_fraction"))
    if not len(rest) or not len(part):
        raise InputError(
            f"{option} {fraction} splits the {len(records)} images of {source!r} into {len(rest)} and {len(part)}; "
            f"both sides need at least one"
        )
    return rest, part
