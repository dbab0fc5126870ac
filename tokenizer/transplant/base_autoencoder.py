"""An autoencoder that exists already, as the two halves of a tokenizer: images to latents, and latents to images.

Each class has its own names for that; an `Adapter` has them in one form. No network of anybody is written again: those
of diffusers are diffusers' own, which has to be installed.
"""

import copy
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import InputError

OWN = "VQTokenizer"
"""What our own tokenizers are called in a `BaseAutoencoder`."""

_ENCODING, _DECODING = ("encoder", "quant_conv", "to_codebook"), ("decoder", "post_quant_conv", "from_codebook")


@dataclass(frozen=True)
class Adapter:
    """How a class encodes and decodes, and which of its options say what shape latents have."""

    encode: Callable[[Any, Tensor], Tensor]
    decode: Callable[[Any, Tensor], Tensor]
    channels: tuple[str, ...] = ("in_channels", "out_channels")
    levels: str = "block_out_channels"
    latents: tuple[str, ...] = ("latent_channels",)
    derived: tuple[str, ...] = ()  # what its config.json has beside its options


ADAPTERS = {
    "AutoencoderKL": Adapter(lambda kl, x: kl.encode(x).latent_dist.mode(), lambda kl, z: kl.decode(z).sample),
    "VQModel": Adapter(
        lambda vq, x: vq.encode(x).latents,
        lambda vq, z: vq.decode(z, force_not_quantize=True).sample,  # or by the codebook that is replaced
        latents=("vq_embed_dim", "latent_channels"),
    ),
    "AutoencoderDC": Adapter(
        lambda dc, x: dc.encode(x).latent,
        lambda dc, z: dc.decode(z).sample,
        channels=("in_channels",),
        levels="encoder_block_out_channels",
    ),
    "AutoencoderTiny": Adapter(
        lambda tiny, x: tiny.encode(x).latents,
        lambda tiny, z: tiny.decode(z).sample,
        levels="encoder_block_out_channels",
        derived=("block_out_channels",),
    ),
    OWN: Adapter(
        lambda own, x: own.features(x),
        lambda own, z: own.images(z),
        channels=("channels",),
        levels="channel_multipliers",
        latents=("codebook_dim",),
    ),
}
"""The classes whose quantizer can be replaced, or that can be given one, by their names."""


@dataclass(frozen=True)
class BaseAutoencoder:
    """The autoencoder that a tokenizer has its encoder and decoder from.

    Raises:
        InputError: for a class that there is no adapter for, and a network whose sizes are not told by whole numbers.
    """

    class_name: str
    """Its class: one of `ADAPTERS`."""
    network: dict[str, Any]
    """The configuration of that class, in full."""
    source: str
    """The hub's repository that it came from, or the name of the folder."""
    revision: str | None
    """The commit of that repository; None of a folder."""
    sha256: str
    """Of the file of its weights, as the hub shows it."""

    def __post_init__(self) -> None:
        if self.class_name not in ADAPTERS:
            raise InputError(f"the autoencoder is of class {self.class_name!r}; valid are {', '.join(ADAPTERS)}")
        if self.class_name == OWN and self.network.get("autoencoder"):
            raise InputError(
                "the autoencoder is a tokenizer whose quantizer was transplanted; give the one it has its own from, "
                f"{self.network['autoencoder'].get('source')!r}"
            )
        sizes = (*self.channels, self.latent_channels, self.downsampling)
        if any(type(size) is not int or size < 1 for size in sizes):
            raise InputError(
                f"the network of the autoencoder has the channels {self.channels}, the latent channels "
                f"{self.latent_channels} and the down-sampling {self.downsampling}; each must be at least 1"
            )

    @property
    def adapter(self) -> Adapter:
        """Of its class."""
        return ADAPTERS[self.class_name]

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the images that go in, and that come out."""
        return tuple(self.network.get(name, 0) for name in self.adapter.channels)

    @property
    def latent_channels(self) -> int:
        """Of the latents, L."""
        return next((self.network[name] for name in self.adapter.latents if self.network.get(name)), 0)

    @property
    def downsampling(self) -> int:
        """Pixels per latent along each axis."""
        levels = self.network.get(self.adapter.levels)
        return self.network.get("patch_size", 1) * 2 ** (len(levels) - 1) if isinstance(levels, list | tuple) else 0

    @property
    def image_size(self) -> Any:
        """Height and width of the images that it was made for, if it says so."""
        return self.network.get("image_size") or self.network.get("sample_size")

    def check_fits(self, config: Any) -> None:
        """Raises: InputError: for the configuration of a tokenizer that this cannot be the autoencoder of."""
        if set(self.channels) != {config.channels}:
            raise InputError(f"channels is {config.channels}; those of the autoencoder are {self.channels}")
        if config.latent_channels != self.latent_channels:
            raise InputError(
                f"latent_channels is {config.latent_channels}; the autoencoder's are {self.latent_channels}"
            )
        if self.class_name == OWN and config.image_size != self.image_size:
            raise InputError(f"image_size is {config.image_size}; the tokenizer in it takes {self.image_size}")
        if config.patch_size > 1:
            raise InputError(f"patch_size is {config.patch_size}; with an autoencoder it must be 1")
        if config.codebook_dim > self.latent_channels:
            raise InputError(
                f"codebook_dim is {config.codebook_dim}; it can be {self.latent_channels} at most, the channels of the "
                "latents"
            )

    def build(self) -> nn.Module:
        """The network, of a class of diffusers, with new weights.

        Raises:
            InputError: if diffusers is not installed, or does not know one of the options.
        """
        kind = diffusers_class(self.class_name)
        if unknown := sorted(self.network.keys() - inspect.signature(kind).parameters.keys()):
            raise InputError(f"the {self.class_name} of diffusers that is installed has no option {unknown[0]!r}")
        return kind(**self.network)


def diffusers_class(name: str) -> Any:
    """The class of diffusers.

    Raises:
        InputError: if diffusers is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise InputError(
            f"a {name} is a network of diffusers, which is not installed: pip install 'wvq[diffusers]'"
        ) from error
    return getattr(diffusers, name)


