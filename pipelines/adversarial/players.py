"""A tokenizer and the discriminator of its reconstructions, as one module with one forward pass."""

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from wvq.tokenizer import VQTokenizer
from wvq.tokenizer.adversarial.augmentation import augment
from wvq.tokenizer.adversarial.config import DiscriminatorConfig
from wvq.tokenizer.adversarial.discriminators import Discriminator, FeatureDiscriminator, PatchDiscriminator
from wvq.tokenizer.adversarial.losses import LeCam, hinge_discriminator_loss, hinge_generator_loss, r1_penalty
from wvq.tokenizer.model import TokenizerOutput

LECAM_DECAY = 0.999  # of the means of logits, for a step
TERMS = ("adversarial_loss", "discriminator_loss", "real_logits", "fake_logits", "lecam", "r1")


class Game(NamedTuple):
    """What a forward pass gives for the discriminator: scalars.

    Attributes:
        adversarial_loss: of the tokenizer, whose gradient reaches the reconstructions alone; 0 while it is not used.
        discriminator_loss: whose gradient reaches the discriminator's weights alone; 0 while it does not train.
        terms: for metrics, by the names in `TERMS`.
    """

    adversarial_loss: Tensor
    discriminator_loss: Tensor
    terms: dict[str, Tensor]


class Players(nn.Module):
    """A tokenizer and a discriminator, if there is one, whose losses share no weights: one backward pass serves both.

    Of a tokenizer whose encoder is frozen the codes do not move either.

    Args:
        tokenizer: that is trained.
        discriminator: of images that are as large, or None.
        config: of the discriminator.
        accumulation_steps: forward passes of an optimizer step.
    """

    def __init__(
        self,
        tokenizer: VQTokenizer,
        discriminator: Discriminator | None,
        config: DiscriminatorConfig,
        accumulation_steps: int = 1,
    ):
        super().__init__()
        self.tokenizer, self.discriminator, self.config = tokenizer, discriminator, config
        tokenizer.quantizer.accumulation_steps = accumulation_steps
        self.learns_codes = any(parameter.requires_grad for parameter in tokenizer.encoder.parameters())
        self.lecam = LeCam(LECAM_DECAY ** (1 / accumulation_steps))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.tokenizer.quantizer.train(mode and self.learns_codes)
        return self

    def forward(
        self, images: Tensor, plays: bool = False, judges: bool = False, draws: Tensor | None = None
    ) -> tuple[TokenizerOutput, Game | None]:
        """Reconstruct images (B, C, H, W) in [-1, 1], and let the discriminator see them.

        Args:
            images: the originals.
            plays: whether the discriminator trains.
            judges: whether the tokenizer sees it.
            draws: of `augmentation_draws`, for what it sees; None for the images as they are.
        """
        with torch.set_grad_enabled(self.learns_codes and torch.is_grad_enabled()):
            latents = self.tokenizer.features(images)
            quantized = self.tokenizer.quantizer(latents)
        reconstructions = self.tokenizer.images(quantized.quantized)
        output = TokenizerOutput(reconstructions, latents, quantized)
        if (discriminator := self.discriminator) is None:
            return output, None
        zero = torch.zeros((), device=images.device)
        terms: dict[str, Tensor] = dict.fromkeys(TERMS, zero)
        if not plays:  # several processes wait for a gradient of every weight
            idle = sum((parameter.sum() for parameter in discriminator.parameters()), start=zero)
            return output, Game(zero, 0 * idle, terms)

        def seen(shown: Tensor) -> Tensor:
            return shown if draws is None else augment(shown, draws.to(shown.device))

        originals = images.detach().requires_grad_(self.config.r1_weight > 0)
        of_originals = discriminator.features(seen(originals))
        features = discriminator.features(seen(reconstructions if judges else reconstructions.detach()))
        pairs = zip(of_originals, features, strict=True)
        real, fake = discriminator([torch.cat([a, b.detach()]) for a, b in pairs]).chunk(2)
        terms["lecam"] = self.lecam(real, fake)
        loss = hinge_discriminator_loss(real, fake) + self.config.lecam_weight * terms["lecam"]
        if self.config.r1_weight > 0:
            terms["r1"] = r1_penalty(originals, real)
            loss = loss + self.config.r1_weight * terms["r1"]
        terms |= {"discriminator_loss": loss, "real_logits": real.float().mean(), "fake_logits": fake.float().mean()}
        if judges:
            frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
            judged = functional_call(discriminator, frozen, (features,))
            terms["adversarial_loss"] = hinge_generator_loss(judged)
        return output, Game(terms["adversarial_loss"], loss, {name: term.detach() for name, term in terms.items()})

    @property
    def last_layer(self) -> Tensor:
        """The weights that give the reconstructions, whose gradients `adaptive_weight` compares."""
        weight = self.tokenizer.decoder.last_layer.weight
        assert isinstance(weight, Tensor)
        return weight


def build_discriminator(shape: tuple[int, int, int], config: DiscriminatorConfig) -> Discriminator:
    """The discriminator that a configuration describes, of images (C, H, W); it has seen one, of zeros.

    Raises:
        InputError: for images that are too small for it, or a frozen network that is not there.
    """
    if config.kind == "features":
        discriminator: Discriminator = FeatureDiscriminator(config.backbone, config.weights)
    else:
        discriminator = PatchDiscriminator(shape[0], config.base_channels, config.num_layers)
    with torch.no_grad():
        discriminator.judge(torch.zeros(1, *shape, device="cpu"))
    return discriminator
