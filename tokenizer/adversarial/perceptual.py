"""Perceptual losses: how far apart images are in the features of a frozen network."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbones import build_backbone


class PerceptualLoss(nn.Module):
    """Distance in frozen features: (images, reconstructions), both (B, 1 or 3, H, W) in [-1, 1] -> scalar."""

    def __init__(self, backbone: str, weights: str | Path | None = None):
        super().__init__()
        self.backbone = build_backbone(backbone, weights)
        self.name, self.fingerprint = self.backbone.name, self.backbone.fingerprint
        self.eval()

    def train(self, mode: bool = True):
        return super().train(False)

    def forward(self, images: Tensor, reconstructions: Tensor) -> Tensor:
        with torch.no_grad():
            targets = self.backbone(images)
        total = images.new_zeros(())
        for index, (a, b) in enumerate(zip(targets, self.backbone(reconstructions), strict=True)):
            difference = (F.normalize(a.float(), dim=1, eps=1e-10) - F.normalize(b.float(), dim=1, eps=1e-10)).square()
            head = getattr(self.backbone, f"head{index}")
            total = total + (difference * head).sum(1).mean()
        return total