def whole_network(class_name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a class of diffusers with the defaults of those that are not given, as JSON has them.

    So a tokenizer stays what it is where another version has other defaults.
    """
    parameters = inspect.signature(diffusers_class(class_name)).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    derived = ADAPTERS[class_name].derived
    given = {name: value for name, value in options.items() if name[0] != "_" and name not in derived}
    return json.loads(json.dumps(defaults | given))


class _Half(nn.Module):
    """What an autoencoder's network has for one direction, and the scale of its latents."""

    def __init__(self, base: BaseAutoencoder, network: nn.Module, parts: tuple[str, ...]):
        super().__init__()
        self.network, self.adapter = copy.deepcopy(network), base.adapter
        for name, _ in network.named_children():
            if name not in parts:
                delattr(self.network, name)
        # As diffusers' own pipelines have it: (latents - shift) * scale is what they compute with.
        self.scale = base.network.get("scaling_factor") or 1.0
        self.shift = base.network.get("shift_factor") or 0.0
        if not all(isinstance(each, int | float) and math.isfinite(each) for each in (self.scale, self.shift)):
            raise InputError(f"scaling_factor is {self.scale!r} and shift_factor {self.shift!r}; both must be finite")


class LatentEncoder(_Half):
    """Images (B, C, H, W) in [-1, 1] -> latents (B, L, h, w), scaled as the configuration says.

    Args:
        base: the autoencoder.
        network: of it; what only decodes is left out.
    """

    def __init__(self, base: BaseAutoencoder, network: nn.Module):
        super().__init__(base, network, _ENCODING)

    def forward(self, images: Tensor) -> Tensor:
        return (self.adapter.encode(self.network, images) - self.shift) * self.scale


class LatentDecoder(_Half):
    """Latents (B, L, h, w), scaled as the configuration says -> images (B, C, H, W), not clamped.

    Args:
        base: the autoencoder.
        network: of it; what only encodes is left out.
    """

    def __init__(self, base: BaseAutoencoder, network: nn.Module):
        super().__init__(base, network, _DECODING)

    @property
    def last_layer(self) -> nn.Module:
        """The convolution that gives the images."""
        decoder = self.network.get_submodule("decoder")  # what every class calls it
        return [module for module in decoder.modules() if isinstance(module, nn.Conv2d)][-1]

    def forward(self, latents: Tensor) -> Tensor:
        return self.adapter.decode(self.network, latents / self.scale + self.shift)
