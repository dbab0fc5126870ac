"""What every source of images is turned into: encoded images with labels and content hashes, in a fixed order."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..progress import progress_bar
from .decoding import BadImage
from .shards import ShardRecords


class StoredImages(Protocol):
    """Where the images of a source lie: `ImageFiles`, `ImageTable`, `PixelArray`, `ShardedImages`."""

    def __len__(self) -> int: ...

    def content(self, row: int) -> bytes | npt.NDArray[np.uint8]:
        """An encoded image, or pixels (H, W) or (H, W, 3). Raises: BadImage: where there is nothing to read."""
        ...

    def name(self, row: int) -> str:
        """How messages and reports call the image."""
        ...


@dataclass(frozen=True)
class PixelArray:
    """Images that are no files: pixels (M, H, W) or (M, H, W, 3) uint8."""

    pixels: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pixels)

    def content(self, row: int) -> npt.NDArray[np.uint8]:
        return self.pixels[row]

    def name(self, row: int) -> str:
        return f"image {row}"


@dataclass(frozen=True)
class Records:
    """Images of one split, not yet decoded.

    Attributes:
        images: where they are read.
        rows: (N,) where in `images` each record lies.
        labels: (N,) int64 positions in the class names; zeros without classes.
        digests: (N, 32) uint8, sha256 of each image's bytes as stored, of its name where they cannot be read.
        origin: which part of the source this is, for descriptions and messages.
        bad: what could not be listed as an image, by name with the reason.
    """

    images: StoredImages
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint8]
    origin: str
    bad: Mapping[str, str]

    @classmethod
    def of(
        cls,
        images: StoredImages,
        labels: Sequence[int] | npt.NDArray,
        origin: str,
        bad: Mapping[str, str] | None = None,
    ):
        """Records of all of `images`, each read once for its hash."""
        progress = progress_bar(
            range(len(images)), desc=f"hashing {origin}", unit="image", delay=1, leave=False, disable=None
        )
        digests = b"".join(_digest(images, row) for row in progress)
        return cls(
            images,
            rows=np.arange(len(images)),
            labels=np.asarray(labels, np.int64),
            digests=np.frombuffer(digests, np.uint8).reshape(len(images), 32),
            origin=origin,
            bad=bad or {},
        )

    def __len__(self) -> int:
        return len(self.rows)

    def content(self, index: int) -> bytes | npt.NDArray[np.uint8]:
        """An encoded image, or pixels (H, W) or (H, W, 3).

        Raises:
            BadImage: if it cannot be read, or is another one than when it was hashed.
        """
        content = self.images.content(int(self.rows[index]))
        if isinstance(content, bytes) and hashlib.sha256(content).digest() != self.digests[index].tobytes():
            raise BadImage("changed since it was listed")
        return content

    def name(self, index: int) -> str:
        """The file of an image, or its row where it lies in a table."""
        return self.images.name(int(self.rows[index]))

    def label(self, index: int) -> int:
        """Position in the class names; 0 without classes."""
        return int(self.labels[index])

    def identity(self) -> Iterator[bytes]:
        """What the fingerprint is made of: all labels, then the hash of every image."""
        yield self.labels.astype("<i8").tobytes()
        yield self.digests.tobytes()

    def select(self, chosen: npt.NDArray) -> "Records":
        """The records at these positions, or where this mask holds."""
        return replace(self, rows=self.rows[chosen], labels=self.labels[chosen], digests=self.digests[chosen])

    def split(self, fraction: float, turn: int = 0) -> tuple["Records", "Records"]:
        """(rest, about this fraction), decided by each image's hash: copies of an image are never on both sides, and
        images added later move none of the others. The rest is split again, by other bits of the hash, in `turn` 1."""
        chosen = self.digests[:, 4 * turn : 4 * turn + 4].copy().view(">u4")[:, 0] < fraction * 2**32
        rest, part = self.select(~chosen), self.select(chosen)
        return (
            replace(rest, origin=f"{self.origin}, {1 - fraction:g} by sha256"),
            replace(part, origin=f"{self.origin}, {fraction:g} by sha256", bad={}),
        )


@dataclass(frozen=True)
class Source:
    """A whole source; `evaluation` is None where it has no evaluation split of its own, `class_names` () without."""

    train: Records | ShardRecords
    evaluation: Records | ShardRecords | None
    class_names: tuple[str, ...]


def _digest(images: StoredImages, row: int) -> bytes:
    try:
        content = images.content(row)
    except BadImage:  # decoding meets it again, and says so or leaves it out
        content = os.fsencode(images.name(row))
    return hashlib.sha256(bytes(content)).digest()
