"""Training and evaluation images as uint8 tensors: `load_splits`."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ..errors import InputError
from ..image_size import size_in_json
from ..progress import progress_bar
from .bad_images import BadImageReport, refusal, shown
from .config import DataConfig
from .decoding import RESIZE, BadImage, crop_in_words, sized_pixels
from .records import Records
from .shards import ShardRecords
from .sources import find_source, split_off

IN_MEMORY_BYTES = 2 * 2**30  # a split that takes more as uint8 is decoded each time it is read


MAX_UNREADABLE = 20  # images in a row that vanish while training: more than a few lost files


class ImageDataset(torch.utils.data.Dataset):
    """Images of one split, all of one size: in memory if they fit `in_memory_bytes`, else decoded whenever read.

    A bad image stops the construction, or is left out with `skip_bad_images`. Of a split that does not fit in memory
    only `skip_bad_images` looks at each image beforehand; without it the read of a bad one stops. So does the read of a
    file that has vanished or changed since, unless `report_bad_images` has been told where to name it.

    Of a stream (`ShardRecords`) nothing is looked at beforehand but what its index says. With `skip_bad_images` a bad
    image is always replaced by the next one, so that what is read stays a function of the shards.

    Attributes:
        class_names: what the labels mean; () without classes.
        shard_sizes: how many images each shard of a stream has, which are one after the other; else their number.
        fingerprint: sha256 hex of the images' bytes as stored, labels, class names, crop and resize, in order; of a
            stream, of the shards' digests instead of the bytes.
        description: what the images are, JSON-able, to be written beside every score.
        bad_images: the images left out, by name, with the reason.

    Raises:
        InputError: for a bad image that is not to be skipped, and if no image is left, of the split or of a class.
    """

    def __init__(
        self,
        records: Records | ShardRecords,
        class_names: tuple[str, ...],
        config: DataConfig,
        split: str,
        in_memory_bytes: int | None = None,
    ):
        self._config = config
        self._pixels: Tensor | None = None
        self._report: BadImageReport | None = None
        self.bad_images = dict(records.bad)
        _check_bad(records, config)
        limit = IN_MEMORY_BYTES if in_memory_bytes is None else in_memory_bytes
        fits = len(records) * math.prod(config.shape) <= limit
        if isinstance(records, Records) and (fits or config.skip_bad_images):
            pixels, good, bad = _decode_all(records, config, split, keep=fits)
            self.bad_images |= bad
            lost = np.setdiff1d(records.labels, records.labels[good])
            if len(lost) and len(good):
                raise InputError(f"every {split} image of class {class_names[lost[0]]!r} is bad; repair or remove it")
            records = records.select(good)
            self._pixels = pixels if fits else None
        _check_some(records, config, split, self.bad_images)
        self.class_names = class_names
        self._records = None if self._pixels is not None else records
        self._labels = torch.from_numpy(records.labels) if isinstance(records, Records) else None
        self._count = len(records)
        self.shard_sizes: list[int] = (
            records.images.sizes.tolist() if isinstance(records, ShardRecords) else [len(records)]
        )
        self.fingerprint = _fingerprint(records, class_names, config)
        self.description: dict[str, Any] = {
            "source": config.source,
            "split": split,
            "origin": records.origin,
            "count": len(records),
            "bad_images": len(self.bad_images),
            "classes": len(class_names),
            "channels": config.shape[0],
            "image_size": size_in_json(config.size),
            "crop": crop_in_words(config.size),
            "resize": RESIZE,
            "fingerprint": self.fingerprint,
        }

    def __len__(self) -> int:
        return self._count

    @property
    def labels(self) -> Tensor:
        """(N,) int64, zeros without classes; those of a stream come with its images alone."""
        assert self._labels is not None, "the labels of a stream are not in memory"
        return self._labels

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One image (C, H, W) and its label ()."""
        return {name: values[0] for name, values in self.take([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """`take`, as `DataLoader` calls it; give it `collate_fn=dict`."""
        return self.take(indices)

    def take(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """The images of these indices as a batch: "images" uint8 (B, C, H, W) and "labels" int64 (B,).

        Raises:
            IndexError: for one outside [-N, N).
            InputError: for a bad image of a split that does not fit in memory; with `replace_unreadable` only for
                `MAX_UNREADABLE` in a row, as when a disk is gone.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        if self._pixels is not None:
            return {"images": self._pixels[chosen], "labels": self.labels[chosen]}
        if outside := [index for index in chosen.tolist() if not -len(self) <= index < len(self)]:
            raise IndexError(f"index {outside[0]} is out of range for {len(self)} images")
        read = [self._readable(index) for index in chosen.tolist()]
        images = np.array([image for image, _ in read], np.uint8).reshape(-1, *self._config.shape)
        return {"images": torch.from_numpy(images), "labels": torch.tensor([label for _, label in read]).long()}

    def _readable(self, index: int) -> tuple[npt.NDArray[np.uint8], int]:
        """An image of a split that does not fit in memory, and its label; if it cannot be read and may be replaced, the
        next one that can."""
        assert self._records is not None
        reasons: dict[str, str] = {}
        for candidate in range(index, index + MAX_UNREADABLE):
            found = _decode(self._records, candidate % len(self), self._config)
            if not isinstance(found, str):
                if self._report:
                    self._report.warn(reasons)
                return found
            name = self._records.name(candidate % len(self))
            if self._report is None and not (self.streamed and self._config.skip_bad_images):
                raise refusal(name, found)
            reasons[name] = found
        name, reason = next(iter(reasons.items()))
        raise InputError(f"{shown(name)} and the {MAX_UNREADABLE - 1} images after it cannot be used: {reason}")

    def replace_unreadable(self, report: BadImageReport) -> None:
        """From here on an image that can no longer be read is named in the report, and the next one read instead."""
        self._report = report

    @property
    def streamed(self) -> bool:
        """Whether nothing of each image is in memory."""
        return self._labels is None

    @property
    def num_workers(self) -> int:
        """Processes that decode images when they are read; 0 if they are in memory."""
        return self._config.num_workers if self._pixels is None else 0

    def batches(self, batch_size: int, indices: Sequence[int] | None = None) -> Iterator[dict[str, Tensor]]:
        """All images once, or those of `indices`, in order, read by `num_workers`; the last batch may be smaller."""
        yield from DataLoader(
            self if indices is None else Subset(self, indices),
            batch_size,
            collate_fn=dict,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # leaves the global one
        )


def load_splits(config: DataConfig) -> tuple[ImageDataset, ImageDataset]:
    """The training and the evaluation images.

    The evaluation split is the source's own, if it has one; its description then counts the images `also_in_train`.
    Else it is `evaluation_fraction` of the images, chosen by the hash of their bytes: the same images however they are
    named or ordered, and never a copy of a training image. Of a stream it is that share of the shards, whole. With a
    `validation_fraction` that share of the training images, chosen likewise, takes the place of the evaluation images.

    Raises:
        InputError: for a source that cannot be found or read, bad images, and a split without images.
    """
    source = find_source(config.source, config.root, config.image_column, config.label_column, config.streaming)
    train, evaluation = source.train, source.evaluation
    _check_bad(train, config)
    _check_some(train, config, "train", train.bad)
    if evaluation is None:
        train, evaluation = split_off(train, config.source, "evaluation_fraction", config.evaluation_fraction)
    if config.validation_fraction:
        train, evaluation = split_off(train, config.source, "validation_fraction", config.validation_fraction)
    splits = (
        ImageDataset(train, source.class_names, config, "train"),
        ImageDataset(evaluation, source.class_names, config, "evaluation"),
    )
    if isinstance(train, Records) and isinstance(evaluation, Records):
        seen = {digest.tobytes() for digest in train.digests}
        splits[1].description["also_in_train"] = sum(digest.tobytes() in seen for digest in evaluation.digests)
    return splits


def report_bad_images(folder: str | Path, train: ImageDataset, evaluation: ImageDataset, writes: bool = True) -> None:
    """Name the images that were left out in the `bad_images.jsonl` of a run's folder, and those that vanish later.

    With `skip_bad_images` a training image that can no longer be read, or is another one than at the start, does not
    end a run of days: it is named, and the next image takes its place with its own label. An evaluation image that
    vanishes always stops the run, since scores of other images would not be comparable; so does any without
    `skip_bad_images`. The bad images of a stream, of which the images are not looked at beforehand, are named in both
    splits when they are met; a shard that vanishes stops the run.

    Args:
        folder: of the run.
        train, evaluation: what `load_splits` returned. Call it before anything iterates over them, in every process.
        writes: whether this process writes down what was left out at the start; one of them does.
    """
    for split in (train, evaluation):
        report = BadImageReport(folder, split.description["split"])
        if writes:
            report.add(split.bad_images)
        if split._config.skip_bad_images and (split is train or split.streamed):  # noqa: SLF001 (a class of this module)
            split.replace_unreadable(report)


class _Decoding(torch.utils.data.Dataset):
    """What each record decodes to: a data set, so that `DataLoader` workers share the work."""

    def __init__(self, records: Records, config: DataConfig):
        self.records, self.config = records, config

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint8], int] | str:
        return _decode(self.records, index, self.config)


def _decode(records: Records | ShardRecords, index: int, config: DataConfig) -> tuple[npt.NDArray[np.uint8], int] | str:
    """Pixels (C, H, W) and label, or the reason why the image is bad."""
    try:
        return sized_pixels(records.content(index), config.size, config.shape[0]), records.label(index)
    except BadImage as error:
        return str(error)


def _decode_all(
    records: Records, config: DataConfig, split: str, keep: bool
) -> tuple[Tensor, npt.NDArray[np.int64], dict[str, str]]:
    """(pixels of the good images if they are to be kept, their positions, the bad ones by name with the reason)."""
    pixels = np.empty((len(records) if keep else 0, *config.shape), np.uint8)
    good: list[int] = []
    bad: dict[str, str] = {}
    loader = DataLoader(
        _Decoding(records, config), 256, collate_fn=list, num_workers=config.num_workers, generator=torch.Generator()
    )
    progress = progress_bar(
        total=len(records), desc=f"decoding {split}", unit="image", delay=1, leave=False, disable=None
    )
    with progress:
        for decoded in itertools.chain.from_iterable(loader):
            index = len(good) + len(bad)
            progress.update()
            if not isinstance(decoded, str):
                if keep:
                    pixels[len(good)] = decoded[0]
                good.append(index)
            elif config.skip_bad_images:
                bad[records.name(index)] = decoded
            else:
                raise refusal(records.name(index), decoded)
    return torch.from_numpy(pixels[: len(good)]), np.array(good, np.int64), bad


def _check_bad(records: Records | ShardRecords, config: DataConfig) -> None:
    """Raises: InputError: for what is known to be bad already, if it is not to be left out."""
    if records.bad and not config.skip_bad_images:
        raise refusal(*next(iter(records.bad.items())))


def _check_some(records: Records | ShardRecords, config: DataConfig, split: str, bad: Mapping[str, str]) -> None:
    """Raises: InputError: for a split without images, with the first reasons why they were left out."""
    if not len(records):
        reasons = "; ".join(f"{shown(name)}: {reason}" for name, reason in itertools.islice(bad.items(), 2))
        raise InputError(
            f"the {split} split ({records.origin}) of {config.source!r} has no images; it needs at least one"
            + (f"; {len(bad)} left out: {reasons}" if bad else "")
        )


def _fingerprint(records: Records | ShardRecords, class_names: tuple[str, ...], config: DataConfig) -> str:
    transform = [crop_in_words(config.size), RESIZE, config.size, config.shape[0]]
    sums = hashlib.sha256(json.dumps([transform, class_names]).encode())
    for part in records.identity():
        sums.update(part)
    return sums.hexdigest()
