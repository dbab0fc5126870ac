"""The fields that several tabs have: the class, how it is drawn, and a picture of one's own or of the test images."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from wvq.tokenizer.errors import LARGEST_SEED

from ..drawing import ALL_CLASSES
from ..models import Model
from .context import Context
from .parts import file_field


def class_field(context: Context, all_in_turn: bool = False) -> gr.Dropdown:
    """The classes of the model in use; any text is taken, and refused where it is looked up."""

    def choices(model: Model) -> dict[str, Any]:
        names = ([ALL_CLASSES] if all_in_turn and model.classes else []) + model.classes
        return {"choices": names, "value": names[0] if names else None, "visible": bool(names)}

    field = gr.Dropdown(label="Class", allow_custom_value=True, **choices(context.models[0]))
    if len(context.models) > 1:
        context.on(context.chosen.change, lambda name: gr.update(**choices(context.model(name))), context.chosen, field)
    return field


def number_field(context: Context, value: int) -> gr.Number:
    """How many images."""
    most = context.limits.max_images
    return gr.Number(label=f"Images, at most {most}", value=min(value, most), precision=0)


def sampling_fields(context: Context) -> list[gr.Number]:
    """The arguments of `sampling_options`, in their order."""
    guidance = 1.5 if all(model.classes for model in context.models) else 1
    with gr.Row():
        main = [
            gr.Number(label="Guidance scale, 1 for none", value=guidance, step=0.1, min_width=120),
            gr.Number(label="Temperature, 0 is greedy", value=1, step=0.1, min_width=120),
        ]
    with gr.Accordion("Truncation", open=False), gr.Row():
        truncation = [
            gr.Number(label="Top-k, 0 for all", value=0, precision=0, min_width=100),
            gr.Number(label="Top-p, 1 for all", value=1, step=0.05, min_width=100),
            gr.Number(label="Min-p, 0 for all", value=0, step=0.01, min_width=100),
        ]
    return [*main, *truncation, gr.Number(label=f"Seed, at most {LARGEST_SEED:,}", value=0, precision=0)]


@dataclass(frozen=True)
class PictureFields:
    """A picture: the `file` holds it as a data URL, wherever it is from; `number` and `take` choose a test image."""

    file: gr.HTML
    number: gr.Number
    take: gr.Button


def picture_fields(context: Context) -> PictureFields:
    """Where a picture is chosen; without test images their fields are not shown."""
    some = any(model.test_images is not None for model in context.models)
    with gr.Row():
        number = gr.Number(label="Test image", value=0, precision=0, visible=some, min_width=100)
        take = gr.Button("Take this test image", visible=some, min_width=140, elem_classes="low")
    return PictureFields(file_field(context.limits.max_bytes), number, take)
