"""`wvq tokenize`: a data set as tokens, kept as shards on disk under a key of all that could change them.

Any number of workers share the work by leases, the processes of `accelerate launch` or commands that were started by
hand, and none of them waits for another before all is done. What has come out so far lies in a hidden folder beside the
shards, which the last of them removes:

    .KEY.work/plan.json         how the work is cut into parts, one for each shard
    .KEY.work/leases/           who is at which part
    .KEY.work/batches/PART/     a folder for each worker that was at a part: batches it encoded, bad images it met
    .KEY.work/done/PART.json    what the index says of a shard that is there, and its bad images
"""

import dataclasses
import hashlib
import itertools
import json
import math
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save
from torch import Tensor

from wvq.pipelines.processes import this_process
from wvq.pipelines.tokenize_images import encode_images
from wvq.tokenizer import tokens as token_sets
from wvq.tokenizer.data.bad_images import FILE_NAME, BadImageReport, read_bad_images
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import ImageDataset, load_splits, report_bad_images
from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.errors import InputError, check_range
from wvq.tokenizer.image_size import ImageSize, height_and_width, image_size, size_in_json
from wvq.tokenizer.model import VQTokenizer
from wvq.tokenizer.progress import progress_bar
from wvq.tokenizer.storage.atomic import synchronize, write_once
from wvq.tokenizer.storage.journal import append_record, read_records
from wvq.tokenizer.storage.leases import GONE, work_through
from wvq.tokenizer.storage.untrusted import expand_home
from wvq.tokenizer.token_shards import MOST_BYTES, MOST_ROWS, describe_shard, shard_content

LARGER = 1.1  # than a crop is the image it is taken from, as in LlamaGen (arXiv 2406.06525)

_FORMAT = 1  # in the key: raise it when other tokens are made of the same images

Batch = tuple[np.ndarray, np.ndarray]  # tokens (B, T) int32 and labels (B,) int64


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
    """Images encoded at once, and what a worker that is killed has encoded in vain at most."""
    shard_size: int = 10_000
    """Images of a shard, which one worker at a time makes; the same in all workers."""

    def __post_init__(self) -> None:
        expand_home(self, "tokenizer", "output_dir")
        check_range(self, "batch_size", least=1)
        check_range(self, "crops", least=0)
        check_range(self, "shard_size", least=1, most=MOST_ROWS)


def tokenize(config: Tokenization) -> Path:
    """Encode both splits, unless that has been done; returns the folder with the shards and tokens.json, their index.

    The key is a hash of the tokenizer's weights and configuration, of the images and their crop and resize, and of
    flips and drawn crops, so that tokens of a changed tokenizer or data set are never mixed with old ones. Returns when
    all shards are there, whoever made them. Under `accelerate launch` a collective call.

    Raises:
        InputError: if the tokenizer or the images cannot be read, or others encode them in shards of another size.
    """
    # No second Accelerator: it would undo the gradient accumulation of the training loop's.
    processes = this_process()
    tokenizer = VQTokenizer.from_pretrained(config.tokenizer).to(processes.device)
    if config.shard_size * tokenizer.config.num_tokens * 4 > MOST_BYTES:
        raise InputError(
            f"shard_size is {config.shard_size}; of {tokenizer.config.num_tokens} tokens an image it may be "
            f"{MOST_BYTES // 4 // tokenizer.config.num_tokens} at most"
        )
    data = config.data.sized(tokenizer.config)
    train, evaluation = load_splits(data)
    identity = {
        "format": _FORMAT,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "images": {"train": train.fingerprint, "evaluation": evaluation.fingerprint},
        "horizontal_flip": config.data.horizontal_flip,
        "crops": config.crops,
    }
    folder = Path(config.output_dir) / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    work = _Work(folder, tokenizer, config.batch_size, data.streaming and data.skip_bad_images)
    if not on_first_process(work.index.exists):  # the same answer for all: reading images is collective
        views = [(train, False, 0), (train, True, 0)][: 1 + config.data.horizontal_flip]
        if config.crops:
            larger = dataclasses.replace(data, image_size=_larger(tokenizer.config.image_size))
            images, crops = load_splits(larger)[0], range(1, config.crops + 1)
            views += [(images, flip, crop) for crop, (_, flip, _) in itertools.product(crops, views)]
        parts = [*_parts(views, config.shard_size), *_parts([(evaluation, False, 0)], config.shard_size)]
        about = {
            "num_codes": tokenizer.config.num_codes,
            "num_tokens": tokenizer.config.num_tokens,
            "codes_per_position": tokenizer.config.codes_per_position,
            "grid_size": size_in_json(tokenizer.config.grid_size),
            "scales": list(tokenizer.config.scales),
            "class_names": list(train.class_names),
            "token_fingerprint": tokenizer.token_fingerprint,
        }
        known = [
            {"name": name, "split": images.description["split"], "reason": reason}
            for images in (train, evaluation)
            for name, reason in images.bad_images.items()
        ]
        work.run(parts, config.shard_size, about | identity, known)
    shutil.rmtree(work.place, ignore_errors=True)  # also what a killed worker had no time to remove
    processes.wait_for_everyone()
    report_bad_images(folder, train, evaluation, processes.is_main_process)
    return folder


