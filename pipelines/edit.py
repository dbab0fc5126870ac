"""`wvq edit`: a part of a picture drawn anew, several times, each from its own random numbers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from wvq.tokenizer import InputError
from wvq.tokenizer.data.decoding import BadImage, open_picture
from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.errors import check_range
from wvq.tokenizer.image_grid import image_grid
from wvq.tokenizer.image_size import ImageSize
from wvq.tokenizer.storage.atomic import check_output_folder, write_json, written_whole
from wvq.tokenizer.storage.untrusted import expand_home

from .base import ImagePipelineOutput, sized_picture, to_pil
from .class_conditional import ClassConditionalPipeline
from .editing.masked_images import WHITE, MaskedImages, masked_images
from .editing.masks import below, outside
from .generation import SamplingOptions, sample_images
from .processes import this_device, this_process


@dataclass(frozen=True)
class Edit(SamplingOptions):
    """A picture of which a part is drawn anew: give a mask, the rows or the box that are kept."""

    pipeline: str = "runs/pipeline"
    """Folder or hub repository of the pipeline."""
    image: str = ""
    """File of the picture, of any size; it gets the crop and resize of training."""
    mask: str | None = None
    """File of a picture of the same size, white where to draw."""
    rows: int | None = None
    """Uppermost rows of pixels that are kept, of the pipeline's images."""
    box: tuple[int, int, int, int] | None = None
    """Left, top, right and bottom of what is kept, in pixels of the pipeline's images."""
    class_label: str | None = None
    """Name or number of the picture's class; none for a prior without classes."""
    num_images: int = 8
    """Times that it is drawn."""
    output_dir: str = "runs/edits"
    """Where images/, grid.png and edit.json go."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_home(self, "pipeline", "image", "mask", "output_dir")
        check_range(self, "num_images", least=1)


def edit(config: Edit) -> Path:
    """Write the results and a sheet of the picture, its mask and them; returns the output folder.

    Of several processes the first one works. A collective call.

    Raises:
        InputError: for a pipeline, a picture or a mask that cannot be used, a mask, rows or a box that leave nothing to
            draw, a class that does not exist, or an output folder that holds anything else.
    """
    this_process()
    return on_first_process(partial(_edit, config))


def _edit(config: Edit) -> Path:
    check_output_folder(Path(config.output_dir), ("images", "grid.png", "edit.json"))
    if not config.image:
        raise InputError("image is ''; give the file of a picture")
    asked = [name for name in ("mask", "rows", "box") if getattr(config, name) is not None]
    if len(asked) != 1:
        raise InputError(f"what to draw is said by {' and '.join(asked) or 'nothing'}; give one of mask, rows and box")
    picture = _read("image", config.image)
    pipeline = ClassConditionalPipeline.from_pretrained(config.pipeline)
    pipeline.to(this_device())
    sizes = pipeline.tokenizer.config
    mask = _mask(config, sizes.image_size)
    given = masked_images(picture, mask, sizes)
    if not given.hidden.any():
        raise InputError(_why_nothing_is_drawn(config, mask))
    labels = pipeline.labels_of(config.class_label).expand(config.num_images)
    drawn = partial(_drawn, pipeline, given)
    images = torch.cat([some.cpu() for some in sample_images(pipeline, labels, config, draw=drawn)])
    folder = Path(config.output_dir)
    with written_whole(folder) as new:
        (new / "images").mkdir()
        for number, result in enumerate(to_pil(images)):
            result.save(new / "images" / f"{number:06d}.png")
        before = sized_picture(picture, sizes.image_size, sizes.channels)[None]
        white = given.hidden[:, None].expand_as(before) * torch.tensor(255, dtype=torch.uint8, device="cpu")
        sheet = torch.cat([before, white, images])
        image_grid(sheet, columns=min(len(sheet), 16), scale=max(1, 64 // max(before.shape[-2:]))).save(
            new / "grid.png"
        )
        about = {**asdict(config), "labels": labels.tolist(), "class_names": list(pipeline.class_names)}
        write_json(new / "edit.json", about)
    return folder


def _mask(config: Edit, image_size: ImageSize) -> Tensor | Image.Image:
    """What is drawn, as a picture or in pixels of the pipeline's images."""
    if config.rows is not None:
        return below(config.rows, image_size)
    if config.box is not None:
        return outside(config.box, image_size)
    mask = _read("mask", config.mask or "")
    return mask.convert("L") if mask.mode in ("P", "RGB") else mask  # transparency has no agreed meaning


def _why_nothing_is_drawn(config: Edit, mask: Tensor | Image.Image) -> str:
    if isinstance(mask, Image.Image):
        return (
            f"mask {config.mask} hides nothing: its highest grey value is {mask.getextrema()[1]}; "
            f"what is to be drawn must be white, {WHITE} and above, and in what the crop of training keeps"
        )
    if config.rows is not None:
        return f"rows is {config.rows}, all that the pipeline's images have; keep fewer, so that some are drawn"
    return f"box is {config.box}, all of the pipeline's images; keep less, so that something is drawn"


def _drawn(
    pipeline: ClassConditionalPipeline,
    given: MaskedImages,
    numbers: Sequence[int],
    class_labels: list[int] | None,
    **options: Any,
) -> ImagePipelineOutput:
    """The results of one image that have these numbers."""
    options["num_images_per_label"] = len(numbers)
    return pipeline.inpaint(given.pixels, given.hidden, class_labels and class_labels[:1], **options)


def _read(option: str, path: str) -> Image.Image:
    try:
        return open_picture(Path(path).read_bytes())
    except (OSError, BadImage) as error:
        raise InputError(f"{option} {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
