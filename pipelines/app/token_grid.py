"""The codes of an image as text, replaced one by one, and decoded."""

from typing import Any

import torch
from torch import Tensor

from wvq.tokenizer import InputError, TokenizerConfig, VQTokenizer
from wvq.tokenizer.data.decoding import to_model

from ..base import to_pixels
from .values import a_text, whole_number


def encode(tokenizer: VQTokenizer, image: Tensor) -> Tensor:
    """An image, uint8 (C, H, W), as indices (h, w), or (h, w, M) with sub-quantizers, on the CPU."""
    return tokenizer.encode(to_model(image[None].to(tokenizer.device)))[0].cpu()


def decode(tokenizer: VQTokenizer, indices: Tensor) -> Tensor:
    """Images of indices (N, h, w) or (N, h, w, M): uint8 (N, C, H, W) on the CPU.

    Raises:
        InputError: for an index that is no code.
    """
    return to_pixels(tokenizer.decode(indices.to(tokenizer.device))).cpu()


def as_text(indices: Tensor) -> str:
    """A line for each row of the grid; the codes of sub-quantizers at a position are joined by "/"."""
    rows = indices.tolist()
    cells = [["/".join(map(str, cell)) if isinstance(cell, list) else str(cell) for cell in row] for row in rows]
    return "\n".join(" ".join(row) for row in cells)


def from_text(text: Any, config: TokenizerConfig) -> Tensor:
    """The inverse of `as_text`; any white space parts the positions.

    Raises:
        InputError: for another number of codes, and for what is no code.
    """
    cells = [cell.split("/") for cell in a_text("codes", text, 30 * (config.num_tokens + 1)).split()]
    per_position = config.codes_per_position
    positions = config.num_positions
    if len(cells) != positions or any(len(cell) != per_position for cell in cells):
        each = "" if per_position == 1 else f' of {per_position} codes joined by "/"'
        raise InputError(f"there are {len(cells)} positions; this tokenizer has {positions}{each}")
    codes = [_code(code, config.codebook_size) for cell in cells for code in cell]
    return torch.tensor(codes, device="cpu").view(config.indices_shape)


def _code(text: str, codebook_size: int) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 18 or int(text) >= codebook_size:
        raise InputError(f"{text[:40]!r} is no code; valid are 0 to {codebook_size - 1}")
    return int(text)


def code_at(indices: Tensor, position: Any, codebook: Any, config: TokenizerConfig) -> tuple[int, int, int]:
    """(position, codebook, code) of a position in raster order.

    Raises:
        InputError: for a position or a codebook that there is not.
    """
    cell = position_of(position, config)
    part = whole_number("codebook", codebook, 0, config.codes_per_position - 1)
    return cell, part, int(indices.view(-1, config.codes_per_position)[cell, part])


def position_of(position: Any, config: TokenizerConfig) -> int:
    """Raises: InputError: for a text or number that is no position of the grid."""
    if position in (None, ""):
        raise InputError("no position is chosen; click a token of the image")
    if isinstance(position, str) and position.isascii() and position.isdecimal() and len(position) < 10:
        position = int(position)
    return whole_number("position", position, 0, config.num_positions - 1)


def replaced(indices: Tensor, position: int, codebook: int, codes: Tensor, config: TokenizerConfig) -> Tensor:
    """Copies of indices (h, w) or (h, w, M), each with one of codes (N,) at a position: (N, ...)."""
    copies = indices.repeat(len(codes), *[1] * indices.ndim)
    copies.view(len(codes), -1, config.codes_per_position)[:, position, codebook] = codes
    return copies


def neighbours(codebook: Tensor, code: int, number: int) -> Tensor:
    """The nearest other codes of a codebook (K, D), the nearest first: (number,) or fewer, on the CPU."""
    distances = (codebook - codebook[code]).float().square().sum(dim=1)
    distances[code] = torch.inf
    return distances.topk(min(number, len(codebook) - 1), largest=False).indices.cpu()


def around(image: Tensor, position: int, config: TokenizerConfig) -> Tensor:
    """The pixels of images (N, C, H, W) at a position and its eight neighbours, cut off at the border."""
    row, column = divmod(position, config.grid_shape[1])
    patch = config.downsampling
    top, left = max(0, row - 1) * patch, max(0, column - 1) * patch
    return image[:, :, top : (row + 2) * patch, left : (column + 2) * patch]
