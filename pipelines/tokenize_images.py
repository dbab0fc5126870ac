"""The step of `wvq tokenize` by itself, for engines that call it on their batches: Ray Data, `datasets`."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data.decoding import BadImage, sized_pixels, to_model

from .processes import this_device

IMAGES_AT_ONCE = 64  # always, the last of a batch filled up: a convolution over more or fewer images rounds otherwise
_KEPT = 4  # tokenizers that a process holds


def encode_images(tokenizer: VQTokenizer, images: Tensor) -> Tensor:
    """Images uint8 (B, C, H, W) of the tokenizer's size -> tokens (B, T), int32 on the CPU.

    The tokens of an image are the same, bit for bit, whatever else is in its batch; not so those of
    `VQTokenizer.encode`, where a vector halfway between two codes may go to either.

    Raises:
        InputError: for images of other channels or another size.
    """
    sequences = []
    for block in images.split(IMAGES_AT_ONCE):
        filled = F.pad(block, (0, 0, 0, 0, 0, 0, 0, IMAGES_AT_ONCE - len(block)))
        indices = tokenizer.encode(to_model(filled.to(tokenizer.device)))
        sequences.append(tokenizer.to_sequence(indices)[: len(block)])
    return torch.cat(sequences).to("cpu", torch.int32)


class TokenizeImages:
    """Batches of images to the same batches with their tokens, as `wvq tokenize` makes them; can be pickled.

    It takes a tokenizer's name with it, or the tokenizer itself, and a process that it is called in loads that once, to
    its own accelerator (in a Ray actor: the GPU that is the actor's), or to the CPU.

    Example:
        >>> step = TokenizeImages("runs/tokenizer/model")
        >>> dataset.map(step, batched=True, remove_columns=["image"])       # of datasets
        >>> dataset.map_batches(step).drop_columns(["image"])               # of Ray

    Args:
        tokenizer: its folder or hub repository, which every worker can read, or the tokenizer.
        image_column: column of the images: encoded bytes, dictionaries with "bytes" as `datasets` keeps them, PIL
            images, or uint8 arrays (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). They get the crop and resize of training.
        tokens_column: column of the tokens, (B, T) int32.

    Attributes:
        fingerprint: of the tokenizer; `datasets` reuses what it has of an earlier call only for equal ones.

    Raises:
        InputError: if the tokenizer cannot be read; when called, if it is another one by then, for a batch without that
            column, and for what is no image.
    """

    def __init__(self, tokenizer: str | Path | VQTokenizer, image_column: str = "image", tokens_column: str = "tokens"):
        given = isinstance(tokenizer, VQTokenizer)
        self._source = copy.deepcopy(tokenizer).to("cpu").eval() if given else str(tokenizer)
        self.fingerprint = self._read().fingerprint
        self.image_column, self.tokens_column = image_column, tokens_column

    def __call__(self, batch: Any) -> Any:
        """A copy of the batch, a dictionary of columns (or what `datasets` has for one), with the column of tokens.

        Raises:
            InputError: for a batch without the column of images, what is no image, and a tokenizer that has changed.
        """
        result = copy.copy(batch)  # before anything is read: `datasets` writes again what was decoded in a batch
        if self.image_column not in batch:
            raise InputError(f"image_column is {self.image_column!r}; valid are the columns {', '.join(batch)}")
        tokenizer = self._loaded()
        size, shape = tokenizer.config.image_size, tokenizer.config.image_shape
        pixels = np.empty((len(batch[self.image_column]), *shape), np.uint8)
        for row, image in enumerate(batch[self.image_column]):
            try:
                pixels[row] = sized_pixels(_content(image), size, shape[0])
            except BadImage as error:
                raise InputError(f"{self.image_column} of row {row} of a batch is no image: {error}") from error
        result[self.tokens_column] = encode_images(tokenizer, torch.from_numpy(pixels)).numpy()
        return result

    def _read(self) -> VQTokenizer:
        return VQTokenizer.from_pretrained(self._source) if isinstance(self._source, str) else self._source

    def _loaded(self) -> VQTokenizer:
        """The tokenizer of this process: a task of Ray unpickles a step of its own, and has this in common."""
        if self.fingerprint not in _TOKENIZERS:
            tokenizer = self._read()
            if tokenizer.fingerprint != self.fingerprint:
                raise InputError(
                    f"{self._source} holds the tokenizer {tokenizer.fingerprint[:12]}, and held "
                    f"{self.fingerprint[:12]} when this began; tokens of two are not to be mixed"
                )
            while len(_TOKENIZERS) >= _KEPT:
                del _TOKENIZERS[next(iter(_TOKENIZERS))]
            _TOKENIZERS[self.fingerprint] = copy.deepcopy(tokenizer).to(this_device())
        return _TOKENIZERS[self.fingerprint]


_TOKENIZERS: dict[str, VQTokenizer] = {}


def _content(image: Any) -> bytes | npt.NDArray[np.uint8] | Image.Image:
    """What `sized_pixels` takes.

    Raises:
        BadImage: for what is none of the forms of an image.
    """
    if isinstance(image, dict):  # its "path" is not opened: it is what somebody else wrote into a table
        image = image.get("bytes")
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,), (4,)):
            raise BadImage(
                f"an array of {image.dtype} and shape {image.shape}; valid are uint8 and (H, W), or (H, W, 1, 3 or 4)"
            )
        return image[..., 0] if image.shape[2:] == (1,) else image
    if not isinstance(image, bytes | Image.Image):
        raise BadImage(f"it is of type {type(image).__name__}; valid are bytes, uint8 arrays and PIL images")
    return image
