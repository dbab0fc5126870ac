"""Images to be scored that are in no data set: a folder of image files, an .npz of arrays; both read as they are used.

Nothing is cropped or resized: scored images must already be of one size. What they are is in their description.
"""

import hashlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from wvq.tokenizer.data.decoding import BadImage, square_pixels
from wvq.tokenizer.data.folders import check_regular_file
from wvq.tokenizer.data.records import Records
from wvq.tokenizer.data.sources import read_folder
from wvq.tokenizer.errors import InputError

from .archives import read_array, read_header, read_headers


class ImageFolder:
    """A folder of image files as `wvq.tokenizer.data` reads it, with classes from sub-folders, none cropped or resized.

    Args:
        folder: JPEG, PNG and other files; grey, RGB, RGBA (over white) and palette all become `channels` of 8 bits.
        channels: 3 for RGB, 1 for grey.
        num_workers: processes that decode, beside the main one.

    Raises:
        InputError: for a folder that is missing or empty, images of several sizes or not square, corrupt files.
    """

    def __init__(self, folder: str | Path, channels: int = 3, num_workers: int = 0):
        folder, self.num_workers = Path(folder), num_workers
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder of images")
        found = read_folder(folder)
        if found.evaluation is not None:
            raise InputError(f"{folder} has a training and an evaluation split; give the folder of one of them")
        assert isinstance(found.train, Records)  # a folder of image files is no stream
        self._records, self._channels = found.train, channels
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
        if width != height:
            raise InputError(f"{folder} has images of {width}x{height}; scored images must be square")
        self._size = width
        self._classes = len(found.class_names)
        self.description: dict[str, Any] = {
            "source": str(folder),
            "count": len(headers),
            "image_size": width,
            "channels": channels,
            "formats": dict(sorted(Counter(kind for _, kind in headers).items())),
            "fingerprint": hashlib.sha256(self._records.digests.tobytes()).hexdigest(),
        }

    def __len__(self) -> int:
        return len(self._records)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Images uint8 (B, C, H, W), with labels (B,) if there are classes.

        Raises:
            InputError: for a corrupt file.
        """
        images = torch.from_numpy(np.stack([self._pixels(index) for index in indices]))
        if not self._classes:
            return {"images": images}
        return {"images": images, "labels": torch.from_numpy(self._records.labels[list(indices)])}

    def _pixels(self, index: int) -> np.ndarray:
        try:
            return square_pixels(self._records.content(index), self._size, self._channels)
        except BadImage as error:
            raise InputError(f"{self._records.name(index)} is a bad image: {error}") from error

    def _header(self, index: int) -> tuple[tuple[int, int], str]:
        """((width, height), format and mode), from the first bytes alone."""
        try:
            check_regular_file(self._records.name(index))
            with Image.open(self._records.name(index)) as image:
                return image.size, f"{image.format} {image.mode}"
        except BadImage as error:
            raise InputError(f"{self._records.name(index)} is a bad image: {error}") from error
        except (UnidentifiedImageError, OSError) as error:
            raise InputError(f"{self._records.name(index)} is a bad image: its header cannot be read") from error


class ImageArchive:
    """An .npz as ADM ships samples: `arr_0` uint8 (N, H, W, 3) and, if there are classes, `arr_1` (N,).

    Images are read from the archive batch by batch, so it may be larger than memory. A pickle is never loaded.

    Args:
        path: of the file.

    Raises:
        InputError: for a file that is missing, no .npz, of other arrays, or pickled.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        headers = read_headers(self._path)
        if "arr_0" not in headers:
            raise InputError(f"{path} holds the arrays {', '.join(headers)}; samples are arr_0 (N, H, W, 3)")
        shape, column_major, dtype = headers["arr_0"]
        if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or shape[1] != shape[2] or column_major:
            raise InputError(f"{path} has arr_0 {dtype} of shape {shape}; samples are uint8 (N, H, H, 1 or 3)")
        if Image.MAX_IMAGE_PIXELS and shape[1] * shape[2] > Image.MAX_IMAGE_PIXELS:
            raise InputError(
                f"{path} has images of {shape[1]}x{shape[2]}; at most {Image.MAX_IMAGE_PIXELS:,} pixels are read"
            )
        self._shape = shape
        self._stream: IO[bytes] | None = None
        self._start = 0
        self._labels = None
        if "arr_1" in headers:
            about = headers["arr_1"]
            if about.shape != shape[:1] or about.dtype.kind not in "iu":
                raise InputError(
                    f"{path} has arr_1 {about.dtype} of shape {about.shape}; labels are integers {shape[:1]}"
                )
            self._labels = torch.from_numpy(read_array(self._path, "arr_1").astype(np.int64))
        self.description: dict[str, Any] = {
            "source": str(path),
            "count": shape[0],
            "image_size": shape[1],
            "channels": shape[3],
            "formats": {"npz uint8": shape[0]},
            "fingerprint": _file_sha256(self._path),
        }

    @staticmethod
    def holds_images(path: str | Path) -> bool:
        """Whether the file is an .npz with samples, which published statistics beside them do not make a reference."""
        if not Path(path).is_file():  # a named pipe would be waited for
            return False
        try:
            with zipfile.ZipFile(path) as archive:
                return "arr_0.npy" in archive.namelist() and "mu.npy" not in archive.namelist()
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
        if self._stream is None:
            # A compressed archive is decompressed once, not anew for every part.
            self._stream = zipfile.ZipFile(self._path).open("arr_0.npy")  # noqa: SIM115 (it stays open)
            read_header(self._stream)
            self._start = self._stream.tell()
        content = bytearray()
        try:
            for index in indices:
                self._stream.seek(self._start + index * length)
                content += self._stream.read(length)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise InputError(f"{self._path} is damaged: {error}") from error
        if len(content) < len(indices) * length:
            raise InputError(f"{self._path} ends before its {len(self)} images")
        pixels = np.frombuffer(content, np.uint8).reshape(-1, *image)
        batch = {"images": torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()}
        return batch if self._labels is None else {**batch, "labels": self._labels[list(indices)]}


def open_images(path: str | Path, channels: int = 3, num_workers: int = 0) -> ImageFolder | ImageArchive:
    """A folder of images, which num_workers processes decode beside the main one, or an .npz of samples.

    Raises:
        InputError: for anything else.
    """
    return ImageArchive(path) if Path(path).suffix == ".npz" else ImageFolder(path, channels, num_workers)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
