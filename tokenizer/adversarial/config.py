"""What a perceptual loss and a discriminator are made of, and how a discriminator trains and is used."""

from dataclasses import dataclass
from typing import Literal

from ..errors import InputError, check_range
from ..storage.untrusted import expand_home


@dataclass(frozen=True, kw_only=True)
class PerceptualConfig:
    """What a perceptual loss sees."""

    backbone: str = "st-lpips-vgg16"
    """Frozen network whose features are compared: st-lpips-vgg16, st-lpips-alex, efficientnet-lite2, or another whose
    weights are given; none that scores."""
    weights: str | None = None
    """File or folder with its weights, where they are not in an installed package."""

    def __post_init__(self) -> None:
        expand_home(self, "weights")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """A discriminator of reconstructions, how it trains, and how the tokenizer comes to see it.

    Raises:
        InputError: for a value outside its bounds.
    """

    kind: Literal["patch", "features"] = "patch"
    """A PatchGAN, or heads over the features of a frozen network."""
    base_channels: int = 64
    """Width of the PatchGAN's first layer; each that halves the image doubles it, up to 8 times."""
    num_layers: int = 3
    """Layers of the PatchGAN that follow the first; all but the last of them halve the image."""
    backbone: str = "st-lpips-vgg16"
    """Frozen network under the heads of kind features."""
    weights: str | None = None
    """File or folder with its weights, where they are not in an installed package."""
    learning_rate: float = 4e-4
    """Peak learning rate of the discriminator (AdamW, betas 0.5 and 0.9, no decay)."""
    lead: int = 500
    """Steps that it trains before the tokenizer sees it, at least 1."""
    ramp: int = 500
    """Steps in which its weight then rises linearly."""
    adaptive: bool = True
    """Whether adversarial_weight is a share of the gradient that the other losses of an image have at the decoder's
    last layer, at most 1e4 times it, or the weight itself."""
    lecam_weight: float = 1e-3
    """Weight of LeCam regularization."""
    r1_weight: float = 0.0
    """Weight of the squared gradient at real images; 0 for none."""
    augmentation: bool = False
    """Whether it sees images in changed colours, moved, and with a part cut out, in ways that gradients pass."""
    max_rollbacks: int = 3
    """Returns of a run whose PSNR falls; after the last it does without the discriminator."""

    def __post_init__(self) -> None:
        expand_home(self, "weights")
        if self.kind not in ("patch", "features"):
            raise InputError(f"discriminator.kind is '{self.kind}'; valid are patch and features")
        check_range(self, "base_channels", "num_layers", "lead", "max_rollbacks", least=1)
        check_range(self, "ramp", "learning_rate", "lecam_weight", "r1_weight", least=0)