@dataclass(frozen=True)
class _Part:
    """Images that become a shard: mirrored or not, whole (crop 0) or the crop of that number."""

    name: str
    images: ImageDataset
    flip: bool
    crop: int
    indices: range

    @property
    def split(self) -> str:
        return self.images.description["split"]

    def places(self) -> np.ndarray:
        """(N, 2) in [0, 1): where each image is cropped. Drawn for `CHUNK_IMAGES` at a time, whatever the shards."""
        first, chunk = self.indices.start, token_sets.CHUNK_IMAGES
        starts = range(first // chunk * chunk, self.indices.stop, chunk)
        draws = [np.random.default_rng([self.crop, self.flip, start]).random((chunk, 2)) for start in starts]
        return np.concatenate(draws)[first - starts.start :][: len(self.indices)]


def _parts(views: Sequence[tuple[ImageDataset, bool, int]], size: int) -> Iterator[_Part]:
    """Parts of a split in order: all of its images, then in each other way all of them again."""
    cut = [
        (*view, range(first, min(first + size, len(view[0]))))
        for view in views
        for first in range(0, len(view[0]), size)
    ]
    for number, part in enumerate(cut):
        # The names by which `datasets.load_dataset` finds splits.
        yield _Part(f"{part[0].description['split']}-{number:05d}-of-{len(cut):05d}", *part)


class _Work:
    """The encoding of one data set, by this worker and others."""

    def __init__(self, folder: Path, tokenizer: VQTokenizer, batch_size: int, meets_bad_images: bool):
        self.folder, self.tokenizer, self.batch_size = folder, tokenizer, batch_size
        self.meets_bad_images = meets_bad_images
        self.index, self.place = folder / "tokens.json", folder.with_name(f".{folder.name}.work")

    def run(self, parts: Sequence[_Part], size: int, about: dict[str, Any], known: Sequence[dict[str, str]]) -> None:
        """Make the shards, then their index, unless others do."""
        by_name = {part.name: part for part in parts}
        try:
            for folder in (self.folder, self.place, self.place / "done"):
                folder.mkdir(parents=True, exist_ok=True)
            self._agree(size)
            leases = self.place / "leases"
            work_through(leases, by_name, self._done, lambda name, held: self._make(by_name[name], held))
            work_through(
                leases, ["index"], lambda _: self.index.exists(), lambda *_: self._write_index(parts, about, known)
            )
        except GONE:
            if not self.index.exists():  # others have finished, and cleaned up
                raise

    def _agree(self, size: int) -> None:
        plan = self.place / "plan.json"
        write_once(plan, json.dumps({"shard_size": size}).encode(), self.place)
        if (other := json.loads(plan.read_bytes())["shard_size"]) != size:
            raise InputError(
                f"shard_size is {size}, but {self.folder} is being encoded in shards of {other}; "
                f"give that, or remove {self.place} and {self.folder}"
            )

    def _note(self, name: str) -> Path:
        return self.place / "done" / f"{name}.json"

    def _done(self, name: str) -> bool:
        return self._note(name).exists() or self.index.exists()

    def _make(self, part: _Part, held: Callable[[], bool]) -> None:
        """Write a shard, then the note that it is there; a worker that has lost the part leaves both to others."""
        shard, batches = self.folder / f"{part.name}.parquet", self.place / "batches" / part.name
        if not shard.exists():
            made = self._encode(part, batches, held)
            if made is None:
                return
            tokens, labels = (np.concatenate(column) for column in zip(*made, strict=True))
            write_once(shard, shard_content(tokens, labels), self.place)
        bad = {row["name"]: row for folder in batches.glob("*") for row in read_bad_images(folder)}
        note = {"shard": describe_shard(shard), "bad_images": [row for _, row in sorted(bad.items())]}
        write_once(self._note(part.name), json.dumps(note).encode(), self.place)
        shutil.rmtree(batches, ignore_errors=True)

    def _encode(self, part: _Part, folder: Path, held: Callable[[], bool]) -> list[Batch] | None:
        """All batches of a part, after those that others have encoded already; None if the part is lost."""
        made = _encoded_batches(folder)
        count = sum(len(labels) for _, labels in made)
        own = folder / f"{count:09d}-{secrets.token_hex(8)}"
        own.mkdir(parents=True)
        if self.meets_bad_images:
            part.images.replace_unreadable(BadImageReport(own, part.split))
        places = iter(part.places()[count:]) if part.crop else itertools.repeat(None)
        batches = part.images.batches(self.batch_size, part.indices[count:])
        total = -(-(len(part.indices) - count) // self.batch_size)
        shown = {"desc": part.name, "unit": "batch", "disable": not this_process().is_main_process}
        with (own / "journal").open("ab") as journal:
            for batch in progress_bar(batches, total=total, **shown):
                pictures = batch["images"]
                if part.crop:
                    size = height_and_width(self.tokenizer.config.image_size)
                    pictures = torch.stack([_cropped(picture, size, *next(places)) for picture in pictures])
                tokens = encode_images(self.tokenizer, pictures.flip(-1) if part.flip else pictures)
                made.append((tokens.numpy(), batch["labels"].numpy()))
                append_record(journal, save({"tokens": made[-1][0], "labels": made[-1][1]}))
                if not held():
                    return None
        return made

    def _write_index(self, parts: Sequence[_Part], about: dict[str, Any], known: Sequence[dict[str, str]]) -> None:
        """Write bad_images.jsonl, if there are any, and tokens.json."""
        notes = [(part, json.loads(self._note(part.name).read_bytes())) for part in parts]
        bad: dict[str, dict[str, str]] = {}
        for row in itertools.chain(known, *(note["bad_images"] for _, note in notes)):
            bad.setdefault(row["name"], row)
        if bad:
            lines = "".join(json.dumps(row) + "\n" for row in bad.values())
            write_once(self.folder / FILE_NAME, lines.encode(), self.place)
        shards = {
            split: [note["shard"] for part, note in notes if part.split == split] for split in ("train", "evaluation")
        }
        synchronize(self.folder)
        write_once(self.index, (json.dumps(about | {"shards": shards}, indent=2) + "\n").encode(), self.place)


def _encoded_batches(folder: Path) -> list[Batch]:
    """The batches of a part that were encoded already, from its first image on without a gap.

    Each worker that was at it went on where those before had come to: its folder's name begins with that number.
    """
    made: list[Batch] = []
    count = 0
    for journal in sorted(folder.glob("*/journal")):
        first = int(journal.parent.name.split("-")[0])
        for record in read_records(journal):
            batch = load(record)
            if first == count:
                made.append((batch["tokens"], batch["labels"]))
                count += len(batch["labels"])
            first += len(batch["labels"])
    return made


def _larger(size: ImageSize) -> ImageSize:
    """Of the images that crops of a size are taken from."""
    return image_size([math.ceil(LARGER * side) for side in height_and_width(size)])


def _cropped(image: Tensor, size: tuple[int, int], down: float, right: float) -> Tensor:
    """(C, *size) of an image (C, H, W), as far down and to the right as these shares of what it leaves."""
    height, width = size
    top, left = int(down * (image.shape[1] - height + 1)), int(right * (image.shape[2] - width + 1))
    return image[:, top : top + height, left : left + width]
