"""Images drawn from a pipeline, and the marked part of an image drawn anew."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import repeat
from torch import Tensor

from wvq.tokenizer import InputError

from ..generation import SamplingOptions, image_generator
from .models import Model
from .values import OnStep

ALL_CLASSES = "all in turn"


def draw(
    model: Model, class_name: Any, number: int, options: SamplingOptions, on_step: OnStep
) -> tuple[Tensor, list[str]]:
    """Images of a class, or of all classes in turn: uint8 (number, C, H, W), and the name of each one's class.

    Image i depends on the seed and on i, not, but for rounding, on how many there are.

    Raises:
        InputError: for a class that does not exist; what on_step raises.
    """
    if class_name == ALL_CLASSES and model.classes:
        labels: list[int] | None = [i % len(model.classes) for i in range(number)]
    else:
        label = model.label_of(class_name)
        labels = None if label is None else [label] * number
    made = model.pipeline(
        labels, num_images_per_label=number if labels is None else 1, **_options(number, options, on_step)
    )
    return made.images, [""] * number if labels is None else [model.classes[label] for label in labels]


def draw_marked(
    model: Model,
    image: Tensor,
    marked: Sequence[int],
    class_name: Any,
    number: int,
    options: SamplingOptions,
    on_step: OnStep,
) -> Tensor:
    """An image whose marked positions are drawn anew, `number` times: uint8 (number, C, H, W).

    Args:
        image: uint8 (C, H, W) of the tokenizer's size.
        marked: positions of the token grid in raster order, 0 to h * w - 1.

    Raises:
        InputError: without a mark; for a class that does not exist; what on_step raises.
    """
    if not marked:
        raise InputError("nothing is marked; mark what is to be drawn, or keep fewer rows")
    label = model.label_of(class_name)
    images = repeat(image, "c h w -> n c h w", n=number)
    labels = None if label is None else [label] * number
    mask = pixels_of(marked, model.config.grid_size, model.config.image_size)
    return model.pipeline.inpaint(images, mask, labels, **_options(number, options, on_step)).images


def pixels_of(marked: Sequence[int], grid_size: int, image_size: int) -> Tensor:
    """Marked positions of a grid (h, h) as the pixels that belong to them, bool (H, H)."""
    cells = torch.zeros(grid_size**2, dtype=torch.bool, device="cpu")
    cells[list(marked)] = True
    patch = image_size // grid_size
    return repeat(cells.view(grid_size, grid_size), "h w -> (h p) (w q)", p=patch, q=patch)


def below(rows: int, grid_size: int) -> list[int]:
    """The positions of a grid (h, h) that are left to be drawn if its upper rows are kept."""
    return list(range(rows * grid_size, grid_size**2))


def _options(number: int, options: SamplingOptions, on_step: OnStep) -> dict[str, Any]:
    return {
        "guidance_scale": options.guidance_scale,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "generator": [image_generator(options.seed, i) for i in range(number)],
        "output_type": "uint8",
        "callback_on_step_end": lambda _pipeline, position, total, _tokens: on_step(position + 1, total),
    }
