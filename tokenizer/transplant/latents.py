"""Latents of a data set, read from their shards as they are asked for."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ..storage.untrusted import file_inside, read_json

OPEN_SHARDS = 128  # at a time, each an open file
INDEX = "latents.json"


class LatentDataset(torch.utils.data.Dataset):
    """The latents of an autoencoder, one item for each image: memory-mapped, and read where they are asked for.

    Attributes:
        shard_sizes: images of each shard, for `ShuffledBatches`.
        shape: of an image's latents, (L, h, w).

    Raises:
        InputError: for a folder without an index, or whose shards are not there.
    """

    def __init__(self, folder: Path):
        about = read_json(folder / INDEX)
        self._files = [file_inside(folder, shard["file"]) for shard in about["shards"]]
        self.shard_sizes: list[int] = [shard["images"] for shard in about["shards"]]
        self.shape: tuple[int, int, int] = tuple(about["shape"])
        self._ends = np.cumsum(self.shard_sizes)
        self._open: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.take([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """`take`, as `DataLoader` calls it."""
        return self.take(indices)

    def take(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Of the images of these indices: "latents", float32 (B, L, h, w)."""
        chosen = np.asarray(indices)
        shards = np.searchsorted(self._ends, chosen, side="right")
        rows = chosen - self._ends[shards] + np.asarray(self.shard_sizes)[shards]
        places = zip(shards.tolist(), rows.tolist(), strict=True)
        return {"latents": torch.stack([self._shard(shard)[row] for shard, row in places])}

    def _shard(self, number: int) -> Any:
        if number not in self._open:
            while len(self._open) >= OPEN_SHARDS:
                self._open.popitem(last=False)
            self._open[number] = safe_open(self._files[number], "pt").get_slice("latents")
        self._open.move_to_end(number)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # a worker process opens its own
