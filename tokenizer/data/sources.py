"""Where images come from: `find_source`, and folders of image files."""

import difflib
import os
import re
from pathlib import Path

from ..errors import InputError
from .decoding import SUFFIXES
from .fashion_mnist import read_fashion_mnist
from .folders import ImageFiles, images_under
from .records import EVALUATION_NAMES, Records, Source
from .shard_files import find_shards, read_webdataset, stream_parquet
from .tables import load_from_hub, read_parquet, read_tables

FASHION_MNIST = "fashion-mnist"


def find_source(source: str, root: str | None, image_column: str, label_column: str, streaming: bool = False) -> Source:
    """The images that `DataConfig.source` names; the arguments are fields of `DataConfig`.

    Raises:
        InputError: if there is no such source, it cannot be read, or it is to be streamed and has no shards.
    """
    path = Path(source).expanduser()
    if source != FASHION_MNIST and (shards := find_shards(source)):
        if shards.suffix == ".tar":
            return read_webdataset(shards, label_column, streaming)
        if streaming:
            return stream_parquet(shards, image_column, label_column)
        return read_parquet(shards.splits, source, image_column, label_column)
    if streaming and (source == FASHION_MNIST or path.exists()):
        raise InputError(
            f"streaming is true, but {source!r} has no .tar or .parquet shards, which a stream is read from"
        )
    if source == FASHION_MNIST:
        return read_fashion_mnist(root)
    if path.is_dir():
        return read_folder(path)
    if path.is_file():
        raise InputError(
            f"data source {source!r} is a file; valid are a folder, .tar and .parquet files, {FASHION_MNIST}"
        )
    if near := _meant(source, path):
        raise InputError(f"data source {source!r} does not exist; did you mean {' or '.join(map(repr, near))}?")
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source) or path.suffix in (".parquet", ".tar") or _beside_files(path):
        raise InputError(
            f"data source {source!r} does not exist; valid are {FASHION_MNIST}, a folder of images, .tar or "
            ".parquet shards (a file, a folder, a pattern like {{000..099}}.tar), a hub data set owner/name"
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
    return len(path.parts) > 1 and path.parent.is_dir()


def _meant(source: str, path: Path) -> list[str]:
    known = [FASHION_MNIST]
    if _beside_files(path):
        known += [str(path.parent / name) for name in sorted(os.listdir(path.parent))]
    return difflib.get_close_matches(source.lower(), known, n=2, cutoff=0.8)


def read_folder(folder: Path) -> Source:
    """A folder of images, of one sub-folder of images per class, or of `train` and an evaluation folder of either kind.

    Sub-folders of a class folder belong to the class, and names that start with a dot are passed over. The walk is our
    own because `datasets`' imagefolder takes any sub-folder or file with a word like "test" in its name for a split:
    a class "test-tubes" would silently become the evaluation set.

    Raises:
        InputError: for a folder without images, images both beside and in class folders, or splits of other classes.
    """
    files = images_under(folder)
    if not files:
        raise InputError(f"{folder} holds no images; valid suffixes are {' '.join(SUFFIXES)}")
    tops = {file.parts[0] for file in files if len(file.parts) > 1}
    evaluation = next((name for name in EVALUATION_NAMES if name in tops), None)
    if "train" not in tops or (evaluation is None and len(tops) > 1):
        records, class_names = _labelled(folder, files, "folder")
        return Source(records, None, class_names)

    stray = [file for file in files if len(file.parts) == 1 or file.parts[0] not in ("train", *EVALUATION_NAMES)]
    if stray:
        raise InputError(f"{folder} has train/ and {evaluation or 'no evaluation'}/, but {stray[0]} is in neither")
    train, class_names = _split_folder(folder, files, "train")
    if evaluation is None:
        return Source(train, None, class_names)
    held_out, other_names = _split_folder(folder, files, evaluation)
    if other_names != class_names:
        odd = sorted(set(class_names) ^ set(other_names))
        raise InputError(
            f"{folder}: train/ and {evaluation}/ must have the same classes; only one has {', '.join(odd)}"
        )
    return Source(train, held_out, class_names)


def _split_folder(folder: Path, files: list[Path], split: str) -> tuple[Records, tuple[str, ...]]:
    inside = [file.relative_to(split) for file in files if file.parts[0] == split]
    return _labelled(folder / split, inside, f"folder {split}")


def _labelled(folder: Path, files: list[Path], origin: str) -> tuple[Records, tuple[str, ...]]:
    tops = [file.parts[0] if len(file.parts) > 1 else "" for file in files]
    class_names = tuple(sorted(set(tops) - {""}))
    if class_names and "" in tops:
        raise InputError(
            f"{folder} has images both in itself ({files[tops.index('')]}) and in sub-folders ({class_names[0]}); "
            "valid are one sub-folder per class, or images without sub-folders"
        )
    positions = {name: position for position, name in enumerate(class_names)}
    labels = [positions.get(top, 0) for top in tops]
    return Records.of(ImageFiles.of([folder / file for file in files]), labels, origin), class_names
