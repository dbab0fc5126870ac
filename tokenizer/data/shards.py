"""Images in shards: archives or row groups, a few of which are open at a time, and the split by whole shards."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..errors import InputError
from .batches import POOL_SHARDS
from .decoding import BadImage
from .names import Label


class OpenShard(Protocol):
    """A shard that is being read."""

    def content(self, row: int) -> bytes:
        """An encoded image. Raises: BadImage: where there is nothing to read. InputError: if the shard is gone."""
        ...

    def name(self, row: int) -> str: ...

    def label(self, row: int) -> Label: ...


class Shard(Protocol):
    """`TarShard` and `RowGroup`: what is known of a shard while it is not read, the same whatever it holds."""

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def open(self) -> OpenShard: ...


class ShardedImages:
    """The images of shards, one shard after the other; `POOL_SHARDS` of them stay open, in each process.

    Args:
        shards: any number of them.
    """

    def __init__(self, shards: Sequence[Shard]):
        self.shards = shards
        self.sizes = np.array([len(shard) for shard in shards], np.int64)
        self._ends = np.cumsum(self.sizes)
        self._opened: OrderedDict[int, OpenShard] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def place(self, index: int) -> tuple[int, int]:
        """(shard, row in it) of an image."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, int(index - self._ends[shard] + self.sizes[shard])

    def content(self, row: int) -> bytes:
        shard, inside = self.place(row)
        return self._open(shard).content(inside)

    def name(self, row: int) -> str:
        shard, inside = self.place(row)
        return self._open(shard).name(inside)

    def label(self, row: int) -> Label:
        shard, inside = self.place(row)
        return self._open(shard).label(inside)

    def _open(self, shard: int) -> OpenShard:
        if shard not in self._opened:
            while len(self._opened) >= POOL_SHARDS:
                self._opened.popitem(last=False)
            self._opened[shard] = self.shards[shard].open()
        self._opened.move_to_end(shard)
        return self._opened[shard]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": OrderedDict()}  # a worker process opens its own


@dataclass(frozen=True)
class ShardRecords:
    """Images of one split of a stream: like `Records`, with nothing in memory that grows with their number.

    Attributes:
        images: where they lie.
        positions: the class of each label; None without classes.
        origin: which part of the source this is.
        bad: samples without an image and damaged archives, by name with the reason.
    """

    images: ShardedImages
    positions: Mapping[Label, int] | None
    origin: str
    bad: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def content(self, index: int) -> bytes:
        return self.images.content(index)

    def name(self, index: int) -> str:
        return self.images.name(index)

    def label(self, index: int) -> int:
        """Position in the class names; 0 without classes. Raises: BadImage: for an image without a class."""
        if self.positions is None:
            return 0
        label = self.images.label(index)
        if label not in self.positions:
            raise BadImage("has no label" if label is None else f"its label {label!r} is no class")
        return self.positions[label]

    def identity(self) -> Iterator[bytes]:
        """What the fingerprint is made of: the labels' classes and each shard's digest, which says what it covers."""
        yield repr(self.positions).encode()
        for shard in self.images.shards:
            yield shard.digest.encode()

    def split(self, fraction: float, turn: int = 0) -> tuple["ShardRecords", "ShardRecords"]:
        """(rest, about this fraction) in whole shards, at least one, chosen by the hash of their digests; the rest may
        be split again, where `turn` changes nothing: the next shards in that order are taken.

        No image is in both, unless a copy of it lies in another shard: images are not compared.

        Raises:
            InputError: for fewer than two shards.
        """
        shards = self.images.shards
        if len(shards) < 2:
            raise InputError(
                f"a stream of {len(shards)} shard cannot be split; give an evaluation split, smaller shards, "
                "or --data.streaming false"
            )
        order = sorted(range(len(shards)), key=lambda k: hashlib.sha256(shards[k].digest.encode()).digest())
        count = min(max(1, round(fraction * len(shards))), len(shards) - 1)
        held_out = set(order[:count])
        rest, part = (
            ShardRecords(
                ShardedImages([shard for k, shard in enumerate(shards) if (k in held_out) == inside]),
                self.positions,
                f"{self.origin}, {count if inside else len(shards) - count} of {len(shards)} shards",
                {} if inside else self.bad,
            )
            for inside in (False, True)
        )
        return rest, part
