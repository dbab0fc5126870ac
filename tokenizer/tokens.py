"""Token sequences of a data set, memory-mapped from the token cache."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from .storage.untrusted import read_json

CHUNK_IMAGES = 50_000  # encoded and written at once: what a process that is killed has made in vain


class TokenDataset(torch.utils.data.Dataset):
    """Token sequences and class labels, memory-mapped: what is read of them is in memory, and nothing else of an image.

    Attributes:
        num_tokens: T of an image.
        num_codes: codes of the tokenizer, K or M * K.
        codes_per_position: M of the tokenizer, 1 with a single codebook.
        class_names: () without classes.
        tokenizer_fingerprint: of the tokenizer that made the tokens.
        inputs: hashes of that tokenizer and of the images, by what they are.
    """

    def __init__(self, folder: Path, split: str):
        table = Dataset.load_from_disk(str(folder / split))
        self.num_tokens = len(table[0]["tokens"])
        # Arrow keeps a column in pieces; each is an array over the file.
        self._tokens = [piece.flatten().to_numpy() for piece in table.data["tokens"].chunks]
        self._labels = [piece.to_numpy() for piece in table.data["label"].chunks]
        self._ends = np.cumsum([len(piece) for piece in self._labels])
        about = read_json(folder / "tokens.json")
        self.num_codes: int = about["num_codes"]
        self.codes_per_position: int = about.get("codes_per_position", 1)
        self.class_names: tuple[str, ...] = tuple(about["class_names"])
        self.tokenizer_fingerprint: str = about["tokenizer_fingerprint"]
        images: dict[str, str] = about.get("images", {})
        self.inputs = {"tokenizer": self.tokenizer_fingerprint}
        self.inputs |= {f"{split} images": fingerprint for split, fingerprint in images.items()}

    @property
    def shard_sizes(self) -> list[int]:
        """Images in each of the pieces that are shuffled among each other, for `ShuffledBatches`."""
        return [min(CHUNK_IMAGES, len(self) - first) for first in range(0, len(self), CHUNK_IMAGES)]

    @property
    def tokens(self) -> Tensor:
        """(N, T) int64 tokens in raster order, of all images."""
        return torch.from_numpy(np.concatenate(self._tokens)).view(-1, self.num_tokens).long()

    @property
    def labels(self) -> Tensor:
        """(N,) int64, zeros without classes."""
        return torch.from_numpy(np.concatenate(self._labels))

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
        places = list(zip(pieces.tolist(), rows.tolist(), strict=True))
        tokens = np.stack([self._tokens[piece].reshape(-1, self.num_tokens)[row] for piece, row in places])
        labels = np.array([self._labels[piece][row] for piece, row in places])
        return {"tokens": torch.from_numpy(tokens).long(), "labels": torch.from_numpy(labels)}
