"""Splits read from shards: their configuration, and all that they hold."""

from collections import Counter
from pathlib import Path
from typing import Any

from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import ImageDataset

KINDS = ("tar", "parquet")


def config_of(source: Path | str, **changes: Any) -> DataConfig:
    return DataConfig(**{"source": str(source), "channels": 1, "streaming": True, **changes})


def everything(split: ImageDataset) -> Counter[tuple[bytes, int]]:
    """Each image with its label, and how often it came."""
    batch = split.__getitems__(range(len(split)))
    return Counter((i.numpy().tobytes(), int(k)) for i, k in zip(batch["images"], batch["labels"], strict=True))
