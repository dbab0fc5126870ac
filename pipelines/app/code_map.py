"""A codebook as a picture: all codes sorted so that like lies beside like, each as what it decodes to."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from wvq.tokenizer import VQTokenizer
from wvq.tokenizer.data.batches import evenly_spaced

from ..base import to_pixels
from .models import Model
from .values import OnStep

MOST_CELLS = 128**2  # of a map; of a larger codebook evenly spaced codes are shown
_BATCH = 64
_MAP_PIXELS = 1024


def sorted_codes(codebook: Tensor) -> Tensor:
    """Codes of a codebook (K, D) in a rectangle (R, C), int64 on the CPU, -1 where there is none.

    From left to right along the first principal direction, and in a column from top to bottom along the second.
    """
    points = codebook.detach().cpu().double()
    centred = points - points.mean(dim=0)
    _, axes = torch.linalg.eigh(centred.mT @ centred)
    first = (centred @ axes[:, -1]).argsort(stable=True)
    if len(first) > MOST_CELLS:
        first = first[evenly_spaced(len(first), MOST_CELLS)]
    rows = math.ceil(math.sqrt(len(first)))
    columns = math.ceil(len(first) / rows)
    second = centred @ axes[:, -2 if len(axes) > 1 else -1]
    cells = torch.full((columns, rows), -1, device="cpu")
    for column, codes in enumerate(first.split(rows)):
        cells[column, : len(codes)] = codes[second[codes].argsort(stable=True)]
    return cells.mT.contiguous()


@torch.no_grad()
def appearance(tokenizer: VQTokenizer, codebook: int, codes: Tensor, on_step: OnStep) -> Tensor:
    """What codes (N,) of a codebook decode to: the middle of a field of 3 x 3 of the code alone, uint8 (N, C, p, p).

    The other codebooks, if there are any, have their codes nearest to their mean.
    """
    config, patch = tokenizer.config, tokenizer.config.downsampling
    middle = [int((part - part.mean(dim=0)).square().sum(dim=1).argmin()) for part in tokenizer.codebooks]
    pictures = []
    for some in codes.split(_BATCH):
        indices = torch.tensor(middle, device="cpu").repeat(len(some), 3, 3, 1)
        indices[..., codebook] = some[:, None, None]
        indices = indices if config.codes_per_position > 1 else indices[..., 0]
        vectors = tokenizer.quantizer.lookup(indices.to(tokenizer.device)).movedim(-1, 1)
        fields = to_pixels(tokenizer.images(vectors).clamp(-1, 1)).cpu()
        pictures.append(fields[:, :, patch : 2 * patch, patch : 2 * patch])
        on_step(sum(map(len, pictures)), len(codes))
    return torch.cat(pictures)


def map_picture(cells: Tensor, pictures: Tensor) -> Tensor:
    """One picture of a map (R, C), each cell that of its code; pictures (N, c, p, p) are those of the cells that hold
    one, in raster order. Empty cells are white. uint8 (c, R * p, C * p)."""
    fields = pictures.new_full((cells.numel(), *pictures.shape[1:]), 255)
    fields[cells.flatten() >= 0] = pictures
    return rearrange(fields, "(r k) c p q -> c (r p) (k q)", r=len(cells))


class CodeMaps:
    """The map of each codebook of each model with its picture, made when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def of(self, model: Model, codebook: int, on_step: OnStep) -> tuple[Tensor, Tensor]:
        """Cells (R, C), as `sorted_codes`, and their picture, uint8 (c, R * p, C * p), of about a thousand pixels."""
        key = model.name, codebook
        if key not in self._made:
            tokenizer = model.pipeline.tokenizer
            cells = sorted_codes(tokenizer.codebooks[codebook])
            pictures = appearance(tokenizer, codebook, cells[cells >= 0], on_step)
            size = max(1, min(pictures.shape[-1], _MAP_PIXELS // len(cells)))
            small = F.interpolate(pictures.float(), size=(size, size), mode="area").round().to(torch.uint8)
            self._made[key] = cells, map_picture(cells, small)
        return self._made[key]
