"""The image tokenizer: encoder, quantizer, decoder, and how it is saved."""

import json
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder import Decoder, Encoder, NetworkDesign
from .config import TokenizerConfig
from .errors import InputError
from .precision import full_precision
from .quantizers.base import QuantizerOutput
from .quantizers.composite import CompositeQuantizer
from .storage.pretrained import SavedModule, described, state_sha256
from .transplant.base_autoencoder import OWN, BaseAutoencoder, LatentDecoder, LatentEncoder
from .transplant.projector import projection


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
        self.quantizer = config.build_quantizer()
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
        """Images (B, C, H, W) in [-1, 1] -> indices, int64 in [0, K): (B, h, w), (B, h, w, M) or, of scales, (B, T).

        In full precision, as `decode`, whatever a GPU is allowed for training: the indices are those of a CPU but for
        the last bits of a sum.
        """
        with full_precision():
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
        with full_precision():
            return self.images(codes).clamp(-1, 1)

    @property
    def token_fingerprint(self) -> str:
        """sha256 of the configuration and of every weight that decides an image's tokens: as `fingerprint`, but that it
        stays when the decoder alone is trained further."""
        parts = {"encoder": self.encoder, "to_codebook": self.to_codebook, "quantizer": self.quantizer}
        return state_sha256(nn.ModuleDict(parts), json.dumps(described(self.config), sort_keys=True).encode())

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
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What encoder and decoder compute in; the quantizer always computes in float32."""
        return next(self.parameters()).dtype


def _network(base: BaseAutoencoder) -> nn.Module:
    return VQTokenizer(TokenizerConfig(**base.network)) if base.class_name == OWN else base.build()
