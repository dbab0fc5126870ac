"""A quantizer over scales, from one vector for the whole grid to one for each position (VAR, arXiv 2404.02905).

At each scale what is left of the feature map is averaged down to s x s vectors, these are quantized, and their codes,
interpolated up to the whole grid and smoothed by a convolution, are taken off. All scales have one codebook, so that an
image is its tokens from coarse to fine, and the first scales alone are an image as well.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .decided_there import moved_only_where
from .errors import InputError
from .precision import full_precision, keeping_dtype
from .quantizers.base import Quantizer, QuantizerOutput, check_input
from .quantizers.composite import CompositeQuantizer
from .quantizers.gaussian import MomentWindow, gaussian_transport_map

RESIDUAL_RATIO = 0.5  # share of the convolution in a phi, VAR's
STATISTICS_WINDOW = 8  # forwards whose vectors a scale is normalized by


def check_scales(scales: Sequence[int]) -> None:
    """Raises: InputError: unless scales are one or more integers that grow from 1 or more."""
    whole = isinstance(scales, list | tuple) and scales and all(type(scale) is int for scale in scales)
    if not whole or scales[0] < 1 or list(scales) != sorted(set(scales)):
        raise InputError(f"scales are {scales!r:.60}; they must be integers from 1 on that grow, as 1, 2, 4, 8")


def up_to_grid(coarse: Tensor, size: int) -> Tensor:
    """(B, D, s, s) -> (B, D, size, size), bicubic; unchanged where s is size."""
    if coarse.shape[-1] == size:
        return coarse
    return F.interpolate(coarse, (size, size), mode="bicubic")


def down_to_scale(grid: Tensor, scale: int) -> Tensor:
    """(B, D, h, h) -> (B, D, scale, scale), means over areas; unchanged where scale is h."""
    return grid if grid.shape[-1] == scale else F.interpolate(grid, (scale, scale), mode="area")


class Phi(nn.Conv2d):
    """What smooths interpolated codes, (B, D, h, w) -> the same: half themselves, half a 3x3 convolution of them.

    It starts as the identity.
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1)
        nn.init.dirac_(self.weight)
        nn.init.zeros_(self.get_parameter("bias"))

    def forward(self, input: Tensor) -> Tensor:
        return torch.lerp(input, super().forward(input), RESIDUAL_RATIO)


