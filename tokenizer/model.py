"""The image tokenizer: encoder, quantizer, decoder, and how it is saved."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder import Decoder, Encoder, NetworkDesign
from .errors import InputError
from .image_size import ImageSize, height_and_width, image_size
from .quantizers.base import QuantizerOutput
from .quantizers.composite import CompositeQuantizer
from .quantizers.registry import build_quantizer, codes_per_vector
from .storage.pretrained import UNSAID, SavedModule
from .transplant.base_autoencoder import OWN, BaseAutoencoder, LatentDecoder, LatentEncoder
from .transplant.projector import projection


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
        with torch.device("meta"):  # checks name, sizes and options without drawing a codebook
            build_quantizer(self.quantizer, self.codebook_size, self.codebook_dim, **self.quantizer_options)

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
        """Tokens of an image, T = h * w * M."""
        return self.num_positions * self.codes_per_position

    @property
    def indices_shape(self) -> tuple[int, ...]:
        """Of an image: (h, w), or (h, w, M) with sub-quantizers."""
        return self.grid_shape if self.codes_per_position == 1 else (*self.grid_shape, self.codes_per_position)


@dataclass
class TokenizerOutput:
    """What a `VQTokenizer` returns for images: the reconstructions (B, C, H, W), the features before quantization
    (B, D, h, w) and what the quantizer returned for them."""

    reconstructions: Tensor
    features: Tensor
    quantizer: QuantizerOutput


class VQTokenizer(SavedModule):
    """Images to a grid of codes and back; a prior sees that grid as a sequence of tokens.

    Example:
        >>> tokenizer = VQTokenizer(TokenizerConfig(image_size=32, codebook_size=1024))
        >>> indices = tokenizer.encode(images)      # (B, 3, 32, 32) in [-1, 1] -> (B, 8, 8)
        >>> images = tokenizer.decode(indices)      # (B, 8, 8) -> (B, 3, 32, 32) in [-1, 1]
        >>> tokens = tokenizer.to_sequence(indices) # (B, 8, 8) -> (B, 64)
    """

    config_class = TokenizerConfig

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.config = config
        base, design = config.base, NetworkDesign.of(config, config.channels * config.patch_size**2)
        width = config.projector_channels if config.projector_channels or base else None
        network = _network(base) if base else None
        self.encoder = LatentEncoder(base, network) if base and network else Encoder(design)
        self.to_codebook = projection(config.latent_channels, config.codebook_dim, width)
        self.quantizer = build_quantizer(
            config.quantizer, config.codebook_size, config.codebook_dim, **config.quantizer_options
        )
        self.from_codebook = projection(config.codebook_dim, config.latent_channels, width)
        self.decoder = LatentDecoder(base, network) if base and network else Decoder(design)

        self.rounded_from: dict[str, str] = {}
        """The fingerprint of the saved weights by that of their rounding, of a tokenizer loaded in half precision."""

    def forward(self, images: Tensor) -> TokenizerOutput:
        """Reconstruct images (B, C, H, W) in [-1, 1]; the reconstructions are not clamped."""
        features = self.features(images)
        quantized = self.quantizer(features)
        return TokenizerOutput(self.images(quantized.quantized), features, quantized)

    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> features (B, D, h, w), before quantization.

        Raises:
            InputError: if the images are not of the tokenizer's channels and size.
        """
        if tuple(images.shape[1:]) != (expected := self.config.image_shape):
            raise InputError(f"images have shape {tuple(images.shape)}; this tokenizer takes (B, {str(expected)[1:]}")
        return self.to_codebook(self.encoder(F.pixel_unshuffle(images.to(self.dtype), self.config.patch_size)))

    def images(self, codes: Tensor) -> Tensor:
        """Codes (B, D, h, w) -> images (B, C, H, W), not clamped."""
        return F.pixel_shuffle(self.decoder(self.from_codebook(codes.to(self.dtype))), self.config.patch_size)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> indices (B, h, w), int64 in [0, K); (B, h, w, M) with M sub-quantizers."""
        return self.quantizer(self.features(images)).indices

    @torch.no_grad()
    def decode(self, indices: Tensor) -> Tensor:
        """Indices as `encode` gives them -> images (B, C, H, W) clamped to [-1, 1].

        Raises:
            InputError: if the grid is of another size or an index is out of range.
        """
        self._check_shape(indices)
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < self.config.codebook_size:
            raise InputError(
                f"indices reach from {int(indices.min())} to {int(indices.max())}; "
                f"valid are 0 to {self.config.codebook_size - 1}"
            )
        codes = self.quantizer.lookup(indices).movedim(-1, 1)
        return self.images(codes).clamp(-1, 1)

    @property
    def codebooks(self) -> list[Tensor]:
        """The codes (K, D) of each sub-quantizer, in the order of their tokens; a single codebook without any."""
        parts = self.quantizer.sub_quantizers if isinstance(self.quantizer, CompositeQuantizer) else [self.quantizer]
        return [quantizer.codebook.detach() for quantizer in parts]

    def to_sequence(self, indices: Tensor) -> Tensor:
        """Indices (B, h, w) or (B, h, w, M) -> the token sequences (B, T) of a prior, position by position.

        The M codes of a position follow one another; index k of sub-quantizer m is the token m * K + k. An index of -1,
        which is still to be drawn, stays so.

        Raises:
            InputError: if the grid is of another size.
        """
        self._check_shape(indices)
        codes = indices.reshape(-1, self.config.num_positions, self.config.codes_per_position)
        return torch.where(codes < 0, codes, codes + self._first_tokens(codes.device)).flatten(1)

    def from_sequence(self, tokens: Tensor) -> Tensor:
        """Token sequences (B, T) -> indices as `encode` gives them; the inverse of `to_sequence`.

        Raises:
            InputError: for sequences of another length.
        """
        if tokens.ndim != 2 or tokens.shape[1] != self.config.num_tokens:
            raise InputError(
                f"tokens have shape {tuple(tokens.shape)}; this tokenizer takes (B, {self.config.num_tokens})"
            )
        codes = tokens.reshape(-1, self.config.num_positions, self.config.codes_per_position)
        return (codes - self._first_tokens(codes.device)).reshape(-1, *self.config.indices_shape)

    def _first_tokens(self, device: torch.device) -> Tensor:
        """The token of each sub-quantizer's code 0, (M,)."""
        return torch.arange(self.config.codes_per_position, device=device) * self.config.codebook_size

    def _check_shape(self, indices: Tensor) -> None:
        expected = self.config.indices_shape
        if tuple(indices.shape[1:]) != expected:
            raise InputError(f"indices have shape {tuple(indices.shape)}; this tokenizer takes (B, {str(expected)[1:]}")

    def saved_state(self) -> dict[str, Tensor]:
        """Without the vectors of a quantizer whose codes were still to be drawn from them: others have no place for
        these."""
        return {name: value for name, value in self.state_dict().items() if ".first_vectors." not in name}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What encoder and decoder compute in; the quantizer always computes in float32."""
        return next(self.parameters()).dtype


def _network(base: BaseAutoencoder) -> nn.Module:
    return VQTokenizer(TokenizerConfig(**base.network)) if base.class_name == OWN else base.build()
