"""A continuous autoencoder of diffusers, trained on a folder of images: one for `wvq transplant` where there is none.

    python -m wvq.eval.studies.continuous_autoencoder --data.source data/emoji --data.image_size 64 --data.channels 3

The run's folder model/ is what diffusers loads: `AutoencoderKL.from_pretrained("runs/continuous/model")`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from torch import Tensor, nn

from wvq.pipelines.training.accelerator import build_accelerator
from wvq.pipelines.training.config import TrainingConfig
from wvq.pipelines.training.loop import Loop
from wvq.pipelines.training.run import Run, finished_model
from wvq.tokenizer import InputError
from wvq.tokenizer.data import ImageDataset, load_splits, to_model, to_uint8
from wvq.tokenizer.data.batches import evenly_spaced
from wvq.tokenizer.errors import check_range
from wvq.tokenizer.image_grid import save_grid

MEASURED = 2_048  # images that the scale of the latents is measured on


@dataclass(frozen=True, kw_only=True)
class ContinuousTraining(TrainingConfig):
    """A training run of an `AutoencoderKL` of diffusers."""

    output_dir: str = "runs/continuous"
    """Folder of the run."""
    block_out_channels: tuple[int, ...] = (16, 32, 64)
    """Width of each resolution, finest first; each after the first halves height and width."""
    layers_per_block: int = 1
    """Residual blocks per resolution of the encoder; the decoder has one more."""
    latent_channels: int = 3
    """Channels of the latents."""
    kl_weight: float = 1e-5
    """Weight of an image's Kullback-Leibler divergence, in nats, beside the mean squared error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "block_out_channels", tuple(self.block_out_channels))
        check_range(self, "layers_per_block", "latent_channels", least=1)
        check_range(self, "kl_weight", least=0)


class SampledReconstruction(nn.Module):
    """Images (B, C, H, W) in [-1, 1] -> their reconstructions from latents that are drawn, and the divergence of these
    from N(0, I), a scalar: the mean over images, in nats."""

    def __init__(self, autoencoder: Any):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.autoencoder.encode(images).latent_dist
        return self.autoencoder.decode(posterior.sample()).sample, posterior.kl().mean()


def train_autoencoder(config: ContinuousTraining) -> Path:
    """Train the autoencoder, or finish training it; returns the folder in diffusers' format.

    Raises:
        InputError: for images that cannot be read, and a folder with a run of another configuration.
    """
    from diffusers import AutoencoderKL

    accelerator = build_accelerator(config)
    if model := finished_model(config):
        return model
    train_set, evaluation_set = load_splits(config.data)
    inputs = {"train images": train_set.fingerprint, "evaluation images": evaluation_set.fingerprint}
    run = Run(config.output_dir, config, accelerator, inputs)
    if run.finished:
        return run.folder / "model"

    set_seed(config.seed)
    channels, height, _ = config.data.shape
    levels = len(config.block_out_channels)
    if height % 2 ** (levels - 1):
        raise InputError(
            f"data.image_size is {height}; with {levels} resolutions it must divide by {2 ** (levels - 1)}"
        )
    autoencoder = AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=8,
        sample_size=config.data.size,
    )
    parameters = [*autoencoder.parameters()]
    groups = [{"params": parameters, "peak": config.learning_rate, "weight_decay": config.weight_decay}]
    fused = accelerator.device.type != "cpu"
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=fused)
    model = SampledReconstruction(autoencoder)
    loop = Loop(run, "continuous autoencoder", model, [optimizer], train_set, config.data.num_workers)
    (optimizer,) = loop.optimizers

    with loop:
        for batch in loop:
            images = to_model(batch["images"])
            if config.data.horizontal_flip:
                images = torch.where(loop.drawn(len(images), 0.5)[:, None, None, None], images.flip(-1), images)
            with loop.step():
                reconstructions, divergence = loop.model(images)
                squared_error = F.mse_loss(reconstructions.float(), images)
                loss = squared_error + config.kl_weight * divergence
                loop.backward(loss, {"loss": loss, "squared_error": squared_error, "divergence": divergence})
                loop.update(optimizer, autoencoder=parameters)
            if loop.due(config.log_every):
                loop.log("images", config.batch_size)
            if loop.due(config.evaluate_every):
                loop.draw(
                    "reconstructions", partial(_write_reconstructions, loop.evaluated.autoencoder, evaluation_set)
                )

        trained = loop.evaluated.autoencoder
        trained.register_to_config(scaling_factor=1 / _latent_std(trained, train_set))
        return run.save_model(trained)


@torch.no_grad()
def _latents(autoencoder: Any, images: Tensor) -> Tensor:
    return autoencoder.encode(to_model(images.to(autoencoder.device))).latent_dist.mode()


def _latent_std(autoencoder: Any, dataset: ImageDataset) -> float:
    """Of all elements of the latents, over images from all over the set."""
    batches = dataset.batches(64, evenly_spaced(len(dataset), MEASURED).tolist())
    return float(torch.cat([_latents(autoencoder, batch["images"]).cpu() for batch in batches]).std())


@torch.no_grad()
def _write_reconstructions(autoencoder: Any, dataset: ImageDataset, path: Path) -> None:
    originals = dataset.take(evenly_spaced(len(dataset), 32))["images"]
    reconstructions = to_uint8(autoencoder.decode(_latents(autoencoder, originals)).sample).cpu()
    rows = [part for pair in zip(originals.split(16), reconstructions.split(16), strict=True) for part in pair]
    save_grid(torch.cat(rows), path, columns=16)


def main() -> None:
    """Train by the options of the command line."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(description=__doc__)
    parser.add_class_arguments(ContinuousTraining)
    print(train_autoencoder(ContinuousTraining(**vars(parser.instantiate(parser.parse_args())))))


if __name__ == "__main__":
    main()
