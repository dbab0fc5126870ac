"""What every source of images is turned into: encoded images with labels and content hashes, in a fixed order."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from .errors import InputError


@dataclass(frozen=True)
class Records:
    """Images of one split, not yet decoded.

    Attributes:
        images: a table with a column "image" of {"bytes", "path"}, or grey pixels (M, H, W) uint8.
        rows: (N,) where in `images` each record lies.
        labels: (N,) int64 positions in the class names; zeros without classes.
        digests: (N, 32) uint8, sha256 of each image's bytes as stored.
        origin: which part of the source this is, for descriptions and messages.
    """

    images: datasets.Dataset | npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint8]
    origin: str

    @classmethod
    def of(cls, images: datasets.Dataset | npt.NDArray[np.uint8], labels: Sequence[int] | npt.NDArray, origin: str):
        """Records of all of `images`, each read once for its hash."""
        progress = tqdm(range(len(images)), desc=f"hashing {origin}", unit="image", delay=1, leave=False, disable=None)
        digests = b"".join(hashlib.sha256(bytes(read_image(images, row))).digest() for row in progress)
        return cls(
            images,
            rows=np.arange(len(images)),
            labels=np.asarray(labels, np.int64),
            digests=np.frombuffer(digests, np.uint8).reshape(len(images), 32),
            origin=origin,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def content(self, index: int) -> bytes | npt.NDArray[np.uint8]:
        """An encoded image, or the pixels (H, W) of one."""
        return read_image(self.images, int(self.rows[index]))

    def name(self, index: int) -> str:
        """The file of an image, or its row where it lies in a table."""
        row = int(self.rows[index])
        path = None if isinstance(self.images, np.ndarray) else (self.images[row]["image"] or {}).get("path")
        return path if path and Path(path).exists() else f"row {row} of {self.origin}" + (f" ({path})" if path else "")

    def select(self, chosen: npt.NDArray) -> "Records":
        """The records at these positions, or where this mask holds."""
        return replace(self, rows=self.rows[chosen], labels=self.labels[chosen], digests=self.digests[chosen])

    def split(self, fraction: float) -> tuple["Records", "Records"]:
        """(rest, about this fraction), decided by each image's hash: copies of an image are never on both sides, and
        images added later move none of the others."""
        chosen = self.digests[:, :4].copy().view(">u4")[:, 0] < fraction * 2**32
        rest, part = self.select(~chosen), self.select(chosen)
        return (
            replace(rest, origin=f"{self.origin}, {1 - fraction:g} by sha256"),
            replace(part, origin=f"{self.origin}, {fraction:g} by sha256"),
        )


@dataclass(frozen=True)
class Source:
    """A whole source; `evaluation` is None where it has no evaluation split of its own, `class_names` () without."""

    train: Records
    evaluation: Records | None
    class_names: tuple[str, ...]


EVALUATION_NAMES = ("evaluation", "validation", "valid", "val", "test")  # the first one present is taken


def read_image(images: datasets.Dataset | npt.NDArray[np.uint8], row: int) -> bytes | npt.NDArray[np.uint8]:
    """Bytes of an encoded image, empty where the table has none, or pixels (H, W).

    Raises:
        InputError: for a file that cannot be read.
    """
    if isinstance(images, np.ndarray):
        return images[row]
    cell = images[row]["image"] or {}
    if cell.get("bytes") is not None or cell.get("path") is None:
        return cell.get("bytes") or b""
    try:
        return Path(cell["path"]).read_bytes()
    except OSError as error:
        raise InputError(f"{cell['path']}: cannot be read: {error.strerror}") from error
