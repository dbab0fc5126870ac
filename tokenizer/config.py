"""What a tokenizer is made of, and what follows from it: shapes, numbers of tokens, the quantizer."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from .errors import InputError
from .image_size import ImageSize, height_and_width, image_size
from .multi_scale import MultiScaleQuantizer, scale_ends
from .quantizers.base import Quantizer
from .quantizers.composite import CompositeQuantizer
from .quantizers.registry import build_quantizer, codes_per_vector
from .storage.pretrained import UNSAID
from .transplant.base_autoencoder import BaseAutoencoder


@dataclass(frozen=True)
class TokenizerConfig:
    """What a `VQTokenizer` is made of.

    Raises:
        InputError: for sizes that do not fit together, and another quantizer or option of it.
    """

    image_size: ImageSize = 28
    """Height and width of the images, or [h, w]; each must divide by 2 for every down-sampling."""
    channels: int = 3
    """Colour channels of the images: 1 or 3."""
    patch_size: int = 1
    """Pixels along each axis that enter and leave the network as one position; 2 quarters the cost."""
    base_channels: int = 64
    """Width of the network at its finest resolution."""
    channel_multipliers: tuple[int, ...] = (1, 1, 2)
    """Width of each resolution over base_channels, finest first; each after the first halves height and width."""
    num_blocks: int = 2
    """Residual blocks per resolution, in the encoder and in the decoder."""
    decoder_blocks: int = field(default=0, metadata=UNSAID)
    """Residual blocks per resolution of the decoder, 0 for as many as the encoder's; VQGAN's decoder has one more."""
    attention: bool = False
    """Whether the coarsest resolution has self-attention after each block."""
    middle_block: bool = field(default=False, metadata=UNSAID)
    """Whether a block, self-attention and a block stand between coarsest resolution and latents, as in VQGAN."""
    widen_in_blocks: bool = field(default=False, metadata=UNSAID)
    """Whether the first block of a resolution changes the width, as in VQGAN, or the change of resolution does."""
    norm_groups: int = field(default=0, metadata=UNSAID)
    """Groups of each group norm, 32 in VQGAN; 0 for the most, up to 32, that leave at least 4 channels in each."""
    latent_channels: int = 64
    """Width between the network and the 1x1 projections to and from the codebook."""
    codebook_size: int = 16384
    """Number of codes, K, of each codebook."""
    codebook_dim: int = 8
    """Dimension of a code, D."""
    quantizer: str = "wasserstein"
    """Name of the quantizer: vanilla, ema, online, linear, spherical, fsq, gaussian, sinkhorn, wasserstein, mmd or
    transport, each with one codebook; product or residual, with several."""
    quantizer_options: dict[str, Any] = field(default_factory=dict)
    """Options of that quantizer, such as commitment_weight; of product and residual also quantizers, how many
    sub-quantizers there are, and quantizer, the name of each."""
    projector_channels: int = field(default=0, metadata=UNSAID)
    """Width of the convolutions that are added to the projections to and from the codebook; 0 for none."""
    autoencoder: dict[str, Any] | None = field(default=None, metadata=UNSAID)
    """A `BaseAutoencoder`, whose encoder and decoder stand in place of our own, which the fields above describe but for
    latent_channels; `wvq transplant` fills it in."""
    scales: tuple[int, ...] = field(default=(), metadata=UNSAID)
    """Positions along each axis at each scale, such as 1, 2, 4, 8, coarse to fine up to the grid's; none for one scale.
    All scales share one codebook, and an image is the tokens of all of them."""
    normalize_scales: bool = field(default=False, metadata=UNSAID)
    """Whether the vectors of each scale are brought to mean 0 and covariance 1, so that all scales use all codes."""
    scale_convolutions: int = field(default=4, metadata=UNSAID)
    """Convolutions that the scales share to smooth what they add, VAR's phi; 0 for none. Only scales have them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", image_size(self.image_size))
        if base := self.base:
            base.check_fits(self)
        if self.projector_channels < 0:
            raise InputError(f"projector_channels is {self.projector_channels}; it must be at least 0")
        for name in ("patch_size", "base_channels", "num_blocks", "latent_channels"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.decoder_blocks < 0:
            raise InputError(f"decoder_blocks is {self.decoder_blocks}; it must be at least 1, or 0 for num_blocks")
        if self.channels not in (1, 3):
            raise InputError(f"channels is {self.channels}; valid are 1 and 3")
        object.__setattr__(self, "channel_multipliers", tuple(self.channel_multipliers))  # JSON has only lists
        if not self.channel_multipliers or min(self.channel_multipliers) < 1:
            raise InputError(f"channel_multipliers is {self.channel_multipliers}; it needs one or more numbers >= 1")
        if self.norm_groups < 0 or (self.norm_groups and self.base_channels % self.norm_groups):
            raise InputError(
                f"norm_groups is {self.norm_groups}; base_channels, {self.base_channels}, must divide by it (0: chosen)"
            )
        if any(side % self.downsampling for side in height_and_width(self.image_size)):
            raise InputError(
                f"image_size is {self.image_size}; with patch_size {self.patch_size} and "
                f"{(self.downsampling // self.patch_size).bit_length() - 1} down-samplings it must divide by "
                f"{self.downsampling}"
            )
        object.__setattr__(self, "scales", tuple(self.scales))
        with torch.device("meta"):  # checks name, sizes and options without drawing a codebook
            self.build_quantizer()

    def build_quantizer(self) -> Quantizer | CompositeQuantizer:
        """The quantizer that this describes.

        Raises:
            InputError: for options that it does not have, and scales that do not fit to it or to the grid.
        """
        quantizer = build_quantizer(self.quantizer, self.codebook_size, self.codebook_dim, **self.quantizer_options)
        if not self.scales:
            return quantizer
        if isinstance(quantizer, CompositeQuantizer):
            raise InputError(
                f"scales are {self.scales}, but quantizer is '{self.quantizer}'; scales share one codebook"
            )
        if self.grid_shape != (self.scales[-1], self.scales[-1]):
            raise InputError(f"scales are {self.scales}; the last must be the grid of these images, {self.grid_shape}")
        return MultiScaleQuantizer(quantizer, self.scales, self.scale_convolutions, self.normalize_scales)

    @property
    def base(self) -> BaseAutoencoder | None:
        """The autoencoder that encoder and decoder are of, or None where they are of our own design."""
        return None if self.autoencoder is None else BaseAutoencoder(**self.autoencoder)

    @property
    def downsampling(self) -> int:
        """Pixels per token along each axis."""
        own = self.patch_size * 2 ** (len(self.channel_multipliers) - 1)
        return self.base.downsampling if self.base else own

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Positions along each axis, (h, w)."""
        height, width = height_and_width(self.image_size)
        return height // self.downsampling, width // self.downsampling

    @property
    def grid_size(self) -> ImageSize:
        """Positions along each axis: one number for square images, else `grid_shape`."""
        return image_size(self.grid_shape)

    @property
    def num_positions(self) -> int:
        """Positions of the grid, h * w."""
        return math.prod(self.grid_shape)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of an image, (C, H, W)."""
        return self.channels, *height_and_width(self.image_size)

    @property
    def codes_per_position(self) -> int:
        """Codes at each position of the grid, M: one of each sub-quantizer; 1 with a single codebook."""
        return codes_per_vector(self.quantizer, self.quantizer_options)

    @property
    def num_codes(self) -> int:
        """Codes of all codebooks, M * K: the ids that a token can have."""
        return self.codes_per_position * self.codebook_size

    @property
    def num_tokens(self) -> int:
        """Tokens of an image, T = h * w * M; with scales the sum of their squares."""
        return scale_ends(self.scales)[-1] if self.scales else self.num_positions * self.codes_per_position

    @property
    def indices_shape(self) -> tuple[int, ...]:
        """Of an image: (h, w), or (h, w, M) with sub-quantizers; (T,) with scales."""
        if self.scales:
            return (self.num_tokens,)
        return self.grid_shape if self.codes_per_position == 1 else (*self.grid_shape, self.codes_per_position)
