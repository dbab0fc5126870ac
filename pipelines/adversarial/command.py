"""`wvq train-tokenizer`, with the loop that its losses need, and `wvq refine-tokenizer`."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.storage.untrusted import expand_home

from ..train_tokenizer import ReconstructionTraining, TokenizerTraining, train_tokenizer
from .loop import train_adversarial


@dataclass(frozen=True, kw_only=True)
class TokenizerRefinement(ReconstructionTraining):
    """A further training of a tokenizer that is trained. The same command resumes from the run's newest checkpoint."""

    output_dir: str = "runs/refined-tokenizer"
    """Folder of the run."""
    tokenizer: str = "runs/tokenizer/model"
    """Folder or hub repository of the trained tokenizer."""
    refine: Literal["all", "decoder"] = "decoder"
    """What is trained: all of it, or the decoder alone, so that images keep their tokens and a prior of them fits."""
    steps: int = 20_000
    """Optimizer steps."""
    learning_rate: float = 1e-4
    """Peak learning rate of encoder and decoder (AdamW)."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights that is evaluated and saved; 0 for none, and for 0.999
    where there is a discriminator."""
    perceptual_weight: float = 1.0
    """Weight of the perceptual loss beside the reconstruction loss; 0 for none."""
    adversarial_weight: float = 0.1
    """Weight of what the discriminator makes of the reconstructions, after its ramp; 0 for no discriminator."""
    discriminator_start: int | None = 0
    """Steps before the discriminator trains; by default half of all in `wvq train-tokenizer`, none in
    `wvq refine-tokenizer`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_home(self, "tokenizer")
        if self.refine not in ("all", "decoder"):
            raise InputError(f"refine is '{self.refine}'; valid are all and decoder")


def train_stage_one(config: TokenizerTraining) -> Path:
    """`train_tokenizer` or, where there is another loss than the error of the pixels, `train_adversarial`.

    Raises:
        InputError: as they do.
    """
    if config.perceptual_weight or config.adversarial_weight:
        return train_adversarial(config, partial(VQTokenizer, config.model))
    return train_tokenizer(config)


def refine_tokenizer(config: TokenizerRefinement) -> Path:
    """Train a trained tokenizer further, or finish that; returns the folder of the one that comes out.

    Raises:
        InputError: for a tokenizer that cannot be read, and as `train_adversarial`.
    """
    tokenizer = VQTokenizer.from_pretrained(config.tokenizer)
    config = replace(config, data=config.data.sized(tokenizer.config))
    made = partial(trained_tokenizer, config.tokenizer, config.refine)
    return train_adversarial(config, made, {"tokenizer": tokenizer.fingerprint})


def trained_tokenizer(source: str, refine: Literal["all", "decoder"]) -> VQTokenizer:
    """A tokenizer from a folder or hub repository, with what is not to be trained frozen."""
    tokenizer = VQTokenizer.from_pretrained(source)
    if refine == "decoder":
        for part in (tokenizer.encoder, tokenizer.to_codebook, tokenizer.quantizer):
            part.requires_grad_(False)
    return tokenizer
