"""The image tokenizer: encoder, quantizer, decoder, and how it is saved."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder import Decoder, Encoder
from .errors import InputError
from .multi_scale import MultiScaleQuantizer, scale_ends
from .quantizers.base import Quantizer, QuantizerOutput
from .quantizers.composite import CompositeQuantizer
from .quantizers.registry import build_quantizer, codes_per_vector
from .storage.hub import HubArguments
from .storage.pretrained import SavedModule, check_dtype, state_sha256


@dataclass(frozen=True)
class TokenizerConfig:
    """What a `VQTokenizer` is made of.

    Raises:
        InputError: for sizes that do not fit together, and another quantizer or option of it.
    """

    image_size: int = 28
    """Height and width of the images; it must divide by 2 for every down-sampling."""
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
    attention: bool = False
    """Whether the coarsest resolution has self-attention."""
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
    scales: tuple[int, ...] = ()
    """Positions along each axis at each scale, such as 1, 2, 4, 8, coarse to fine up to the grid's; none for one scale.
    All scales share one codebook, and an image is the tokens of all of them."""
    normalize_scales: bool = False
    """Whether the vectors of each scale are brought to mean 0 and covariance 1, so that all scales use all codes."""
    scale_convolutions: int = 4
    """Convolutions that the scales share to smooth what they add, VAR's phi; 0 for none. Only scales have them."""

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "base_channels", "num_blocks", "latent_channels"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.channels not in (1, 3):
            raise InputError(f"channels is {self.channels}; valid are 1 and 3")
        object.__setattr__(self, "channel_multipliers", tuple(self.channel_multipliers))  # JSON has only lists
        if not self.channel_multipliers or min(self.channel_multipliers) < 1:
            raise InputError(f"channel_multipliers is {self.channel_multipliers}; it needs one or more numbers >= 1")
        if self.image_size % self.downsampling:
            raise InputError(
                f"image_size is {self.image_size}; with patch_size {self.patch_size} and "
                f"{len(self.channel_multipliers) - 1} down-samplings it must divide by {self.downsampling}"
            )
        object.__setattr__(self, "scales", tuple(self.scales))
        with torch.device("meta"):  # checks name, sizes and options without drawing a codebook
            self.build_quantizer()

    def build_quantizer(self) -> Quantizer | CompositeQuantizer:
        """The quantizer that this describes."""
        quantizer = build_quantizer(self.quantizer, self.codebook_size, self.codebook_dim, **self.quantizer_options)
        if not self.scales:
            return quantizer
        if isinstance(quantizer, CompositeQuantizer):
            raise InputError(
                f"scales are {self.scales}, but quantizer is '{self.quantizer}'; scales share one codebook"
            )
        if self.scales[-1] != self.grid_size:
            raise InputError(f"scales are {self.scales}; the last must be {self.grid_size}, the grid of these images")
        return MultiScaleQuantizer(quantizer, self.scales, self.scale_convolutions, self.normalize_scales)

    @property
    def downsampling(self) -> int:
        """Pixels per token along each axis."""
        return self.patch_size * 2 ** (len(self.channel_multipliers) - 1)

    @property
    def grid_size(self) -> int:
        """Positions along each axis, h = w."""
        return self.image_size // self.downsampling

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
        return scale_ends(self.scales)[-1] if self.scales else self.grid_size**2 * self.codes_per_position

    @property
    def indices_shape(self) -> tuple[int, ...]:
        """Of an image: (h, w), or (h, w, M) with sub-quantizers; (T,) with scales."""
        if self.scales:
            return (self.num_tokens,)
        grid = (self.grid_size, self.grid_size)
        return grid if self.codes_per_position == 1 else (*grid, self.codes_per_position)


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
        network = (
            config.channels * config.patch_size**2,
            config.base_channels,
            config.channel_multipliers,
            config.num_blocks,
            config.attention,
            config.latent_channels,
        )
        self.encoder = Encoder(*network)
        self.to_codebook = nn.Conv2d(config.latent_channels, config.codebook_dim, 1)
        self.quantizer = config.build_quantizer()
        self.from_codebook = nn.Conv2d(config.codebook_dim, config.latent_channels, 1)
        self.decoder = Decoder(*network)

        self.rounded_from: dict[str, str] = {}
        """The fingerprint of the saved weights by that of their rounding, of a tokenizer loaded in half precision."""

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, torch_dtype: torch.dtype | None = None, **hub: Unpack[HubArguments]
    ) -> Self:
        """Load from a folder or a hub repository, in eval mode.

        Args:
            name_or_path, hub: see `SavedModule.from_pretrained`.
            torch_dtype: what encoder and decoder are cast to, float32 (the default), bfloat16 or float16.

        Raises:
            InputError: for another dtype, and as `SavedModule.from_pretrained`.
        """
        check_dtype("torch_dtype", torch_dtype)
        tokenizer = super().from_pretrained(name_or_path, **hub)
        if torch_dtype not in (None, torch.float32):
            saved = tokenizer.fingerprint
            tokenizer.to(torch_dtype)
            tokenizer.rounded_from[tokenizer.fingerprint] = saved
        return tokenizer

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
        expected = (self.config.channels, self.config.image_size, self.config.image_size)
        if tuple(images.shape[1:]) != expected:
            raise InputError(f"images have shape {tuple(images.shape)}; this tokenizer takes (B, {str(expected)[1:]}")
        return self.to_codebook(self.encoder(F.pixel_unshuffle(images.to(self.dtype), self.config.patch_size)))

    def images(self, codes: Tensor) -> Tensor:
        """Codes (B, D, h, w) -> images (B, C, H, W), not clamped."""
        return F.pixel_shuffle(self.decoder(self.from_codebook(codes.to(self.dtype))), self.config.patch_size)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> indices, int64 in [0, K): (B, h, w), (B, h, w, M) or, of scales, (B, T)."""
        return self.quantizer(self.features(images)).indices

    @torch.no_grad()
    def decode(self, indices: Tensor) -> Tensor:
        """Indices as `encode` gives them, or of the first scales alone -> images (B, C, H, W) clamped to [-1, 1].

        Raises:
            InputError: if the grid is of another size or an index is out of range.
        """
        if not self.config.scales:  # `lookup` checks them, and takes some
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
        codes = indices.flatten(1).unflatten(1, (-1, self.config.codes_per_position))
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
        codes = tokens.unflatten(1, (-1, self.config.codes_per_position))
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
        return self.to_codebook.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What encoder and decoder compute in; the quantizer always computes in float32."""
        return self.to_codebook.weight.dtype

    @property
    def fingerprint(self) -> str:
        """sha256 of the configuration and of every weight; in one dtype, tokenizers of one fingerprint give equal
        tokens."""
        description = asdict(self.config)
        if not self.config.scales:  # as it was before there were any
            del description["scales"], description["scale_convolutions"], description["normalize_scales"]
        return state_sha256(self, json.dumps(description, sort_keys=True).encode())
