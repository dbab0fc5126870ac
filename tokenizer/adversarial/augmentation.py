"""Differentiable augmentation (arXiv 2006.10738): what a discriminator sees of real and of generated images.

kornia has these transforms, but draws them from the global generator of each process, so that two processes would not
see what one sees, nor a resumed run the same again; and its colours are clipped, which stops gradients.
"""

import numpy as np
import torch
from torch import Tensor

from ..distributed import num_processes, process_index


def augmentation_draws(seed: int, step: int, count: int) -> Tensor:
    """Numbers in [0, 1) on the CPU (count, 10), for the `count` images of this process.

    They follow from seed, step and place in the batch of all processes alone.
    """
    # The last word keeps the stream apart from those of `tokenizer/data/batches.py`.
    draws = np.random.default_rng([seed, step, 5]).random((count * num_processes(), 10), dtype=np.float32)
    return torch.from_numpy(draws[process_index() * count :][:count])


def augment(
    images: Tensor, draws: Tensor, probability: float = 0.5, translation: float = 0.125, cutout: float = 0.2
) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] in other colours, translated, and with a square cut out; differentiable.

    Brightness changes by up to 0.5, saturation by up to a factor of 2, contrast by up to one half; values may leave
    [-1, 1]. What comes in at a border and what is cut out is 0.

    Args:
        images: of any floating type.
        draws: (B, 10) in [0, 1), see `augmentation_draws`; the same for real images and their reconstructions.
        probability: of each of the three, for each image.
        translation: at most, of height and width.
        cutout: side of the square, of height and width.
    """
    draws = draws.to(images)
    gates = draws[:, :3, None, None, None] < probability
    brightness, saturation, contrast, *places = draws[:, 3:, None, None, None].unbind(1)
    coloured = images + brightness - 0.5
    coloured = torch.lerp(coloured.mean(1, keepdim=True), coloured, 2 * saturation)
    coloured = torch.lerp(coloured.mean((1, 2, 3), keepdim=True), coloured, contrast + 0.5)
    images = torch.where(gates[:, 0], coloured, images)
    kept = torch.ones_like(images[:, :1])
    for dim, place, centre in zip((2, 3), places[:2], places[2:], strict=True):
        size = images.shape[dim]
        index = torch.arange(size, device=images.device).view((-1, 1) if dim == 2 else (1, -1))
        by = torch.where(gates[:, 1], (place * 2 - 1) * translation * size, 0).round().long()
        inside = (index + by >= 0) & (index + by < size)
        images = images.gather(dim, (index + by).clamp(0, size - 1).expand_as(images)) * inside
        kept = kept * ((index + 0.5 - centre * size).abs() < cutout * size / 2)
    return images * (1 - kept * gates[:, 2])
