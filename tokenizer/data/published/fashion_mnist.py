"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017, arXiv 1708.07747) from its four idx files, or from the hub."""

import gzip
import hashlib
import io
import struct
import zlib
from pathlib import Path

import datasets
import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ...storage.untrusted import user_path
from ..decoding import BadImage, sized_pixels
from ..folders import read_regular_file
from ..records import PixelArray, Records, Source
from ..tables import image_table, load_from_hub

CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

# Of the decompressed files, since distributions compress them anew.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

_MAX_BYTES = 16 + 60_000 * 28 * 28  # the training images and their header

FOLDERS = (Path("data/fashion-mnist"), Path("/usr/share/datasets/fashion-mnist"))  # the second is Debian's
HUB_NAME = "zalando-datasets/fashion_mnist"


def read_fashion_mnist(root: str | None) -> Source:
    """The official train split and, as evaluation split, the official test split, wherever they are found first.

    Args:
        root: folder with the idx files, gzipped or not; without it `FOLDERS` and then the hub are searched.

    Raises:
        InputError: if they are not found, or are not the published data.
    """
    if root is not None:
        return _from_folder(user_path(root))
    for folder in FOLDERS:
        if any(_path(folder, name).exists() for name in SHA256):
            return _from_folder(folder)
    return _from_hub()


def _source(contents: dict[str, bytes], place: str) -> Source:
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != SHA256[name]:
            raise InputError(
                f"{name} from {place} is not Fashion-MNIST: its sha256 is not {SHA256[name]}; get it again"
            )
    parts = []
    for prefix, origin in (("train", "official train split"), ("t10k", "official test split")):
        images = np.frombuffer(contents[f"{prefix}-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 28, 28)
        parts.append(
            Records.of(
                PixelArray(images), np.frombuffer(contents[f"{prefix}-labels-idx1-ubyte"], np.uint8, offset=8), origin
            )
        )
    return Source(parts[0], parts[1], CLASS_NAMES)


def _path(folder: Path, name: str) -> Path:
    compressed = folder / f"{name}.gz"
    return folder / name if (folder / name).exists() and not compressed.exists() else compressed


def _from_folder(folder: Path) -> Source:
    contents = {}
    for path in (_path(folder, name) for name in SHA256):
        if not path.exists():
            raise InputError(f"{path} is missing; needed are {', '.join(SHA256)}, each with or without .gz")
        try:
            content = read_regular_file(path)
            contents[path.name.removesuffix(".gz")] = _decompressed(content) if path.suffix == ".gz" else content
        except (BadImage, OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
    return _source(contents, str(folder))


def _decompressed(content: bytes) -> bytes:
    """Raises: OSError: for more than any of the files has, before memory is taken for it."""
    with gzip.open(io.BytesIO(content)) as stream:
        decompressed = stream.read(_MAX_BYTES + 1)
    if len(decompressed) > _MAX_BYTES:
        raise OSError(f"it unpacks to more than the {_MAX_BYTES:,} bytes of the largest file")
    return decompressed


def _from_hub() -> Source:
    """The hub's copy holds the same images as PNG, in the same order: rebuilt into idx files, it has the same sums."""
    try:
        tables = load_from_hub(HUB_NAME)
    except InputError as error:
        raise InputError(
            "fashion-mnist is neither in "
            + " nor in ".join(map(str, FOLDERS))
            + f", and {error}. Any of these gets it: "
            "--data.root FOLDER with the four idx files; `apt-get install dataset-fashion-mnist` or `make data`; "
            "access to the hub"
        ) from error
    contents = {}
    for prefix, split in (("train", "train"), ("t10k", "test")):
        pixels, labels = _decoded(tables[split])
        header = struct.pack(">4I", 0x803, *pixels.shape)
        contents[f"{prefix}-images-idx3-ubyte"] = header + pixels.tobytes()
        contents[f"{prefix}-labels-idx1-ubyte"] = struct.pack(">2I", 0x801, len(labels)) + labels.tobytes()
    return _source(contents, f"{HUB_NAME} on the hub")


def _decoded(table: datasets.Dataset) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    images = image_table(table, "image")
    pixels = np.stack([sized_pixels(row["image"]["bytes"], 28, channels=1)[0] for row in images.to_list()])
    return pixels, np.asarray(table.select_columns("label")[:]["label"], np.uint8)
