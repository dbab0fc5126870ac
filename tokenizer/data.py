"""Training and evaluation images as uint8 tensors: `load_splits`."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from .errors import InputError
from .images import CROP, RESIZE, BadImage, square_pixels
from .records import Records
from .sources import FASHION_MNIST, find_source

IN_MEMORY_BYTES = 2 * 2**30  # a split that takes more as uint8 is decoded each time it is read


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and what is made of them."""

    source: str = FASHION_MNIST
    """fashion-mnist, a folder of images, a .parquet file or a folder of them, or a hub data set owner/name."""
    root: str | None = None
    """Folder with the four idx files of fashion-mnist, gzipped or not; by default it is searched for."""
    image_size: int = 28
    """Height and width after the centre crop and resize."""
    channels: int = 3
    """Colour channels: 1 for grey, 3 for RGB."""
    image_column: str = "image"
    """Column of a table that holds the encoded images."""
    label_column: str = "label"
    """Column of a table that holds the classes; if it is absent there are none."""
    evaluation_fraction: float = 0.1
    """Share held out for evaluation where the source has no evaluation split of its own."""
    horizontal_flip: bool = False
    """Mirror training images at random."""
    skip_bad_images: bool = False
    """Leave out images that cannot be decoded, instead of stopping at the first."""
    num_workers: int = 0
    """Processes that decode images, beside the main one."""

    def __post_init__(self) -> None:
        if self.image_size < 4:
            raise InputError(f"image_size is {self.image_size}; it must be at least 4")
        if self.channels not in (1, 3):
            raise InputError(f"channels is {self.channels}; valid are 1 and 3")
        if not 0 < self.evaluation_fraction < 1:
            raise InputError(
                f"evaluation_fraction is {self.evaluation_fraction}; it must be between 0 and 1, exclusive"
            )
        if self.num_workers < 0:
            raise InputError(f"num_workers is {self.num_workers}; it must be at least 0")
        if self.root is not None and self.source != FASHION_MNIST:
            raise InputError(f"root is {self.root!r}, but only the source {FASHION_MNIST} has one, not {self.source!r}")


