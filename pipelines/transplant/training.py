"""A quantizer put into an autoencoder that exists: `wvq transplant`, whose command is in `wvq.eval.transplant`."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from einops import rearrange
from torch import Tensor, nn

from wvq.tokenizer import InputError, QuantizerOutput, VQTokenizer
from wvq.tokenizer.data import load_splits
from wvq.tokenizer.data.batches import evenly_spaced
from wvq.tokenizer.data.dataset import report_bad_images
from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.errors import check_range
from wvq.tokenizer.storage.hub import HubArguments
from wvq.tokenizer.storage.untrusted import expand_home
from wvq.tokenizer.transplant.latents import LatentDataset
from wvq.tokenizer.transplant.projector import Projector, standardize

from ..train_tokenizer import build_tokenizer_optimizers, evaluate
from ..training.accelerator import build_accelerator
from ..training.config import TrainingConfig
from ..training.loop import Loop
from ..training.run import Run
from .encode_latents import encode_latents
from .source import read_autoencoder, transplanted
from .start_codes import start_from_data

UNTRAINED = "step-0"
"""Folder of a run with the tokenizer before its first step: codes from data, carried to the features' moments."""

_LEAST_VECTORS = 65_536  # that projectors and codes start from, if there are so many; and 4 for each code


@dataclass(frozen=True, kw_only=True)
class TransplantTraining(TrainingConfig):
    """A quantizer and its projectors, trained in a frozen autoencoder. The same command resumes."""

    output_dir: str = "runs/transplant"
    """Folder of the run."""
    autoencoder: str = "runs/continuous/model"
    """Folder or hub repository of the autoencoder: AutoencoderKL, VQModel, AutoencoderDC or AutoencoderTiny of
    diffusers, or a tokenizer of our own."""
    revision: str | None = None
    """Branch, tag or commit of its repository."""
    subfolder: str | None = None
    """Folder in it, such as vae."""
    sha256: str | None = None
    """What the file of its weights must have; by default any."""
    quantizer: str = "wasserstein"
    """Name of the quantizer, as for wvq train-tokenizer; product or residual for several codebooks."""
    quantizer_options: dict[str, Any] = field(default_factory=dict)
    """Options of that quantizer, such as commitment_weight."""
    codebook_size: int = 16384
    """Number of codes, K, of each codebook."""
    codebook_dim: int | None = None
    """Dimension of a code, D; by default the channels of the latents, which are also the most."""
    projector_channels: int = 128
    """Width of the residual projectors to and from the codebook, 1,024 in the paper; 0 for their 1x1 part alone."""
    latents_dir: str = "runs/latents"
    """Folder of the cache of latents, which the training images are encoded into once."""
    steps: int = 10_000
    """Optimizer steps."""
    learning_rate: float = 4e-4
    """Peak learning rate of the projectors (AdamW)."""
    codebook_learning_rate: float = 0.005
    """Peak learning rate of the quantizer's parameters (AdamW, no decay)."""
    weight_decay: float = 1e-5
    """Decoupled weight decay of the projectors."""
    evaluate_every: int = 2_000
    """Steps between evaluations, which also write a picture of reconstructions."""
    evaluation_images: int = 0
    """Images of the evaluation split that are used while training; 0 for all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_home(self, "autoencoder", "latents_dir")
        check_range(self, "codebook_learning_rate", "evaluation_images", "projector_channels", least=0)
        check_range(self, "gradient_accumulation_steps", least=1)


class LatentQuantizer(nn.Module):
    """What is trained of a tokenizer: latents (B, L, h, w) -> those of their codes, and what the quantizer returned."""

    def __init__(self, tokenizer: VQTokenizer):
        super().__init__()
        self.to_codebook, self.quantizer = tokenizer.to_codebook, tokenizer.quantizer
        self.from_codebook = tokenizer.from_codebook

    def forward(self, latents: Tensor) -> tuple[Tensor, QuantizerOutput]:
        quantized = self.quantizer(self.to_codebook(latents))
        return self.from_codebook(quantized.quantized), quantized

    def put_into(self, tokenizer: VQTokenizer) -> VQTokenizer:
        """The tokenizer, with these projectors and this quantizer in place of its own."""
        tokenizer.to_codebook, tokenizer.quantizer = self.to_codebook, self.quantizer
        tokenizer.from_codebook = self.from_codebook
        return tokenizer


def transplant(config: TransplantTraining) -> Path:
    """Put a quantizer into an autoencoder, or finish; returns the folder to give to `VQTokenizer.from_pretrained`.

    Projectors start as the identity, or the principal directions of the latents, and the codes from data. From there
    both are trained on cached latents: their squared error after the projectors, over their variance, and the
    quantizer's own loss.

    Raises:
        InputError: for an autoencoder or images that cannot be read or do not fit, a folder with a run of another
            configuration or in use; and as `train_tokenizer`.
    """
    accelerator = build_accelerator(config)
    place: HubArguments = {"revision": config.revision, "subfolder": config.subfolder}
    base, weights = read_autoencoder(config.autoencoder, config.sha256, **place)
    set_seed(config.seed)
    tokenizer = transplanted(
        base,
        weights,
        image_size=config.data.image_size,
        quantizer=config.quantizer,
        quantizer_options=config.quantizer_options,
        codebook_size=config.codebook_size,
        codebook_dim=config.codebook_dim,
        projector_channels=config.projector_channels,
    ).to(accelerator.device)
    del weights
    config = replace(config, data=config.data.sized(tokenizer.config))
    if (channels := config.data.shape[0]) != tokenizer.config.channels:
        raise InputError(f"data.channels is {channels}; the autoencoder takes {tokenizer.config.channels}")
    train_set, evaluation_set = load_splits(config.data)
    inputs = {"train images": train_set.fingerprint, "evaluation images": evaluation_set.fingerprint}
    run = Run(config.output_dir, config, accelerator, {"autoencoder": base.sha256, **inputs})
    report_bad_images(run.folder, train_set, evaluation_set, accelerator.is_main_process)
    if run.finished:
        return run.folder / "model"

    tokenizer.eval()
    for frozen in (tokenizer.encoder, tokenizer.decoder):
        frozen.requires_grad_(False)
    latents = encode_latents(config.latents_dir, tokenizer, train_set, config.data.horizontal_flip)
    variance = start(tokenizer, latents)
    on_first_process(lambda: tokenizer.save_pretrained(run.folder / UNTRAINED))
    model = LatentQuantizer(tokenizer)
    model.quantizer.accumulation_steps = config.gradient_accumulation_steps
    loop = Loop(run, "transplant", model, build_tokenizer_optimizers(model, config), latents, config.data.num_workers)
    (optimizer,) = loop.optimizers
    projectors, codebook = (group["params"] for group in optimizer.param_groups)

    with loop:
        for batch in loop:
            with loop.step():
                reconstructed, quantized = loop.model(batch["latents"])
                latent_loss = F.mse_loss(reconstructed.float(), batch["latents"]) / variance
                loss = latent_loss + quantized.loss
                loop.backward(loss, {"loss": loss, "latent_loss": latent_loss} | quantized.terms)
                loop.update(optimizer, projectors=projectors, codebook=codebook)
            if loop.due(config.log_every):
                loop.log("images", config.batch_size)
            if loop.due(config.evaluate_every):
                evaluate(loop, loop.evaluated.put_into(tokenizer), evaluation_set, config)

        return run.save_model(loop.evaluated.put_into(tokenizer))


@torch.no_grad()
def start(tokenizer: VQTokenizer, latents: LatentDataset) -> float:
    """Have projectors and codes start from latents of images from all over the set; returns the latents' variance.

    Raises:
        InputError: if there are fewer latents than codes, or all are the same.
    """
    assert isinstance(tokenizer.to_codebook, Projector)
    assert isinstance(tokenizer.from_codebook, Projector)
    wanted = max(_LEAST_VECTORS, 4 * tokenizer.config.codebook_size)
    chosen = evenly_spaced(len(latents), -(-wanted // tokenizer.config.num_positions))
    some = latents.take(chosen)["latents"].to(tokenizer.device)
    variance = float(some.var())
    if not variance > 0:
        raise InputError("all latents of the training images are the same; this autoencoder has not been trained")
    standardize(tokenizer.to_codebook, tokenizer.from_codebook, rearrange(some, "b l h w -> (b h w) l"))
    start_from_data(tokenizer.quantizer, rearrange(tokenizer.to_codebook(some), "b d h w -> (b h w) d"))
    return variance
