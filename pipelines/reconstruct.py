"""`wvq reconstruct`: the evaluation images of a source beside what a tokenizer makes of them."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data.batches import evenly_spaced
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.image_grid import image_grid
from wvq.tokenizer.storage.atomic import written_whole

from .base import to_pil
from .processes import this_device
from .reconstruction import ReconstructionPipeline


@dataclass(frozen=True)
class Reconstruction:
    """Reconstructions of evaluation images."""

    tokenizer: str = "runs/tokenizer/model"
    """Folder or hub repository of the tokenizer."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    output_dir: str = "runs/reconstructions"
    """Where originals/, reconstructions/ and grid.png go."""
    num_images: int = 64
    """Images, taken from all over the evaluation split."""


def reconstruct(config: Reconstruction) -> Path:
    """Write originals, reconstructions and a picture of both; returns the output folder.

    Raises:
        InputError: for a tokenizer or images that cannot be read.
    """
    if config.num_images < 1:
        raise InputError(f"num_images is {config.num_images}; it must be at least 1")
    pipeline = ReconstructionPipeline(VQTokenizer.from_pretrained(config.tokenizer))
    pipeline.to(this_device())
    _, evaluation = load_splits(config.data)
    originals = evaluation.take(evenly_spaced(len(evaluation), config.num_images))["images"]
    reconstructions = pipeline(originals, output_type="uint8").images.cpu()
    folder = Path(config.output_dir)
    with written_whole(folder) as partial:
        for name, images in (("originals", originals), ("reconstructions", reconstructions)):
            (partial / name).mkdir()
            for number, picture in enumerate(to_pil(images)):
                picture.save(partial / name / f"{number:06d}.png")
        columns = min(16, len(originals))
        rows = [
            part for pair in zip(originals.split(columns), reconstructions.split(columns), strict=True) for part in pair
        ]
        image_grid(torch.cat(rows), columns=columns, scale=max(1, 64 // originals.shape[-1])).save(partial / "grid.png")
    return folder
