"""Which tokens of an image are known if a part of its pixels is not."""

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor

from wvq.tokenizer import TokenizerConfig, VQTokenizer

_PROBES = 4


@torch.no_grad()
def drawn_positions(tokenizer: VQTokenizer, hidden: Tensor) -> Tensor:
    """The positions of the token grid that have to be drawn for what is hidden, bool (N, H, W): bool (N, h, w).

    Those that have a hidden pixel, and those that look into what is hidden more than elsewhere. An encoder sees far
    beyond the pixels of a position, and not all of what it might see counts for it. So what counts is measured: of two
    images of noise a third is made, the first where pixels are known and the second where they are hidden. A position
    whose features are nearer to those of the second than to those of the first is mostly made of what is hidden.
    """
    size = tokenizer.config.downsampling
    touched = reduce(hidden, "n (h p) (w q) -> n h w", "max", p=size, q=size)
    masks, which = hidden.unique(dim=0, return_inverse=True)  # most often one for all images
    return touched | torch.stack([_mostly_hidden(tokenizer, mask) for mask in masks])[which]


def _mostly_hidden(tokenizer: VQTokenizer, mask: Tensor) -> Tensor:
    """Of a mask (H, W), the positions (h, w) whose features follow the hidden pixels more than the others."""
    known, hidden = _noise(tokenizer.config).to(tokenizer.device)
    images = torch.cat([known, hidden, torch.where(mask, hidden, known)])
    of_known, of_hidden, of_both = tokenizer.features(images).float().chunk(3)
    return _distance(of_both, of_hidden) < _distance(of_both, of_known)


def _noise(config: TokenizerConfig) -> Tensor:
    """Pairs of images in [-1, 1], as smooth as the grid is coarse: (2, n, C, H, W), always the same."""
    (h, w), generator = config.grid_shape, torch.Generator().manual_seed(0)
    coarse = torch.randn(2 * _PROBES, config.channels, h + 1, w + 1, generator=generator, device="cpu")
    return F.interpolate(coarse, config.image_shape[1:], mode="bicubic").clamp(-1, 1).unflatten(0, (2, _PROBES))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Of features (n, D, h, w) at each position, squared, over all images: (h, w)."""
    return (a - b).square().sum(dim=(0, 1))
