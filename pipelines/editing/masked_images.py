"""Images of which a part is to be drawn: read with their masks, and rid of what the masks hide."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from wvq.tokenizer import InputError, TokenizerConfig
from wvq.tokenizer.data.decoding import crop_shape

from ..base import Images, given_pictures, sized_picture

Masks = Tensor | Image.Image | Sequence[Tensor | Image.Image]
"""What is to be drawn: bool (H, W) or (N, H, W), true there, or PIL masks (mode 1 or L), white there; or a list, one
for each image."""

WHITE = 128  # and above: the greys of a mask that are drawn


@dataclass(frozen=True)
class MaskedImages:
    """Images without what is hidden.

    Attributes:
        pixels: uint8 (N, C, H, W) of the tokenizer's size. Each hidden one has the colour of the nearest that is not:
            nothing that is computed from them knows what was there.
        hidden: bool (N, H, W).
    """

    pixels: Tensor
    hidden: Tensor

    def to(self, device: torch.device) -> Self:
        """The same there."""
        return type(self)(self.pixels.to(device), self.hidden.to(device))

    def around(self, drawn: Tensor) -> Tensor:
        """Images that were drawn, uint8 (N * n, C, H, W), n of each one after another, with the given pixels pasted
        over them."""
        each = len(drawn) // len(self.pixels)
        hidden, pixels = (part.repeat_interleave(each, dim=0) for part in (self.hidden, self.pixels))
        return torch.where(hidden[:, None], drawn, pixels)


def masked_images(images: Images, masks: Masks, config: TokenizerConfig) -> MaskedImages:
    """Images with what is to be drawn of them taken out.

    PIL images get the crop and resize of training, and their masks with them. What is hidden is taken out before, since
    a resized pixel has something of its neighbours; one that has any part in what is hidden is hidden as well.

    Args:
        images: uint8 (N, C, H, W) of the tokenizer's size, or PIL images of any size.
        masks: one for all images, or one each: tensors of the tokenizer's size, or PIL masks of the images' size.
        config: the tokenizer's.

    Returns:
        What is left, on the CPU.

    Raises:
        InputError: for images or masks of another size, shape, type or number.
    """
    if isinstance(images, Tensor):
        _check_images(images, config)
        hidden = torch.stack(_masks_of_tensors(masks, len(images), config)).cpu()
        return MaskedImages(_filled(images.cpu(), hidden), hidden)
    pictures = given_pictures(images)
    given = _each(masks, len(pictures), config)
    pairs = [_squares(*pair, config) for pair in zip(pictures, given, strict=True)]
    pixels, hidden = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    return MaskedImages(_filled(pixels, hidden), hidden)


def _squares(picture: Image.Image, mask: Tensor | Image.Image, config: TokenizerConfig) -> tuple[Tensor, Tensor]:
    """A PIL image and its mask in the tokenizer's size: uint8 (C, H, W), bool (H, W)."""
    size = ImageOps.exif_transpose(picture).size
    full_size = crop_shape(*size, config.image_size)
    cut_out = sized_picture(picture, full_size, config.channels)
    if isinstance(mask, Tensor):
        mask = mask.cpu()
        at_full_size = _touched(mask, full_size)
    else:
        at_full_size = _cropped_mask(mask, size, config)
        mask = _touched(at_full_size, config.image_shape[1:])
    filled = _filled(cut_out[None], at_full_size[None])[0].permute(1, 2, 0).squeeze(-1)
    height, width = config.image_shape[1:]  # not cropped again, which of another ratio would round once more
    small = np.asarray(Image.fromarray(filled.numpy()).resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(small.copy()).view(height, width, config.channels).permute(2, 0, 1), mask


def _masks_of_tensors(masks: Masks, count: int, config: TokenizerConfig) -> list[Tensor]:
    size = config.image_shape[2], config.image_shape[1]
    each = _each(masks, count, config)
    return [mask if isinstance(mask, Tensor) else _cropped_mask(mask, size, config) for mask in each]


def _each(masks: Masks, count: int, config: TokenizerConfig) -> Sequence[Tensor | Image.Image]:
    """A mask for each of `count` images; tensors are of the tokenizer's size."""
    size = config.image_shape[1:]
    if isinstance(masks, Image.Image):
        return [masks] * count
    if isinstance(masks, Tensor):
        _check_mask(masks, size, (count, *size))
        return list(masks.expand(count, *size))
    if not isinstance(masks, Sequence):
        raise InputError(f"mask is of type {type(masks).__name__}; give a bool tensor or PIL masks")
    if len(masks) != count:
        raise InputError(f"there are {len(masks)} masks for {count} images; give one for all, or one for each")
    for mask in masks:
        if not isinstance(mask, Image.Image):
            _check_mask(mask, size)
    return masks


def _check_mask(mask: Any, *shapes: tuple[int, ...]) -> None:
    """Raises: InputError: unless a mask that is no PIL image is a bool tensor of one of these shapes."""
    if not isinstance(mask, Tensor):
        raise InputError(f"mask has one of type {type(mask).__name__}; give a bool tensor or PIL masks")
    if mask.dtype != torch.bool or tuple(mask.shape) not in shapes:
        valid = " or ".join(map(str, shapes))
        raise InputError(f"mask has shape {tuple(mask.shape)} and dtype {mask.dtype}; it must be bool {valid}")


def _cropped_mask(mask: Image.Image, size: tuple[int, int], config: TokenizerConfig) -> Tensor:
    """A PIL mask for a PIL image of this (width, height), cropped as it: bool, of `crop_shape`."""
    if mask.mode not in ("1", "L") or ImageOps.exif_transpose(mask).size != size:
        raise InputError(f"mask has size {mask.size} and mode {mask.mode}; it must be {size}, of mode 1 or L")
    if mask.has_transparency_data:
        raise InputError("mask has a transparent colour, which says neither keep nor draw; give one without")
    return sized_picture(mask, crop_shape(*size, config.image_size), 1)[0] >= WHITE


def _touched(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask in another size, bool (*size): whether a pixel has any part in what is hidden."""
    return F.adaptive_max_pool2d(mask[None].float(), size)[0] > 0


def _check_images(images: Tensor, config: TokenizerConfig) -> None:
    expected = config.image_shape
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0 or tuple(images.shape[1:]) != expected:
        raise InputError(
            f"images have dtype {images.dtype} and shape {tuple(images.shape)}; give uint8 (N, {str(expected)[1:]}"
        )


def _filled(images: Tensor, hidden: Tensor) -> Tensor:
    """Images (N, C, H, W) in which every pixel that is hidden, (N, H, W), has the colour of the nearest that is not.

    What is known near a border hardly changes its code that way; beside the mean colour it does (measured in
    eval/results). Where all is hidden there is mid-grey.
    """
    filled = images.clone()
    for image, mask in zip(filled, hidden, strict=True):
        if mask.all():
            image.fill_(WHITE)
        elif mask.any():
            nearest = distance_transform_edt(mask.numpy(), return_distances=False, return_indices=True)
            rows, columns = torch.from_numpy(nearest).long()
            image.copy_(image[:, rows, columns])
    return filled
