"""A data set as tokens: encoded once, kept as Arrow on disk under a key of all that could change them."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset, Features, List, Value, load_from_disk
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from .collective import on_first_process, this_process
from .data import DataConfig, ImageDataset, load_splits, report_bad_images, to_model
from .errors import InputError
from .lock import Lock
from .model import VQTokenizer
from .saving import read_json, remove_unfinished, write_json, written_whole

_FORMAT = 1  # part of the key: raise it when what is written changes


@dataclass(frozen=True)
class Tokenization:
    """Encoding of a data set with a trained tokenizer."""

    tokenizer: str = "runs/tokenizer/model"
    """Folder or hub repository of the tokenizer."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images; with horizontal_flip each training image is encoded mirrored as well."""
    output_dir: str = "runs/tokens"
    """Folder of the token cache; each data set lies in a folder of its own, named by its key."""
    batch_size: int = 256
    """Images encoded at once."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}; it must be at least 1")


class TokenDataset(torch.utils.data.Dataset):
    """Token sequences and class labels, in memory.

    Attributes:
        tokens: (N, T) int64 codes in raster order.
        labels: (N,) int64, zeros without classes.
        num_codes: K of the tokenizer.
        class_names: () without classes.
        tokenizer_fingerprint: of the tokenizer that made the tokens.
    """

    def __init__(self, folder: Path, split: str):
        table = load_from_disk(str(folder / split))
        assert isinstance(table, Dataset)
        columns = table.with_format("torch")[:]
        self.tokens: Tensor = columns["tokens"].long()
        self.labels: Tensor = columns["label"].long()
        about = read_json(folder / "tokens.json")
        self.num_codes: int = about["num_codes"]
        self.class_names: tuple[str, ...] = tuple(about["class_names"])
        self.tokenizer_fingerprint: str = about["tokenizer_fingerprint"]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"tokens": self.tokens[index], "labels": self.labels[index]}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        chosen = torch.as_tensor(indices)
        return {"tokens": self.tokens[chosen], "labels": self.labels[chosen]}


def tokenize(config: Tokenization) -> Path:
    """Encode both splits, unless that has been done; returns the folder with train/, evaluation/ and tokens.json.

    The key is a hash of the tokenizer's weights and configuration, of the images and their crop and resize, and of the
    flips, so that tokens of a changed tokenizer or data set are never mixed with old ones.

    Raises:
        InputError: if the tokenizer or the images cannot be read.
    """
    # No second Accelerator: it would undo the gradient accumulation of the training loop's.
    processes = this_process()
    tokenizer = VQTokenizer.from_pretrained(config.tokenizer).to(processes.device)
    splits = dict(zip(("train", "evaluation"), load_splits(config.data), strict=True))
    identity = {
        "format": _FORMAT,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "images": {name: split.fingerprint for name, split in splits.items()},
        "horizontal_flip": config.data.horizontal_flip,
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(config.output_dir) / key

    def write(partial: Path) -> None:
        for name, split in splits.items():
            flips = (False, True) if config.data.horizontal_flip and name == "train" else (False,)
            _encode(tokenizer, split, flips, config.batch_size).save_to_disk(str(partial / name))
        about = {
            "num_codes": tokenizer.config.codebook_size,
            "grid_size": tokenizer.config.grid_size,
            "class_names": list(splits["train"].class_names),
        }
        write_json(partial / "tokens.json", about | identity)

    def write_once() -> None:
        with Lock(folder.with_name(f".{key}.lock"), wait=True):  # of two runs that need the same tokens one makes them
            remove_unfinished(folder.parent, f"{key}-*")
            if not (folder / "tokens.json").exists():
                with written_whole(folder) as partial:
                    write(partial)

    on_first_process(write_once)
    report_bad_images(folder, splits["train"], splits["evaluation"], processes.is_main_process)
    return folder


def _encode(tokenizer: VQTokenizer, images: ImageDataset, flips: tuple[bool, ...], batch_size: int) -> Dataset:
    device = tokenizer.quantizer.codebook.device
    tokens, labels = [], []
    for flip in flips:
        for batch in tqdm(images.batches(batch_size), total=-(-len(images) // batch_size), desc="tokens", unit="batch"):
            pictures = to_model(batch["images"].to(device))
            indices = tokenizer.encode(pictures.flip(-1) if flip else pictures)
            tokens.append(rearrange(indices, "b h w -> b (h w)").to("cpu", torch.int32))
            labels.append(batch["labels"])
    length = tokenizer.config.grid_size**2
    features = Features({"tokens": List(Value("int32"), length=length), "label": Value("int64")})
    columns = {"tokens": torch.cat(tokens).numpy(), "label": torch.cat(labels).numpy()}
    return Dataset.from_dict(columns, features=features)
