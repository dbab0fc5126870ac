"""Images to be scored that are in no data set: a folder of image files, an .npz of arrays; both read as they are used.

Nothing is cropped or resized: scored images must already be of one size. What they are is in their description.
"""

import hashlib
import io
import json
import os
import weakref
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from wvq.tokenizer.data.decoding import BadImage, sized_pixels
from wvq.tokenizer.data.folders import ImageFiles, check_regular_file
from wvq.tokenizer.data.records import Records
from wvq.tokenizer.data.sources import find_source, read_folder
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.image_size import image_size, size_in_json
from wvq.tokenizer.storage.untrusted import user_path

from .archives import UNFIT, read_classes, read_header, read_headers
from .reference import ReferenceStatistics
from .sample_note import NOTE_FILE, SampleNote, read_sample_note


class ImageFolder:
    """A folder of images as `wvq.tokenizer.data` reads it, files or shards, with classes; none is cropped or resized.

    Classes come from sub-folders or the shards' labels; in a folder that `wvq sample` wrote, from its samples.json.

    Args:
        folder: JPEG, PNG and other files; grey, RGB, RGBA (over white) and palette all become `channels` of 8 bits.
        channels: 3 for RGB, 1 for grey.
        num_workers: processes that decode, beside the main one.

    Attributes:
        labels: (N,) int64, or None without classes.
        class_names: what they mean; () where they are but numbers.

    Raises:
        InputError: for a folder that is missing or empty, images of several sizes, corrupt files.
    """

    def __init__(self, folder: str | Path, channels: int = 3, num_workers: int = 0):
        folder, self.num_workers = user_path(folder), num_workers
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder of images")
        found, self.labels, self.class_names = _read_labelled(folder)
        if found.bad:
            name, reason = next(iter(found.bad.items()))
            raise InputError(f"{name} is a bad image: {reason}")
        self._records, self._channels = found, channels
        headers = [self._header(index) for index in range(len(self._records))]
        sizes = Counter(size for size, _ in headers)
        if len(sizes) > 1:
            (size, count), (other, _) = sizes.most_common()[0], sizes.most_common()[-1]
            odd = self._records.name([size for size, _ in headers].index(other))
            raise InputError(
                f"{folder} has images of {len(sizes)} sizes: {count} of {size[0]}x{size[1]}, and {odd} of "
                f"{other[0]}x{other[1]}; scored images must be of one size"
            )
        width, height = next(iter(sizes))
        self._size = image_size((height, width))
        fingerprint = hashlib.sha256(self._records.digests.tobytes())
        if self.labels is not None:  # for the same files in other classes are another set of images
            fingerprint.update(json.dumps([self.labels.tolist(), self.class_names]).encode())
        self.description: dict[str, Any] = {
            "source": str(folder),
            "count": len(headers),
            "classes": _count(self.labels),
            "image_size": size_in_json(self._size),
            "channels": channels,
            "formats": dict(sorted(Counter(kind for _, kind in headers).items())),
            "fingerprint": fingerprint.hexdigest(),
        }

    def __len__(self) -> int:
        return len(self._records)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Images uint8 (B, C, H, W), with labels (B,) if there are classes.

        Raises:
            InputError: for a corrupt file.
        """
        images = torch.from_numpy(np.stack([self._pixels(index) for index in indices]))
        return {"images": images} | ({} if self.labels is None else {"labels": self.labels[list(indices)]})

    def _pixels(self, index: int) -> np.ndarray:
        try:
            return sized_pixels(self._records.content(index), self._size, self._channels)
        except BadImage as error:
            raise InputError(f"{self._records.name(index)} is a bad image: {error}") from error

    def _header(self, index: int) -> tuple[tuple[int, int], str]:
        """((width, height), format and mode), from the first bytes alone where the image is a file."""
        name = self._records.name(index)
        try:
            file: Any = name
            if isinstance(self._records.images, ImageFiles):
                check_regular_file(name)
            else:
                content = self._records.content(index)
                if isinstance(content, np.ndarray):
                    return (content.shape[1], content.shape[0]), "pixels L"
                file = io.BytesIO(content)
            with Image.open(file) as image:
                return image.size, f"{image.format} {image.mode}"
        except BadImage as error:
            raise InputError(f"{name} is a bad image: {error}") from error
        except (UnidentifiedImageError, OSError) as error:
            raise InputError(f"{name} is a bad image: its header cannot be read") from error


def _read_labelled(folder: Path) -> tuple[Records, Tensor | None, tuple[str, ...]]:
    """Images of a folder, their labels (N,) if they have classes, and what these mean."""
    for place, images in ((folder, folder / "images"), (folder.parent, folder)):
        if images.name == "images" and images.is_dir() and (note := read_sample_note(place)):
            return _noted(images, note)
    # as a path, which no data set's name is
    found = find_source(os.path.join(os.curdir, folder), None, "image", "label")
    if found.evaluation is not None:
        raise InputError(f"{folder} has a training and an evaluation split; give the folder of one of them")
    assert isinstance(found.train, Records)  # it was not asked for a stream
    labels = torch.from_numpy(found.train.labels) if found.class_names else None
    return found.train, labels, found.class_names


def _noted(images: Path, note: SampleNote) -> tuple[Records, Tensor | None, tuple[str, ...]]:
    """The same of pictures that are called by their numbers, whose classes stand in a note."""
    found = read_folder(images)
    assert isinstance(found.train, Records)  # a folder of image files is no stream
    names = [Path(found.train.name(index)) for index in range(len(found.train))]
    count = "no" if note.labels is None else len(note.labels)
    for file in names:
        known = file.parent == images and file.stem.isdecimal() and file.stem.isascii()
        if not known or (note.labels is not None and int(file.stem) >= len(note.labels)):
            raise InputError(f"{file} is none of the {count} images of the {NOTE_FILE} beside {images}; move it away")
    if note.labels is None:
        return found.train, None, ()
    return found.train, note.labels[[int(file.stem) for file in names]], note.class_names


class ImageArchive:
    """An .npz as ADM ships samples: `arr_0` uint8 (N, H, W, 3) and, if there are classes, `arr_1` or `labels` (N,).

    Images are read from the archive batch by batch, so it may be larger than memory. A pickle is never loaded. Names of
    classes are its `class_names`, or stand in a samples.json or a classnames.txt beside it.

    Args:
        path: of the file.

    Attributes:
        labels: (N,) int64, or None without classes.
        class_names: what they mean; () where they are but numbers.
        statistics: of the set that these images only stand for, where the file has `mu` and `sigma` as well, as ADM's
            reference batches do; else None.

    Raises:
        InputError: for a file that is missing, no .npz, of other arrays, or pickled.
    """

    def __init__(self, path: str | Path):
        self._path = user_path(path)
        headers = read_headers(self._path)
        if "arr_0" not in headers:
            raise InputError(f"{path} holds the arrays {', '.join(headers)}; samples are arr_0 (N, H, W, 3)")
        shape, column_major, dtype = headers["arr_0"]
        if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or column_major:
            raise InputError(f"{path} has arr_0 {dtype} of shape {shape}; samples are uint8 (N, H, W, 1 or 3)")
        if not all(shape):
            raise InputError(f"{path} has arr_0 of shape {shape}; it holds no images")
        if Image.MAX_IMAGE_PIXELS and shape[1] * shape[2] > Image.MAX_IMAGE_PIXELS:
            raise InputError(
                f"{path} has images of {shape[1]}x{shape[2]}; at most {Image.MAX_IMAGE_PIXELS:,} pixels are read"
            )
        self._shape = shape
        self._stream: IO[bytes] | None = None
        self._start = 0
        self.labels, self.class_names = read_classes(self._path, headers, shape[0])
        whole = {"mu", "sigma"} <= headers.keys()
        self.statistics = ReferenceStatistics.load(self._path) if whole else None
        self.description: dict[str, Any] = {
            "source": str(path),
            "count": shape[0],
            "classes": _count(self.labels),
            "image_size": size_in_json(image_size(shape[1:3])),
            "channels": shape[3],
            "formats": {"npz uint8": shape[0]},
            "fingerprint": _file_sha256(self._path),
        }

    @staticmethod
    def holds_images(path: str | Path) -> bool:
        """Whether the file is an .npz with samples, be there statistics beside them or not."""
        if not Path(path).is_file():  # a named pipe would be waited for
            return False
        try:
            with zipfile.ZipFile(path) as archive:
                return "arr_0.npy" in archive.namelist()
        except (OSError, zipfile.BadZipFile):
            return False

    def __len__(self) -> int:
        return self._shape[0]

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Images uint8 (B, C, H, W) with labels (B,) if there are classes; quick for indices that ascend.

        Raises:
            InputError: for a damaged file.
        """
        _, *image = self._shape
        length = int(np.prod(image))
        content = bytearray()
        try:
            if self._stream is None:
                self._stream, self._start = self._open()
            for index in indices:
                self._stream.seek(self._start + index * length)
                content += self._stream.read(length)
        except UNFIT as error:
            raise InputError(f"{self._path} is damaged: {error}") from error
        if len(content) < len(indices) * length:
            raise InputError(f"{self._path} ends before its {len(self)} images")
        pixels = np.frombuffer(content, np.uint8).reshape(-1, *image)
        batch = {"images": torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()}
        return batch if self.labels is None else {**batch, "labels": self.labels[list(indices)]}

    def _open(self) -> tuple[IO[bytes], int]:
        """The array as a stream, which is decompressed once, not anew for every part, and where its images start."""
        with zipfile.ZipFile(self._path) as archive:
            stream = archive.open("arr_0.npy")  # the file is closed with it
        weakref.finalize(self, stream.close)
        read_header(stream)
        return stream, stream.tell()


def open_images(path: str | Path, channels: int = 3, num_workers: int = 0) -> ImageFolder | ImageArchive:
    """A folder of images, which num_workers processes decode beside the main one, or an .npz of samples.

    A folder may be what `wvq sample` wrote, in any of its formats.

    Raises:
        InputError: for anything else.
    """
    path = user_path(path)
    if (path / NOTE_FILE).is_file() and (path / "samples.npz").is_file():
        path /= "samples.npz"
    return ImageArchive(path) if path.suffix == ".npz" else ImageFolder(path, channels, num_workers)


def _count(labels: Tensor | None) -> int:
    return 0 if labels is None else len(labels.unique())


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
