"""A second opinion on reconstructions: their Fréchet distance in the features of a network that no training saw.

    python -m wvq.eval.studies.second_opinion --tokenizers "[runs/a/model, runs/b/model]" --data.source fashion-mnist

A tokenizer whose discriminator sees the features of a network does better in all networks like it, which rFD of one of
them cannot tell from better images. The AlexNet of ST-LPIPS has seen neither ImageNet's classes nor these images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from wvq.pipelines.processes import this_device
from wvq.tokenizer import VQTokenizer
from wvq.tokenizer.backbones.backbone import Backbone
from wvq.tokenizer.backbones.registry import build_backbone
from wvq.tokenizer.data import DataConfig, ImageDataset, load_splits, to_model, to_uint8
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.atomic import write_json

from ..features.feature_set import read_chunks
from ..metrics.frechet import frechet_distance, mean_and_factor


@dataclass(frozen=True, kw_only=True)
class SecondOpinion:
    """Tokenizers, the images that they reconstruct, and the network that judges."""

    tokenizers: tuple[str, ...]
    """Folders or hub repositories."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images; the held-out ones are reconstructed, in the size that each tokenizer takes."""
    backbone: str = "st-lpips-alex"
    """Frozen network, as for a discriminator; one that none of the tokenizers was trained on."""
    weights: str | None = None
    """File or folder with its weights, where they are not in an installed package."""
    output: str = "runs/second-opinion.json"
    """File of the distances."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokenizers", tuple(self.tokenizers))
        if not self.tokenizers:
            raise InputError("tokenizers is (); give at least one folder")


def second_opinion(config: SecondOpinion) -> list[dict[str, float | str]]:
    """Write and return a row for each tokenizer: `distance`, and `relative`, over the variance of the images' features.

    Raises:
        InputError: for a tokenizer, images or weights that cannot be read.
    """
    backbone = build_backbone(config.backbone, config.weights).to(this_device())
    rows: list[dict[str, float | str]] = []
    for name in config.tokenizers:
        tokenizer = VQTokenizer.from_pretrained(name).to(this_device()).eval()
        _, images = load_splits(config.data.sized(tokenizer.config))
        pairs = [mean_and_factor(vectors) for vectors in pooled_features(tokenizer, images, backbone)]
        distance, variance = float(frechet_distance(*pairs[0], *pairs[1])), float(pairs[0][1].square().sum())
        rows.append({"tokenizer": name, "distance": distance, "relative": distance / variance})
    about = {"backbone": backbone.name, "weights_sha256": backbone.fingerprint, "features": pooled_features.__doc__}
    write_json(Path(config.output), {"protocol": about, "rows": rows})
    return rows


@torch.inference_mode()
def pooled_features(tokenizer: VQTokenizer, images: ImageDataset, backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Means over places of all feature maps, of the images and of their 8-bit reconstructions, each (N, widths)."""
    taken: tuple[list[Tensor], list[Tensor]] = ([], [])
    count, at_once = len(images), 64
    ranges = [range(start, min(start + at_once, count)) for start in range(0, count, at_once)]
    for batch in tqdm(read_chunks(images, ranges), total=len(ranges), unit="batch"):
        originals = batch["images"].to(this_device())
        reconstructions = to_uint8(tokenizer(to_model(originals)).reconstructions)
        for vectors, shown in zip(taken, (originals, reconstructions), strict=True):
            vectors.append(torch.cat([x.mean((2, 3)) for x in backbone(to_model(shown))], dim=1).cpu())
    return torch.cat(taken[0]), torch.cat(taken[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge by the options of the command line."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(description=__doc__)
    parser.add_class_arguments(SecondOpinion)
    for row in second_opinion(SecondOpinion(**vars(parser.instantiate(parser.parse_args(arguments))))):
        print(f"{row['distance']:.4f}  {row['relative']:.4f}  {row['tokenizer']}")


if __name__ == "__main__":
    main()
