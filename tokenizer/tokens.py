"""Token sequences of a data set, memory-mapped from the token cache."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .storage.untrusted import read_json
from .token_shards import Arrays, map_shard

CHUNK_IMAGES = 50_000  # shuffled among each other, whatever the size of the shards
OPEN_SHARDS = 128  # at a time, each an open file


class TokenDataset(torch.utils.data.Dataset):
    """Token sequences and class labels, memory-mapped: what is read of them is in memory, and nothing else of an image.

    Attributes:
        num_tokens: T of an image.
        num_codes: codes of the tokenizer, K or M * K.
        codes_per_position: M of the tokenizer, 1 with a single codebook.
        scales: of the tokenizer; () without any.
        class_names: () without classes.
        tokenizer_fingerprint: of the tokenizer that made the tokens.
        token_fingerprint: of what in it decides them; None in folders from before it was kept.
        inputs: hashes of that tokenizer and of the images, by what they are.

    Raises:
        InputError: for a folder without tokens.json, or whose shards are not what it says.
    """

    def __init__(self, folder: Path, split: str):
        about = read_json(folder / "tokens.json")
        self._pieces = _Shards(folder, about, split) if "shards" in about else _ArrowPieces(folder / split)
        self.num_tokens = self._pieces.num_tokens
        self._ends = np.cumsum(self._pieces.sizes)
        self.num_codes: int = about["num_codes"]
        self.codes_per_position: int = about.get("codes_per_position", 1)
        self.scales: tuple[int, ...] = tuple(about.get("scales", ()))
        self.class_names: tuple[str, ...] = tuple(about["class_names"])
        self.tokenizer_fingerprint: str = about["tokenizer_fingerprint"]
        self.token_fingerprint: str | None = about.get("token_fingerprint")
        images: dict[str, str] = about.get("images", {})
        self.inputs = {"tokenizer": self.tokenizer_fingerprint}
        self.inputs |= {f"{split} images": fingerprint for split, fingerprint in images.items()}

    @property
    def shard_sizes(self) -> list[int]:
        """Images in each of the pieces that are shuffled among each other, for `ShuffledBatches`."""
        return [min(CHUNK_IMAGES, len(self) - first) for first in range(0, len(self), CHUNK_IMAGES)]

    @property
    def tokens(self) -> Tensor:
        """(N, T) int64 tokens in the order of a prior, of all images."""
        return torch.from_numpy(np.concatenate([self._pieces[piece][0] for piece in range(len(self._ends))])).long()

    @property
    def labels(self) -> Tensor:
        """(N,) int64, zeros without classes."""
        return torch.from_numpy(np.concatenate([self._pieces[piece][1] for piece in range(len(self._ends))]))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.take([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """`take`, as `DataLoader` calls it."""
        return self.take(indices)

    def take(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """The images of these indices as a batch: "tokens" (B, T) and "labels" (B,), both int64."""
        chosen = np.asarray(indices)
        pieces = np.searchsorted(self._ends, chosen, side="right")
        rows = chosen - self._ends[pieces]  # counted from the end of the piece
        places = zip(pieces.tolist(), rows.tolist(), strict=True)
        taken = [(tokens[row], labels[row]) for (tokens, labels), row in ((self._pieces[p], row) for p, row in places)]
        tokens, labels = zip(*taken, strict=True)
        return {"tokens": torch.from_numpy(np.stack(tokens)).long(), "labels": torch.from_numpy(np.array(labels))}


class _Shards:
    """The Parquet files of a split, `OPEN_SHARDS` of them mapped at a time."""

    def __init__(self, folder: Path, about: dict[str, Any], split: str):
        self._folder, self._shards, self.num_tokens = folder, about["shards"][split], about["num_tokens"]
        self.sizes = [shard["rows"] for shard in self._shards]
        self._open: OrderedDict[int, Arrays] = OrderedDict()

    def __getitem__(self, piece: int) -> Arrays:
        if piece not in self._open:
            while len(self._open) >= OPEN_SHARDS:
                self._open.popitem(last=False)
            self._open[piece] = map_shard(self._folder, self._shards[piece], self.num_tokens)
        self._open.move_to_end(piece)
        return self._open[piece]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # a worker process opens its own


class _ArrowPieces:
    """A split as it was kept before there were shards: a data set on disk of Hugging Face's datasets."""

    def __init__(self, folder: Path):
        from datasets import Dataset

        table = Dataset.load_from_disk(str(folder))
        self.num_tokens = len(table[0]["tokens"])
        # Arrow keeps a column in pieces; each is an array over the file.
        tokens = [piece.flatten().to_numpy().reshape(-1, self.num_tokens) for piece in table.data["tokens"].chunks]
        self._arrays = list(zip(tokens, (piece.to_numpy() for piece in table.data["label"].chunks), strict=True))
        self.sizes = [len(labels) for _, labels in self._arrays]

    def __getitem__(self, piece: int) -> Arrays:
        return self._arrays[piece]
