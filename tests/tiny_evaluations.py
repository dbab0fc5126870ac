"""Images, tokenizers and pipelines of toy size to be scored."""

from pathlib import Path

import torch
from fixtures import CLASS_FOLDERS
from PIL import Image
from torch import Tensor, nn

from wvq.eval import Extractor
from wvq.pipelines import ClassConditionalPipeline
from wvq.prior import PriorConfig, build_prior
from wvq.tokenizer import TokenizerConfig, VQTokenizer


class Tiny(Extractor):
    """Projections of the pixels; 12 dimensions and 5 classes."""

    name = "tiny"
    dimension = 12  # pyright: ignore[reportAssignmentType]
    input_size = 28
    resize = "none"
    weights_sha256 = "0" * 64

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(12, 3 * 28 * 28, generator=generator) / 28, requires_grad=False)
        self.eval()

    def features(self, images: Tensor) -> Tensor:
        return (images.flatten(1).float() / 64 @ self.weight.mT).relu()

    def logits(self, features: Tensor) -> Tensor:
        return features[:, :5]


def tiny_pipeline_folder(parent: Path) -> Path:
    """A saved pipeline of a tiny tokenizer and prior for 28x28 RGB images of the ten classes of the fixtures."""
    torch.manual_seed(0)
    config = TokenizerConfig(
        image_size=28, channels=3, base_channels=8, channel_multipliers=(1, 1, 1), num_blocks=1, latent_channels=8,
        codebook_size=16, codebook_dim=4, quantizer_options={"init_std": 1.0},
    )  # fmt: skip
    tokenizer = VQTokenizer(config).eval()
    prior = build_prior(
        PriorConfig(hidden_size=16, num_layers=1, num_heads=2, num_codes=16, num_tokens=49, num_classes=10)
    )
    prior.config.tokenizer_fingerprint = tokenizer.fingerprint
    ClassConditionalPipeline(tokenizer, prior, tuple(sorted(CLASS_FOLDERS))).save_pretrained(parent / "model")
    return parent / "model"


def save(images: Tensor, folder: Path) -> str:
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{index:03d}.png")
    return str(folder)
