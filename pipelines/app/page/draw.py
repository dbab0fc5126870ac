"""Tab: images drawn from a class."""

from typing import Any

import gradio as gr

from ..drawing import draw
from ..values import sampling_options, whole_number
from .context import PROGRESS, Context
from .controls import class_field, number_field, sampling_fields
from .parts import picture_list, pictures


def draw_tab(context: Context) -> None:
    """Class, options and a gallery; the same seed draws the same images, however many."""

    def show(name: Any, class_name: Any, number: Any, *options: Any, progress: gr.Progress = PROGRESS) -> str:
        model = context.model(name)
        count = whole_number("number of images", number, 1, context.limits.max_images)
        images, classes = draw(model, class_name, count, sampling_options(*options), context.on_step(progress))
        return pictures(images, [f"{i}: {of}" if of else str(i) for i, of in enumerate(classes)], "drawn")

    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            of_class, number = class_field(context, all_in_turn=True), number_field(context, 20)
            options = sampling_fields(context)
            button = gr.Button("Draw images", variant="primary")
        with gr.Column(scale=2, min_width=300):
            gallery = picture_list("“Draw images” shows images here.")
    context.on(button.click, show, [context.chosen, of_class, number, *options], gallery)