class MultiScaleQuantizer(CompositeQuantizer):
    """A quantizer of any kind with vectors, over all scales of a feature map at once.

    It gets the vectors of all scales in one call, so that its loss, its statistics, codes that start from data and the
    revival of dead codes are of all scales together. The convolutions phi learn by a term of their own, the mean over
    scales of the squared error that is left of the (detached) features after each; codes get no gradient from it, so
    that they follow the same rule as without scales. While codes wait for data each vector is its own code.

    Args:
        quantizer: of any kind whose codes lie where the features do.
        scales: positions along each axis at each scale, growing; the last is the grid's, h = w.
        num_convolutions: phi convolutions, which neighbouring scales share evenly; 0 for none, 4 are VAR's.
        normalize: whether the vectors of each scale are carried to mean 0 and covariance 1 before they are quantized,
            by the optimal map from their last 8 forwards in training, and codes back. What is left over differs in
            size and direction from scale to scale: without, a scale uses only the codes that lie where its vectors do.

    Raises:
        InputError: for scales that do not grow, fewer convolutions than 0, and a quantizer that projects the features
            or learns by the reconstruction alone: what it leaves over is no residual.
    """

    def __init__(self, quantizer: Quantizer, scales: Sequence[int], num_convolutions: int = 4, normalize: bool = False):
        super().__init__(quantizer)
        check_scales(scales)
        if num_convolutions < 0:
            raise InputError(f"num_convolutions is {num_convolutions}; it must be at least 0")
        if not quantizer.learns_by_loss or type(quantizer).project is not Quantizer.project:
            raise InputError(
                f"the quantizer of scales is a {type(quantizer).__name__}, whose codes do not lie where the features "
                "do; take another"
            )
        self.scales = tuple(scales)
        phis = min(num_convolutions, len(self.scales))
        self.phis = nn.ModuleList(Phi(quantizer.codebook_dim) for _ in range(phis))
        windows = len(self.scales) if normalize else 0
        self.moments = nn.ModuleList(MomentWindow(quantizer.codebook_dim, STATISTICS_WINDOW) for _ in range(windows))

    @property
    def codebook_dim(self) -> int:
        """D."""
        return self.sub_quantizers[0].codebook_dim

    def lookup(self, indices: Tensor) -> Tensor:
        """Feature maps (B, h, w, D) of indices (B, T), or of those of the first scales alone.

        Raises:
            InputError: for a number of indices at which no scale ends.
        """
        (quantizer,), size = self.sub_quantizers, self.scales[-1]
        total = indices.new_zeros(len(indices), self.codebook_dim, size, size, dtype=torch.float32)
        with torch.autocast(indices.device.type, enabled=False), full_precision():
            for number, own in enumerate(split_scales(indices, self.scales)):
                total = total + self._spread(number, quantizer.lookup(own))
        return total.movedim(1, -1)

    def vectors(self, z: Tensor) -> Tensor:
        """What is quantized of z (B, D, h, w), the vectors of all scales of one image after another's, (B * T, D)."""
        with torch.autocast(z.device.type, enabled=False), full_precision(), torch.no_grad():
            return torch.cat(self._walk(z.float(), waiting=False, counts=False)[0], dim=1).flatten(0, 1)

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantize z, (B, D, h, w), to indices (B, T).

        Raises:
            InputError: for another size of z than the last scale.
            InputError, NonFiniteError: see `Quantizer.forward`.
        """
        (quantizer,), size = self.sub_quantizers, self.scales[-1]
        asks = not self.training or quantizer.waiting
        finite = check_input(z, quantizer.codebook_dim, self.training, asks=asks)
        if tuple(z.shape[2:]) != (size, size):
            raise InputError(f"z has shape {tuple(z.shape)}; of scales {self.scales} it is (B, D, {size}, {size})")
        counts = self.training and torch.is_grad_enabled()
        waiting = quantizer.waiting and counts
        with torch.autocast(z.device.type, enabled=False), full_precision():
            features = z.float()
            with moved_only_where(finite, self.moments.buffers()):
                vectors, indices, maps = self._walk(features, waiting, counts)
            # Image by image, so that the vectors of several processes follow each other as in one.
            output = quantizer(torch.cat(vectors, dim=1).flatten(0, 1), torch.cat(indices, dim=1).flatten())
            loss, terms = output.loss, output.terms
            if self.phis:
                left = torch.stack([F.mse_loss(total, features.detach()) for total in maps]).mean() * (not waiting)
                loss, terms = loss + left, terms | {"scale_loss": left.detach()}
            total = features if waiting else self._estimate(quantizer, features, maps[-1])
        return QuantizerOutput(total.to(z.dtype), torch.cat(indices, dim=1), loss, terms)

    def _walk(self, features: Tensor, waiting: bool, counts: bool) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """At each scale the vectors (B, s * s, D), their indices (B, s * s), and the map (B, D, h, w) that all codes
        so far make; vectors with the gradient of the features, maps with that of the convolutions."""
        (quantizer,) = self.sub_quantizers
        vectors, indices, maps = [], [], []
        total = torch.zeros_like(features)
        for number, scale in enumerate(self.scales):
            own = down_to_scale(features - total.detach(), scale).flatten(2).mT
            if self.moments:
                own = self._normalized(number, own, counts)
            index = quantizer.assign(own.detach().flatten(0, 1)).view(len(own), -1)
            codes = own if waiting else quantizer.lookup(index)
            total = total + self._spread(number, codes.detach())
            vectors.append(own)
            indices.append(index)
            maps.append(total)
        return vectors, indices, maps

    def _spread(self, number: int, codes: Tensor) -> Tensor:
        """What the codes (B, s * s, D) of scale `number` add to the map, (B, D, h, w)."""
        scale = self.scales[number]
        if self.moments:
            mean, _, back = (part.to(codes.device) for part in self._units(number))
            codes = codes @ back + mean
        grid = up_to_grid(codes.mT.unflatten(2, (scale, scale)), self.scales[-1])
        return self.phis[number * len(self.phis) // len(self.scales)](grid) if self.phis else grid

    def _normalized(self, number: int, vectors: Tensor, counts: bool) -> Tensor:
        """Vectors (B, n, D) of scale `number` at mean 0 and covariance 1.

        The gradient of an error is the one that the same error has among the features: by the chain rule directions
        that hardly vary would have the largest.
        """
        if counts:
            self.moments[number].push(vectors.detach().flatten(0, 1))  # pyright: ignore[reportCallIssue]
        mean, forth, back = (part.to(vectors.device) for part in self._units(number))
        return (vectors.detach() - mean) @ forth + (vectors - vectors.detach()) @ back

    def _units(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of the vectors of scale `number` their mean (D,), the matrix (D, D) that gives what is around it covariance
        1, and the one that takes it back; in float32."""
        own = self.moments[number]
        assert isinstance(own, MomentWindow)
        mean, covariance = own.mean_and_covariance_within()
        one, zero = torch.eye(len(mean), dtype=mean.dtype, device=mean.device), torch.zeros_like(mean)
        seen = own.counts.sum() > 0
        covariance = torch.where(seen, covariance, one)
        forth, _ = gaussian_transport_map(zero, covariance, zero, one)
        back, _ = gaussian_transport_map(zero, one, zero, covariance)
        return torch.where(seen, mean, zero).float(), forth.float(), back.float()

    @staticmethod
    def _estimate(quantizer: Quantizer, features: Tensor, total: Tensor) -> Tensor:
        rows = [rearrange(part, "b d h w -> (b h w) d") for part in (features, total.detach())]
        return rearrange(quantizer.estimate(*rows), "(b h w) d -> b d h w", b=len(features), h=features.shape[2])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return super()._apply(keeping_dtype(fn), recurse)


def scale_ends(scales: Sequence[int]) -> list[int]:
    """After how many tokens each scale of an image ends; the last is T, the sum of s * s."""
    return list(accumulate(scale**2 for scale in scales))


def split_scales(tokens: Tensor, scales: Sequence[int]) -> list[Tensor]:
    """Tokens (B, n) by scale, (B, s * s) each, n the end of the last of them.

    Raises:
        InputError: for another shape.
    """
    ends = scale_ends(scales)
    if tokens.ndim != 2 or tokens.shape[1] not in ends:
        raise InputError(
            f"indices have shape {tuple(tokens.shape)}; of scales {tuple(scales)} they are (B, n), n in {ends}"
        )
    return list(tokens.tensor_split(ends[: ends.index(tokens.shape[1])], dim=1))
