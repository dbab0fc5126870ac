"""`wvq sample`: pictures from a pipeline, each from its own random numbers."""

import math
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from wvq.tokenizer import InputError
from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.image_grid import image_grid
from wvq.tokenizer.storage.atomic import check_output_folder, write_json, written_whole
from wvq.tokenizer.storage.untrusted import read_json

from .base import to_pil
from .class_conditional import ClassConditionalPipeline
from .generation import Sampling, sample_images
from .processes import this_device, this_process
from .sample_set import sample_set


def sample(config: Sampling) -> Path:
    """Generate and write images; returns the output folder.

    Several processes share a large set; a small one is drawn by the first of them. A collective call.

    Raises:
        InputError: for a pipeline that cannot be loaded, a class that does not exist, or an output folder that holds
            anything else.
    """
    this_process()
    return _sample(config) if config.num_images else on_first_process(partial(_sample, config))


def _sample(config: Sampling) -> Path:
    if not config.num_images:
        _check_folder(Path(config.output_dir))
    pipeline = ClassConditionalPipeline.from_pretrained(config.pipeline)
    pipeline.to(this_device())
    num_classes = pipeline.prior.config.num_classes
    given = list(config.classes) or list(range(num_classes)) or None
    classes = pipeline.labels_of(given)
    if config.num_images:
        return sample_set(pipeline, classes[torch.arange(config.num_images) % len(classes)], config)
    labels = classes.repeat_interleave(config.num_images_per_class)
    images = torch.cat([batch.cpu() for batch in sample_images(pipeline, labels, config)])
    folder = Path(config.output_dir)
    with written_whole(folder) as new:
        (new / "images").mkdir()
        for number, picture in enumerate(to_pil(images)):
            picture.save(new / "images" / f"{number:06d}.png")
        columns = config.num_images_per_class if num_classes else math.ceil(math.sqrt(len(images)))
        image_grid(images, columns=min(columns, 16), scale=max(1, 64 // images.shape[-1])).save(new / "grid.png")
        names = [pipeline.class_names[label] if pipeline.class_names else label for label in labels.tolist()]
        about = {**asdict(config), "labels": labels.tolist(), "classes_of_images": names}
        write_json(new / "samples.json", about | {"class_names": list(pipeline.class_names)})
    return folder


def _check_folder(folder: Path) -> None:
    """Raises: InputError: unless it is new, or holds a few samples of another call, which are replaced."""
    check_output_folder(folder, ("images", "grid.png", "samples.json"))
    note = folder / "samples.json"
    if note.exists() and (count := read_json(note).get("num_images")):
        raise InputError(f"{folder} holds a set of {count:,} images, by num_images; give another output_dir")
