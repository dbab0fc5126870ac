"""`wvq reconstruct`: the evaluation images of a source beside what a tokenizer makes of them."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from wvq.tokenizer import VQTokenizer
from wvq.tokenizer.data.batches import evenly_spaced
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.errors import check_range
from wvq.tokenizer.image_grid import image_grid
from wvq.tokenizer.storage.atomic import check_output_folder, written_whole
from wvq.tokenizer.storage.untrusted import expand_home

from .base import to_pil
from .processes import this_device, this_process
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

    def __post_init__(self) -> None:
        expand_home(self, "tokenizer", "output_dir")
        check_range(self, "num_images", least=1)


def reconstruct(config: Reconstruction) -> Path:
    """Write originals, reconstructions and a picture of both; returns the output folder.

    Of several processes the first one works. A collective call.

    Raises:
        InputError: for a tokenizer or images that cannot be read, or an output folder that holds anything else.
    """
    this_process()
    return on_first_process(partial(_reconstruct, config))


def _reconstruct(config: Reconstruction) -> Path:
    check_output_folder(Path(config.output_dir), ("originals", "reconstructions", "grid.png"))
    pipeline = ReconstructionPipeline(VQTokenizer.from_pretrained(config.tokenizer))
    pipeline.to(this_device())
    _, evaluation = load_splits(config.data.sized(pipeline.tokenizer.config))
    originals = evaluation.take(evenly_spaced(len(evaluation), config.num_images))["images"]
    reconstructions = pipeline(originals, output_type="uint8").images.cpu()
    folder = Path(config.output_dir)
    with written_whole(folder) as new:
        for name, images in (("originals", originals), ("reconstructions", reconstructions)):
            (new / name).mkdir()
            for number, picture in enumerate(to_pil(images)):
                picture.save(new / name / f"{number:06d}.png")
        columns = min(16, len(originals))
        rows = [
            part for pair in zip(originals.split(columns), reconstructions.split(columns), strict=True) for part in pair
        ]
        image_grid(torch.cat(rows), columns=columns, scale=max(1, 64 // originals.shape[-1])).save(new / "grid.png")
    return folder