class ImageDataset(torch.utils.data.Dataset):
    """Images of one split, all of one size: in memory if they fit `IN_MEMORY_BYTES`, else decoded whenever read.

    A bad image stops the construction, or is left out with `skip_bad_images`. Of a split that does not fit in memory
    only `skip_bad_images` looks at each image beforehand; without it the read of a bad one stops.

    Attributes:
        class_names: what the labels mean; () without classes.
        labels: (N,) int64, zeros without classes.
        fingerprint: sha256 hex of the images' bytes as stored, labels, class names, crop and resize, in order.
        description: what the images are, JSON-able, to be written beside every score.
        bad_images: names of the images left out.

    Raises:
        InputError: for a bad image that is not to be skipped, and if no image is left.
    """

    def __init__(self, records: Records, class_names: tuple[str, ...], config: DataConfig, split: str):
        self._config = config
        self._records, self._pixels = records, None
        self.bad_images: tuple[str, ...] = ()
        fits = len(records) * config.channels * config.image_size**2 <= IN_MEMORY_BYTES
        if fits or config.skip_bad_images:
            pixels, good, self.bad_images = _decode_all(records, config, split, keep=fits)
            records = records.select(good)
            self._records, self._pixels = (None, pixels) if fits else (records, None)
        if not len(records):
            raise InputError(
                f"the {split} split ({records.origin}) of {config.source!r} has no images; it needs at least one"
            )
        self.class_names = class_names
        self.labels = torch.from_numpy(records.labels)
        self.fingerprint = _fingerprint(records, class_names, config)
        self.description: dict[str, Any] = {
            "source": config.source,
            "split": split,
            "origin": records.origin,
            "count": len(records),
            "bad_images": len(self.bad_images),
            "classes": len(class_names),
            "channels": config.channels,
            "image_size": config.image_size,
            "crop": CROP,
            "resize": RESIZE,
            "fingerprint": self.fingerprint,
        }

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One image (C, H, W) and its label ()."""
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A whole batch, "images" uint8 (B, C, H, W) and "labels" int64 (B,): give `DataLoader` `collate_fn=dict`.

        Raises:
            InputError: for a bad image of a split that does not fit in memory.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        if self._pixels is not None:
            return {"images": self._pixels[chosen], "labels": self.labels[chosen]}
        assert self._records is not None
        images = []
        for index in chosen.tolist():
            pixels = _decode(self._records, index, self._config)
            if isinstance(pixels, str):
                raise _refusal(self._records.name(index), pixels)
            images.append(pixels)
        return {"images": torch.from_numpy(np.stack(images)), "labels": self.labels[chosen]}

    @property
    def num_workers(self) -> int:
        """Processes that decode images when they are read; 0 if they are in memory."""
        return self._config.num_workers if self._pixels is None else 0

    def batches(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """All images once, in order; the last batch may be smaller."""
        yield from DataLoader(
            self,
            batch_size,
            collate_fn=dict,
            num_workers=self.num_workers,
            generator=torch.Generator(),  # leaves the global one
        )


def load_splits(config: DataConfig) -> tuple[ImageDataset, ImageDataset]:
    """The training and the evaluation images.

    The evaluation split is the source's own, if it has one; its description then counts the images `also_in_train`.
    Else it is `evaluation_fraction` of the images, chosen by the hash of their bytes: the same images however they are
    named or ordered, and never a copy of a training image.

    Raises:
        InputError: for a source that cannot be found or read, bad images, and a split without images.
    """
    source = find_source(config.source, config.root, config.image_column, config.label_column)
    train, evaluation = source.train, source.evaluation
    if evaluation is None:
        train, evaluation = train.split(config.evaluation_fraction)
        if not len(train) or not len(evaluation):
            raise InputError(
                f"evaluation_fraction {config.evaluation_fraction} splits the {len(source.train)} images of "
                f"{config.source!r} into {len(train)} and {len(evaluation)}; both sides need at least one"
            )
    seen = {digest.tobytes() for digest in train.digests}
    splits = (
        ImageDataset(train, source.class_names, config, "train"),
        ImageDataset(evaluation, source.class_names, config, "evaluation"),
    )
    splits[1].description["also_in_train"] = sum(digest.tobytes() in seen for digest in evaluation.digests)
    return splits


def to_model(images: Tensor) -> Tensor:
    """uint8 images to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] to uint8: clamped, rounded, then cast."""
    return ((images.float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)


class _Decoding(torch.utils.data.Dataset):
    """What each record decodes to: a data set, so that `DataLoader` workers share the work."""

    def __init__(self, records: Records, config: DataConfig):
        self.records, self.config = records, config

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8] | str:
        return _decode(self.records, index, self.config)


def _decode(records: Records, index: int, config: DataConfig) -> npt.NDArray[np.uint8] | str:
    """Pixels (C, H, W), or the reason why the image is bad."""
    try:
        return square_pixels(records.content(index), config.image_size, config.channels)
    except BadImage as error:
        return str(error)


def _decode_all(
    records: Records, config: DataConfig, split: str, keep: bool
) -> tuple[Tensor, npt.NDArray[np.int64], tuple[str, ...]]:
    """(pixels of the good images if they are to be kept, their positions, names of the bad ones)."""
    pixels = np.empty((len(records) if keep else 0, config.channels, config.image_size, config.image_size), np.uint8)
    good: list[int] = []
    bad: list[str] = []
    loader = DataLoader(
        _Decoding(records, config), 256, collate_fn=list, num_workers=config.num_workers, generator=torch.Generator()
    )
    progress = tqdm(total=len(records), desc=f"decoding {split}", unit="image", delay=1, leave=False, disable=None)
    with progress:
        for decoded in itertools.chain.from_iterable(loader):
            index = len(good) + len(bad)
            progress.update()
            if not isinstance(decoded, str):
                if keep:
                    pixels[len(good)] = decoded
                good.append(index)
            elif config.skip_bad_images:
                bad.append(records.name(index))
            else:
                raise _refusal(records.name(index), decoded)
    return torch.from_numpy(pixels[: len(good)]), np.array(good, np.int64), tuple(bad)


def _refusal(name: str, reason: str) -> InputError:
    return InputError(
        f"{name} is a bad image: {reason}; remove it, or leave all such images out with --data.skip-bad-images true"
    )


def _fingerprint(records: Records, class_names: tuple[str, ...], config: DataConfig) -> str:
    transform = [CROP, RESIZE, config.image_size, config.channels]
    sums = hashlib.sha256(json.dumps([transform, class_names]).encode())
    sums.update(records.labels.astype("<i8").tobytes())
    sums.update(records.digests.tobytes())
    return sums.hexdigest()
