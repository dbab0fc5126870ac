"""`wvq tokenize`: a data set as tokens, kept as Arrow on disk under a key of all that could change them."""

import dataclasses
import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, List, Value, concatenate_datasets
from torch import Tensor

from wvq.pipelines.processes import this_process
from wvq.pipelines.tokenize_images import encode_images
from wvq.tokenizer import tokens as token_sets
from wvq.tokenizer.data.bad_images import FILE_NAME
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import ImageDataset, load_splits, report_bad_images
from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.errors import check_range
from wvq.tokenizer.model import VQTokenizer
from wvq.tokenizer.progress import progress_bar
from wvq.tokenizer.storage.atomic import remove_unfinished, write_json, written_whole
from wvq.tokenizer.storage.lock import Lock
from wvq.tokenizer.storage.untrusted import expand_home

LARGER = 1.1  # than a crop is the image it is taken from, as in LlamaGen (arXiv 2406.06525)


_FORMAT = 1  # in the key: raise it when what is written changes


@dataclass(frozen=True)
class Tokenization:
    """Encoding of a data set with a trained tokenizer."""

    tokenizer: str = "runs/tokenizer/model"
    """Folder or hub repository of the tokenizer."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images; with horizontal_flip each training image is encoded mirrored as well."""
    output_dir: str = "runs/tokens"
    """Folder of the token cache; each data set lies in a folder of its own, named by its key."""
    crops: int = 0
    """Crops of each training image that are encoded beside it, at drawn places of the image made a tenth larger."""
    batch_size: int = 256
    """Images read at once."""

    def __post_init__(self) -> None:
        expand_home(self, "tokenizer", "output_dir")
        check_range(self, "batch_size", least=1)
        check_range(self, "crops", least=0)


def tokenize(config: Tokenization) -> Path:
    """Encode both splits, unless that has been done; returns the folder with train/, evaluation/ and tokens.json.

    The key is a hash of the tokenizer's weights and configuration, of the images and their crop and resize, and of
    flips and drawn crops, so that tokens of a changed tokenizer or data set are never mixed with old ones. The images
    are encoded in chunks, which the processes share and a later call need not make again. A collective call.

    Raises:
        InputError: if the tokenizer or the images cannot be read.
    """
    # No second Accelerator: it would undo the gradient accumulation of the training loop's.
    processes = this_process()
    tokenizer = VQTokenizer.from_pretrained(config.tokenizer).to(processes.device)
    data = config.data.sized(tokenizer.config)
    train, evaluation = load_splits(data)
    identity = {
        "format": _FORMAT,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "images": {"train": train.fingerprint, "evaluation": evaluation.fingerprint},
        "horizontal_flip": config.data.horizontal_flip,
        "crops": config.crops,
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(config.output_dir) / key
    flips = (False, True) if config.data.horizontal_flip else (False,)
    chunks = [*_chunks(folder, train, flips), *_chunks(folder, evaluation, flips=(False,))]
    if config.crops:
        larger = dataclasses.replace(data, image_size=math.ceil(LARGER * tokenizer.config.image_size))
        chunks += _chunks(folder, load_splits(larger)[0], flips, range(1, config.crops + 1))
    locks: list[Lock] = []

    def claim() -> bool:
        locks.append(Lock(folder.with_name(f".{key}.lock"), wait=True))  # of two runs that need the same one makes them
        remove_unfinished(folder.parent, f"{key}-*")
        remove_unfinished(_unfinished(folder))
        done = (folder / "tokens.json").exists()
        if done:
            shutil.rmtree(_unfinished(folder), ignore_errors=True)  # a killed process had no time to
        return done

    def join() -> None:
        with written_whole(folder) as partial:
            for split in ("train", "evaluation"):
                own = [Dataset.load_from_disk(str(chunk.path)) for chunk in chunks if chunk.split == split]
                concatenate_datasets(own).save_to_disk(str(partial / split))
            if (report := _unfinished(folder) / FILE_NAME).exists():
                shutil.copy(report, partial)
            about = {
                "num_codes": tokenizer.config.num_codes,
                "codes_per_position": tokenizer.config.codes_per_position,
                "grid_size": tokenizer.config.grid_size,
                "class_names": list(train.class_names),
            }
            write_json(partial / "tokens.json", about | identity)
        shutil.rmtree(_unfinished(folder))

    try:
        if not on_first_process(claim):
            if config.data.streaming:  # only now its bad images are met
                report_bad_images(_unfinished(folder), train, evaluation, writes=False)
            for chunk in chunks[processes.process_index :: processes.num_processes]:
                if not chunk.path.exists():
                    with written_whole(chunk.path) as partial:
                        _encode(tokenizer, chunk, config.batch_size).save_to_disk(str(partial))
            processes.wait_for_everyone()
            on_first_process(join)
    finally:
        for lock in locks:
            lock.release()
    report_bad_images(folder, train, evaluation, processes.is_main_process)
    return folder


@dataclass(frozen=True)
class _Chunk:
    """Images that are encoded and written at once: mirrored or not, whole (crop 0) or the crop of that number."""

    path: Path
    images: ImageDataset
    split: str
    indices: range
    flip: bool
    crop: int


def _unfinished(folder: Path) -> Path:
    """Where the chunks of a token cache are until they are all there."""
    return folder.with_name(f"{folder.name}.parts")


def _chunks(
    folder: Path, images: ImageDataset, flips: tuple[bool, ...], crops: Iterable[int] = (0,)
) -> Iterator[_Chunk]:
    """Chunks of a split in order: all of its images, then in each other way all of them again."""
    split = images.description["split"]
    for crop, flip in itertools.product(crops, flips):
        for first in range(0, len(images), token_sets.CHUNK_IMAGES):
            indices = range(first, min(first + token_sets.CHUNK_IMAGES, len(images)))
            yield _Chunk(_unfinished(folder) / f"{split}-{crop}-{flip:d}-{first}", images, split, indices, flip, crop)


def _encode(tokenizer: VQTokenizer, chunk: _Chunk, batch_size: int) -> Dataset:
    tokens, labels = [], []
    size = tokenizer.config.image_size
    # The same places whatever the batches: two numbers an image, drawn from the number of the crop and of the chunk.
    draws = np.random.default_rng([chunk.crop, chunk.flip, chunk.indices.start]).random((len(chunk.indices), 2))
    places = iter(draws)
    batches = chunk.images.batches(batch_size, chunk.indices)
    shown = {"desc": chunk.path.name, "unit": "batch", "disable": not this_process().is_main_process}
    for batch in progress_bar(batches, total=-(-len(chunk.indices) // batch_size), **shown):
        images = batch["images"]
        if chunk.crop:
            images = torch.stack([_cropped(image, size, *next(places)) for image in images])
        tokens.append(encode_images(tokenizer, images.flip(-1) if chunk.flip else images))
        labels.append(batch["labels"])
    length = tokenizer.config.num_tokens
    features = Features({"tokens": List(Value("int32"), length=length), "label": Value("int64")})
    columns = {"tokens": torch.cat(tokens).numpy(), "label": torch.cat(labels).numpy()}
    return Dataset.from_dict(columns, features=features)


def _cropped(image: Tensor, size: int, down: float, right: float) -> Tensor:
    """(C, size, size) of an image (C, H, W), as far down and to the right as these shares of what it leaves."""
    top, left = (int(share * (side - size + 1)) for share, side in zip((down, right), image.shape[1:], strict=True))
    return image[:, top : top + size, left : left + size]
