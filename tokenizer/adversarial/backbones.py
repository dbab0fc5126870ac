"""Frozen networks by name, whose features losses and discriminators see."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError


class Backbone(nn.Module):
    """A frozen network: images (B, 1 or 3, H, W) in [-1, 1] -> feature maps (B, width, h, w), the finest first."""

    name: str
    fingerprint: str
    widths: Sequence[int]


def build_backbone(name: str, weights: str | Path | None = None) -> Backbone:
    raise InputError(f"backbone is '{name}'; valid are st-lpips-vgg16, st-lpips-alex")
